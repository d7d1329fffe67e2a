"""Insert each defect seen in published cards into a good card; the lint must find it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

import support.finished_cell as given
from flagrelease.errors import GateFailed
from flagrelease.stages.card import lint, render
from flagrelease.stages.card.checks.page import Page
from flagrelease.stages.card.record import Record, loads

PNG = {"scores.png": b"\x89PNG\r\n\x1a\n"}
RECORD = given.record()
GOOD = render.render(RECORD, given.TEMPLATES)


def findings(text: str, made: Record = RECORD) -> list[str]:
    return [finding.text for finding in lint.lint(text, made, PNG)]


def broken(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def test_a_good_card_has_no_findings_and_says_what_was_checked() -> None:
    assert lint.check(GOOD, RECORD, PNG, "README.md") == (*lint.CHECKS, *lint.RECORD_CHECKS)


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("---\nlicense", "license", "no front matter"),
        ("license: apache-2.0", "license: mit", "license is 'mit', the record has 'apache-2.0'"),
        ("license: apache-2.0", "license: [", "the front matter is not YAML"),
        ("- HuggingFaceTB/SmolLM2-135M-Instruct", "- SmolLM2", "hubs need [ORGANISATION/NAME]"),
        ("- en", "- english", "language is not a list of ISO 639 codes"),
        ("pipeline_tag: text-generation", "pipeline_tag: chat", "pipeline_tag is not text-generation"),
        ("## Introduction", "## Intro", "section 'Introduction' is missing"),
        ("### Environment Setup", "##### Environment Setup", "heading 'Environment Setup' skips a level"),
        ("## Contributing", "# Contributing", "2 level-1 headings"),
        ("```python", "```bash", "Python code in a bash block"),
        ("```python", "```", "code block has language ''"),
        ("max_tokens=256,\n)", "max_tokens=256,\n", "not Python"),
        ("print(response.choices[0].message.content)\n```", "print(1)\n", "code block is not closed"),
        ("--detach \\\n", "--detach \\ \n", "space after the line-continuation backslash"),
        ("| Item | Version |\n| --- | --- |", "| Item | Version |", "a table needs a header"),
        ("| Docker | 20.10.24+dfsg1 |", "| Docker | 20.10.24+dfsg1 | x |", "3 cells in a table of 2 columns"),
        ("| Docker | 20.10.24+dfsg1 |", "| Docker | - |", "cell '-' is empty"),
        ("| Docker | 20.10.24+dfsg1 |", "| Docker | None |", "cell 'None' is empty"),
        ("| 0.290 |", "| 0.291 |", "the record has `MMLU_0fewshot_@avg1` | 0.285 | 0.290"),
        ("| +0.005 |", "| −0.005 |", "the record has"),
        ("| 0.050 | PASS |", "| 0.050 | FAIL |", "the record has"),
        ("sha256:" + "3f" * 32, "sha256:" + "4f" * 32, "is not localhost:5000/flagrelease"),
        ("`" + "ab" * 32, "`" + "ba" * 32, "digest babababababa… is not in the record"),
        ("-cx_none-", "-cx_0.9-", "is not tree_none"),
        (
            "--dest /nfs/models/SmolLM2-135M-Instruct",
            "--dest /nfs/models/SmolLM2",
            "is not under /nfs/models/SmolLM2-135M",
        ),
        ("docker run \\", "docker run --rm \\", "docker run is not the command that started"),
        ("mkdir -p /nfs", "mkdir -p /root/x /nfs", "a path of the machine that built the release"),
        ("](https://anythingllm.com/)", "](http://anythingllm.com/)", "neither https nor a file of the release"),
        ("](https://anythingllm.com/)", "](javascript:alert(1))", "neither https nor a file of the release"),
        ("](scores.png)", "](other.png)", "scores.png is not shown on the card"),
        ("send a question.", "send <b>a</b> question.", "raw HTML"),
        ("**PASS**", "**PASS", "** is not closed"),
        ("send a question.", "TODO", "placeholder 'TODO'"),
        ("send a question.", "see <server_ip>", "placeholder '<server_ip>'"),
        ("send a question.", "{{ question }}", "placeholder '{{'"),
        ("send a question.", "新模型介绍，待定", "text that is not English"),
        ("send a question.", "ghp_0123456789abcdefghij", "contains a secret"),
        ("send a question.", "see [it][1].\n\n[1]: http://plain.example/", "neither https nor a file of the release"),
        ("send a question.", "see <ftp://files.example/>", "neither https nor a file of the release"),
        ("send a question.", "\n\n<div>\nhidden\n</div>\n", "raw HTML"),
        ("## Contributing", "Contributing\n=======", "2 level-1 headings"),
        ("send a question.", "send it.\n\n   ```sh\n   x\n   ```\n", "code block has language 'sh'"),
        ("| Docker | 20.10.24+dfsg1 |", "| Docker | TODO |", "placeholder 'TODO'"),
    ],
)
def test_a_defect_is_found(old: str, new: str, finding: str) -> None:
    assert any(finding in text for text in findings(broken(old, new))), findings(broken(old, new))


def test_the_line_is_reported() -> None:
    text = broken("send a question.", "TODO.")
    line = next(at for at, row in enumerate(text.splitlines(), 1) if "TODO" in row)
    with pytest.raises(GateFailed) as caught:
        lint.check(text, RECORD, PNG, "README.md")
    assert caught.value.exit_code == 4
    assert caught.value.detail == f"README.md:{line}: placeholder 'TODO'"


@pytest.mark.parametrize(
    "text",
    [
        r"two \*\* and \<b> and \[no link\](x).",
        "`**`, `<b>`, `[x](y)` and `TODO`.",
        "a code span of ``two ` backticks and TODO``.",
        "&lt;b&gt; and `{{`.",
    ],
)
def test_escaped_text_and_code_are_not_defects(text: str) -> None:
    assert findings(broken("send a question.", text)) == []


def test_a_pipe_in_a_cell_is_text() -> None:
    assert findings(broken("| Docker | 20.10.24+dfsg1 |", r"| Docker | \| 20.10 |")) == []


def test_a_defect_later_in_a_paragraph_is_reported_on_its_own_line() -> None:
    text = broken("send a question.", "send a question\nand another\nTODO.")
    line = text.splitlines().index("TODO.") + 1
    assert [finding.line for finding in lint.lint(text, RECORD, PNG)] == [line]


@pytest.mark.parametrize(("errors", "truncated", "defect"), [(0, 0, False), (2, 197, False), (2, 198, True)])
def test_a_score_of_zero_is_a_defect_only_if_nothing_was_answered(errors: int, truncated: int, defect: bool) -> None:
    score = given.score(candidate=0.0, baseline=0.0, difference=0.0, errors=errors, truncated=truncated)
    made = given.record(accuracy=given.accuracy(score))
    assert any("a score of 0" in text for text in findings(render.render(made, given.TEMPLATES), made)) is defect


def test_a_released_score_has_a_baseline() -> None:
    made = given.record(accuracy=given.accuracy(given.score(baseline=None, difference=None, interval90=None)))
    assert "cell '–' is empty" in findings(render.render(made, given.TEMPLATES), made)


@pytest.mark.parametrize("metric", ["LiveBench-0fewshot_@avg1", "MUSR_0fewshot_@avg", "MMLU"])
def test_metrics_have_one_spelling(metric: str) -> None:
    made = given.record(accuracy=given.accuracy(given.score(metric=metric)))
    assert any("does not match NAME_" in text for text in findings(render.render(made, given.TEMPLATES), made))


def test_a_metric_may_contain_an_underscore() -> None:
    made = given.record(accuracy=given.accuracy(given.score(metric="GPQA_Diamond_0fewshot_@avg8")))
    assert not any("does not match NAME_" in text for text in findings(render.render(made, given.TEMPLATES), made))


def test_the_served_folder_is_the_downloaded_one() -> None:
    smoke = given.smoke(given.image().reference)
    argv = tuple(word.replace("=/nfs/models/", "=/data/models/") for word in smoke.docker_run)
    made = given.record(smoke=replace(smoke, docker_run=argv))
    found = findings(render.render(made, given.TEMPLATES), made)
    assert any("docker run mounts /data/models/SmolLM2-135M-Instruct" in text for text in found)


def test_a_base_image_is_named_by_its_digest_too() -> None:
    """As it is for every chip whose base image is pinned."""
    base = f"harbor.example.org/flagos-base/metax@sha256:{'b' * 64}"
    made = given.record(image=replace(given.image(), base=base))
    assert findings(render.render(made, given.TEMPLATES), made) == []
    other = render.render(made, given.TEMPLATES).replace(base, base.replace("metax", "hygon"))
    assert any("is not" in text and "hygon" in text for text in findings(other, made))


def test_an_image_is_a_picture() -> None:
    found = lint.lint(GOOD, RECORD, {"scores.png": b"<svg/>"})
    assert [finding.text for finding in found] == ["scores.png is not a PNG image"]


def test_the_operators_are_those_of_the_record() -> None:
    made = replace(RECORD, kernels=given.kernels())
    good = render.render(made, given.TEMPLATES)
    assert findings(good, made) == []
    faster = good.replace("| `mm` | 20 | 4 |", "| `mm` | 20 | 5 |")
    assert any("'Operator in effect' differs from the record" in text for text in findings(faster, made))
    hidden = "\n".join(line for line in good.splitlines() if not line.startswith("| `mul` |"))
    assert any("'Operator left out' differs from the record" in text for text in findings(hidden, made))
    assert any("2 rows, not 0" in text for text in findings(good, RECORD))


CUT = "Write your first question and send it to the model that was released"


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("send a question.", "send a question to the.", "the sentence is cut off after 'to the.'"),
        ("send a question.", f"go on. {CUT}", "the sentence is cut off after 'was released'"),
        ("send a question.", "send it to multiple public.", "the sentence is cut off after 'multiple public.'"),
        ("send a question.", "see https://x.example/a\uff0c.", "a URL runs into the text after it"),
        ("| Item | Version |", "| Item | Version: 1.2 |", "'Version: 1.2' in the header row is a value"),
        ("--detach \\\n", "--detach\\\n", "no space before the line-continuation backslash"),
        ("How many days", "<your_question>", "placeholder '<your_question>'"),
        ("print(response.choices", "for r in response: print(r.choices", "response is not a stream"),
        ("    max_tokens=256,\n)", "    stream=True,\n)", "response is a stream: it has no choices"),
        ("client.chat.completions.create", "openai.ChatCompletion.create", "was removed in version 1"),
        ("@sha256:" + "3f" * 32 + "\n```", ":latest\n```", "has the tag latest, which moves"),
        ("@sha256:" + "3f" * 32 + "\n```", "\n```", "has neither tag nor digest"),
        ("tags:\n", "labels:\n", "front matter: no tags"),
        ("license: apache-2.0\n", "", "front matter: no license"),
    ],
)
def test_a_defect_that_needs_no_record_is_found_without_one(old: str, new: str, finding: str) -> None:
    found = [found.text for found in lint.lint(broken(old, new), None, PNG)]
    assert any(finding in text for text in found), found


def test_a_good_card_has_no_findings_without_its_record() -> None:
    assert lint.lint(GOOD, None, PNG) == []


HEAD = "---\nlicense: mit\nbase_model: a/b\npipeline_tag: text-generation\ntags: [x]\n---\n\n# Card\n\n"


def elsewhere(body: str) -> list[tuple[int, str]]:
    """(line, text) of the findings on a card with this text and nothing else."""
    return [(finding.line - HEAD.count("\n"), finding.text) for finding in lint.lint(HEAD + body, None, {})]


@pytest.mark.parametrize(
    ("rows", "finding"),
    [
        (("AIME_0fewshot_@avg1 | 0.7", "MUSR_0fewshot_@avg | 0.6"), "'MUSR_0fewshot_@avg' does not match"),
        (("aime | 0.7", "ERQA | 0.6"), "metrics are spelled in several ways: ERQA, aime"),
        (("AIME | 0.0", "ERQA | 0.6"), "a score of 0.0: a missing score is not 0"),
        (("AIME | 70.1", "ERQA | 0.6"), "a score of 70.1 among fractions of 1"),
        (("AIME | Evaluating", "ERQA | 0.6"), "placeholder 'Evaluating'"),
        (("AIME | -", "ERQA | 0.6"), "cell '-' is empty"),
    ],
)
def test_the_scores_of_a_card_from_elsewhere(rows: tuple[str, ...], finding: str) -> None:
    found = elsewhere("| Metrics | FlagOS |\n| --- | --- |\n" + "".join(f"| {row} |\n" for row in rows))
    assert len(found) == 1
    assert finding in found[0][1]
    assert elsewhere("| Metrics | FlagOS |\n| --- | --- |\n| AIME | 70.1 |\n| ERQA | 60 % |\n") == []


DOWNLOAD = "modelscope download --model a/b --local_dir /nfs/models/b"
RUN = "docker run -itd -v /nfs:/nfs --name x host/x@sha256:0 bash"


@pytest.mark.parametrize(
    ("commands", "finding"),
    [
        ((DOWNLOAD, RUN, "docker exec x vllm serve /nfs/models/b"), ""),
        ((DOWNLOAD, RUN, "docker exec x vllm serve /nfs/models/c"), "/nfs/models/c is served, but the weights are"),
        ((DOWNLOAD, RUN, "docker exec x vllm serve /nfs/models/b/"), "/nfs/models/b/ ends with /"),
        ((DOWNLOAD, RUN, "vllm serve /nfs/models/b"), "runs on the host: the container runs bash"),
        ((DOWNLOAD, RUN.replace("/nfs:/nfs", "/data:/nfs")), "no docker run mounts /nfs/models/b"),
        ((DOWNLOAD, RUN.replace("/nfs:/nfs", "/nfs/models:/m"), "docker exec x vllm serve /m/b"), ""),
        (("cat <<'A'\nan 'open quote\nA", "docker pull host/x:latest"), "x has the tag latest"),
        (("echo 'an\nopen' && docker pull host:5000/x",), "x has neither tag nor digest"),
    ],
)
def test_the_commands_of_a_card_from_elsewhere(commands: tuple[str, ...], finding: str) -> None:
    found = elsewhere("```bash\n" + "\n".join(commands) + "\n```\n")
    assert [text for _, text in found if finding not in text] == []
    assert len(found) == bool(finding)


def test_a_chinese_card_may_be_chinese() -> None:
    text = "本镜像包含该模型的全部设置，并已在相同的问题上与基线进行比较，评测结果如下表所示。\n"
    assert elsewhere(text) == []
    assert any("not English" in found for _, found in elsewhere(f"{GOOD.partition('# ')[2]}\n{text}"))


SEED = Path(__file__).parents[5] / "shared/seed/Qwen3-8B-Metax.md"


@pytest.mark.skipif(not SEED.exists(), reason="the seed card is not on this machine")
def test_the_documentation_lists_what_the_seed_card_has() -> None:
    found = [f"| {at.line} | {at.severity} | {at.text} |" for at in lint.lint(SEED.read_text(), None, {})]
    page = (Path(__file__).parents[4] / "docs/card.md").read_text()
    assert [line for line in page.splitlines() if re.match(r"\| \d+ \| (error|warning) \|", line)] == found


def executed(**not_run: str) -> Record:
    """A record whose commands were run, except those with a reason."""
    shown = render.commands_of(RECORD)
    ran = {name: text for name, text in shown.items() if name not in not_run}
    return replace(RECORD, smoke=replace(RECORD.smoke, commands=ran, not_run=not_run))


def test_every_command_was_run_or_has_a_reason() -> None:
    made = executed(download="no hub here", verify="no hub here")
    text = render.render(made, given.TEMPLATES)
    assert findings(text, made) == []
    assert "Not executed: download, verify (no hub here)." in text
    silent = replace(made, smoke=replace(made.smoke, not_run={"verify": "no hub here"}))
    found = findings(render.render(silent, given.TEMPLATES), silent)
    assert found == ["the command 'download' was not run, and no reason is given"]
    changed = text.replace("How many days", "How many hours", 1)
    assert findings(changed, made) == ["is not one of the commands of the card that smoke knows"]


FOLDER = Path(__file__).parents[4] / "docs/seed-card"


@pytest.mark.parametrize("name", ["README.md", "README_zh.md"])
def test_the_re_created_card_has_none_of_these_defects(name: str) -> None:
    text, made = (FOLDER / name).read_text(), loads((FOLDER / "release.json").read_bytes())
    beside = {"scores.png": b"", "README.md": b""}
    assert {finding.text for finding in lint.lint(text, None, beside)} == {"cell '–' is empty"}
    page = Page(text, made, beside)
    assert (
        list(lint.findings(page, [*lint.CHECKS, "scores equal the record", "one path from download to service"])) == []
    )
    shown = [(row.metric, row.baseline, row.candidate) for row in made.accuracy.benchmarks]
    assert shown[:2] == [("AIME_0fewshot_@avg1", 0.7, 0.733), ("GPQA_0fewshot_@avg1", 0.507, 0.503)]


@pytest.mark.skipif(not SEED.exists(), reason="the seed card is not on this machine")
def test_the_re_created_card_has_the_scores_of_the_published_one() -> None:
    made = loads((FOLDER / "release.json").read_bytes())
    rows = Page(SEED.read_text(), None, {}).tables[0].rows[2:]
    assert [(f"{row.baseline:.3f}", f"{row.candidate:.3f}") for row in made.accuracy.benchmarks] == [
        cells[1:] for cells in rows
    ]


def test_a_card_of_facts_does_not_claim_measurements() -> None:
    facts = given.accuracy(given.score(interval90=None, verdict="INCONCLUSIVE"), verdict="INCONCLUSIVE", reason="none")
    made = given.record(accuracy=replace(facts, questions_asked=0))
    made = replace(made, smoke=replace(made.smoke, checks=(), ready_seconds=0.0), stages=())
    text = render.render(made, given.TEMPLATES)
    assert "Nothing on this page was measured by flagrelease." in text
    for claim in ("requests failed", "Questions asked", "Loading took", "built, served and evaluated", "byte for byte"):
        assert claim not in text
        assert claim in GOOD
    assert findings(text, made) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "---\n---\n",
        "---\ndate: 2026-13-45\n---\n",
        "---\n- a\n---\n",
        "---\nlicense: {a: [b]}\nbase_model: 3\nlanguage: {x: y}\ntags: 5\n---\n",
        "---\na: &a [x]\nb: [*a, *a]\n---\n",
        "```python\n\0\n```\n",
        f"```python\n{'(' * 5000}\n```\n",
        "```bash\nimport os\n" + "x = " + "-" * 20000 + "1\n```\n",
        "```bash\ndocker run\n```\n",
        "```bash\ndocker run -v\ndocker pull\n| && ;\nmodelscope download\nvllm serve\npython -m\n```\n",
        "```bash\ncat <<EOF\nnever closed\n```\n",
        "| Metric |\n| --- |\n|\n",
        "> " * 500 + "deep\n",
        "[x](" + "a/" * 3000 + ")\n",
    ],
    ids=range(15),
)
def test_any_text_gets_findings_and_no_error(text: str) -> None:
    assert all(finding.line >= 1 and finding.text for finding in lint.lint(text, None, {}))
