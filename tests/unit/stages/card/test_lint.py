"""Insert each defect seen in published cards into a good card; the lint must find it."""

from dataclasses import replace

import pytest

import support.finished_cell as given
from flagrelease.errors import GateFailed
from flagrelease.stages.card import lint, render
from flagrelease.stages.card.record import Record

PNG = {"scores.png": b"\x89PNG\r\n\x1a\n"}
RECORD = given.record()
GOOD = render.render(RECORD, given.TEMPLATES)


def findings(text: str, made: Record = RECORD) -> list[str]:
    return [finding.text for finding in lint.lint(text, made, PNG)]


def broken(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def test_a_good_card_has_no_findings_and_says_what_was_checked() -> None:
    assert lint.check(GOOD, RECORD, PNG, "README.md") == tuple(lint.CHECKS)


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
    text = broken("send a question.", "TODO")
    line = next(at for at, row in enumerate(text.splitlines(), 1) if "TODO" in row)
    with pytest.raises(GateFailed) as caught:
        lint.check(text, RECORD, PNG, "README.md")
    assert caught.value.exit_code == 4
    assert caught.value.detail == f"README.md:{line}: placeholder 'TODO'"


@pytest.mark.parametrize(
    "text",
    [
        r"two \*\* and \<b> and \[no link\](x)",
        "`**`, `<b>`, `[x](y)` and `TODO`",
        "a code span of ``two ` backticks and TODO``",
        "&lt;b&gt; and `{{`",
    ],
)
def test_escaped_text_and_code_are_not_defects(text: str) -> None:
    assert findings(broken("send a question.", text)) == []


def test_a_pipe_in_a_cell_is_text() -> None:
    assert findings(broken("| Docker | 20.10.24+dfsg1 |", r"| Docker | \| 20.10 |")) == []


def test_a_defect_later_in_a_paragraph_is_reported_on_its_own_line() -> None:
    text = broken("send a question.", "send a question\nand another\nTODO")
    line = text.splitlines().index("TODO") + 1
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
