"""matrix.yaml is read strictly: each mistake is one line with file, line number and a suggestion."""

from pathlib import Path

import pytest

from flagrelease.config import matrix, strict_yaml
from flagrelease.config.cell import expand
from flagrelease.errors import ConfigError

ROOT = Path(__file__).parents[3]
GOOD = """\
version: 1
registry: localhost:5000/x
defaults: {baseline: {chip: cpu}, profile: quick}
chips:
  cpu:
    vendor: cpu
    device: {name: CPU, code: cpu, query: lscpu}
    base: "base:1"
    components: {flagscale: "0.8", flaggems: none}
models:
  tiny:
    title: Tiny
    source: file:///tmp/tiny
    upstream: me/tiny
    license: mit
    serve: {name: tiny, engine: llama_cpp}
benchmarks:
  sums: {title: Sums, task: integer, data: data://sums.jsonl, license: MIT}
profiles:
  quick: {benchmarks: {sums: {limit: 3}}}
"""


def read(text: str) -> matrix.Matrix:
    return strict_yaml.loads(text.encode(), matrix.Matrix)


def test_the_shipped_matrix_loads() -> None:
    loaded = matrix.load(ROOT / "matrix.yaml")
    assert {"cpu", "nvidia-h100", "metax"} <= set(loaded.chips)
    assert {"smollm2-135m", "qwen3-8b"} <= set(loaded.models)


def test_a_good_one() -> None:
    loaded = read(GOOD)
    assert loaded.chips["cpu"].components.flagscale == "0.8"
    assert loaded.profiles["quick"].benchmarks["sums"].limit == 3


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("license: mit", "licence: mit", "matrix.yaml:15: unknown key 'models.tiny.licence'|did you mean 'license'?"),
        ("    vendor: cpu\n", "    vendor: cpu\n    vendor: cpu\n", "matrix.yaml:7: 'chips.cpu.vendor' is given twice"),
        ('flagscale: "0.8"', "flagscale: 0.8", "matrix.yaml:9: chips.cpu.components.flagscale is '0.8', which is not"),
        ("vendor: cpu", "vendor: no", "matrix.yaml:6: chips.cpu.vendor is 'no', which is not text"),
        ("limit: 3", "limit: three", "matrix.yaml:20: profiles.quick.benchmarks.sums.limit is 'three' and must be"),
        ("limit: 3", "limit: 012", "is '012' and must be a whole number"),
        (
            "engine: llama_cpp",
            "engine: lama_cpp",
            "models.tiny.serve.engine: unknown serving engine|did you mean 'llama_cpp'?",
        ),
        ("version: 1", "version: 2", "matrix.yaml:1: version is 2, which is not known"),
        (
            "chip: cpu}",
            "chip: cpv}",
            "matrix.yaml:3: defaults.baseline.chip is 'cpv'; did you mean 'cpu'?",
        ),
        ("profile: quick", "profile: quik", "matrix.yaml:3: defaults.profile is 'quik'; did you mean 'quick'?"),
        (
            "    vendor: cpu\n",
            "    profile: quik\n    vendor: cpu\n",
            "matrix.yaml:6: chips.cpu.profile is 'quik'; did you mean 'quick'?",
        ),
        (
            "{benchmarks: {sums: {limit: 3}}}",
            "\n    benchmarks:\n      sumz: {}",
            "matrix.yaml:22: profiles.quick.benchmarks.sumz is not a benchmark; did you mean 'sums'?",
        ),
        ("{sums: {limit: 3}}", "{}", "matrix.yaml:20: profiles.quick.benchmarks is empty"),
        (
            "source: file:///tmp/tiny",
            "source: ftp://x",
            "matrix.yaml:13: models.tiny.source: 'ftp://x' is not a source|modelscope, pypi; write one of pypi://",
        ),
        ("source: file:///tmp/tiny", "source: modelscop://a/b", "did you mean 'modelscope'?"),
        ("source: file:///tmp/tiny", "source: hf://one", "models.tiny.source: 'hf://one' is not a hf source"),
        ("source: file:///tmp/tiny", "source: data://x", "'data://x' is not a source"),
        ("data: data://sums.jsonl", "data: dat://x", "matrix.yaml:18: benchmarks.sums.data: |did you mean 'data'?"),
        ("data: data://sums.jsonl", "data: hf://one", "benchmarks.sums.data: 'hf://one' is not a hf source"),
        (
            "vendor: cpu",
            "vendor: nvidea",
            "matrix.yaml:6: chips.cpu.vendor: unknown vendor|did you mean 'nvidia'?",
        ),
        ("vendor: cpu", "vendor: acme", "unknown vendor 'acme'|A new vendor is an entry of flagkernels/vendors.json"),
        ("  cpu:\n", "  CPU:\n", "matrix.yaml:5: chips.CPU is not a name: a name consists of lower-case letters"),
        ("registry: localhost:5000/x", "registry: &a localhost\nx: *a", "aliases are not allowed"),
        ("registry: localhost:5000/x", "registry: !!python/name:os.system x", "tag"),
        ("registry: localhost:5000/x", "registry: [", "matrix.yaml:"),
        ("registry: localhost:5000/x", "\tregistry: x", "matrix.yaml:2"),
        ("  quick: {benchmarks: {sums: {limit: 3}}}", "", "profiles must be a mapping"),
        (
            "profile: quick}",
            "profile: quick, kernels: {budget: soon}}",
            "'soon' is not a duration: write 90s, 10m or 2h",
        ),
        ("profile: quick}", "profile: quick, kernels: {limit: 0s}}", "'0s' is not a duration"),
        ("profile: quick}", "profile: quick, kernels: {policy: expres}}", "did you mean 'express'?"),
        ("profile: quick}", "profile: quick, rounds: -1}", "rounds must be >= 0"),
        ("profile: quick}", "profile: quick, kernels: {max_len: 1}}", "max_len must be at least 2"),
        (
            "profile: quick}",
            "profile: quick, kernels: {min_speed_ratio: 98}}",
            "min_speed_ratio is 98|above 0 and at most 1",
        ),
        ("engine: llama_cpp", "engine: vllm, args: {max_num_seqs: many}", "args.max_num_seqs is 'many'|1 or more"),
        ("engine: llama_cpp", "engine: vllm, args: {max_num_batched_tokens: 0}", "args.max_num_batched_tokens is 0"),
        ("engine: llama_cpp", "engine: llama_cpp, concurrency: 0", "concurrency is 0"),
        ("engine: llama_cpp", "engine: sglang, args: {chunked_prefill_size: 0}", "args.chunked_prefill_size is 0"),
        (
            "engine: llama_cpp",
            "engine: llama_cpp, beside: true",
            "matrix.yaml:16: 'models.tiny.serve.beside' is now 'colocate'|write colocate",
        ),
        (
            "profile: quick}",
            "profile: quick, kernels: {floor: 0.9}}",
            "matrix.yaml:3: 'defaults.kernels.floor' is now 'min_speed_ratio'|write min_speed_ratio",
        ),
        (
            "    license: mit\n",
            "    license: mit\n    on: {cpu: {notes: [x]}}\n",
            "matrix.yaml:16: 'models.tiny.on' is now 'per_chip'|write per_chip",
        ),
    ],
)
def test_mistakes(old: str, new: str, expected: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        read(GOOD.replace(old, new, 1))
    said = f"{caught.value.line()}|{caught.value.hint}"
    for part in expected.split("|"):
        assert part in said


SERVE = "models.tiny.serve"
SUMS, TINY = "benchmarks.sums", "models.tiny"
MARGIN = "out of range, it must be above 0 and below 0.5|a margin is a fraction: 0.05 is 5 percentage points"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("license: MIT", "license: MIT, margin: 5", f"matrix.yaml:18: {SUMS}.margin: 5 is {MARGIN}"),
        ("license: MIT", "license: MIT, margin: 0", f"{SUMS}.margin: 0 is {MARGIN}"),
        ("license: MIT", "license: MIT, margin: -0.05", f"{SUMS}.margin: -0.05 is {MARGIN}"),
        ("license: MIT", "license: MIT, margin: 0.5", f"{SUMS}.margin: 0.5 is {MARGIN}"),
        ("license: MIT", "license: MIT, repeats: 0", f"{SUMS}.repeats: 0 is out of range, it must be at least 1"),
        ("license: MIT", "license: MIT, total: 0", f"{SUMS}.total: 0 is out of range, it must be at least 1"),
        ("license: MIT", "license: MIT, shots: -1", f"{SUMS}.shots: -1 is out of range, it must be at least 0"),
        ("license: MIT", "license: ' '", f"{SUMS}.license: ' ' is not a line of text"),
        (
            "task: integer",
            "task: intger",
            f"matrix.yaml:18: {SUMS}.task: unknown task 'intger'|did you mean 'integer'?",
        ),
        ("title: Sums", "title: My Sums", f"{SUMS}.title: 'My Sums' is not a title of a benchmark|TITLE_<n>fewshot"),
        ("limit: 3", "limit: 0", "matrix.yaml:20: profiles.quick.benchmarks.sums.limit: 0 is out of range"),
        ("limit: 3", "limit: -5", "benchmarks.sums.limit: -5 is out of range, it must be at least 1"),
        ("limit: 3", "repeats: 0", "profiles.quick.benchmarks.sums.repeats: 0 is out of range"),
        ("title: Tiny", 'title: ""', f"matrix.yaml:12: {TINY}.title: '' is not a title of a model"),
        ("title: Tiny", "title: ../up", f"{TINY}.title: '../up' is not a title of a model|folder of the weights"),
        ("title: Tiny", "title: a/b", f"{TINY}.title: 'a/b' is not a title of a model"),
        ("name: tiny", 'name: "a b"', f"{SERVE}.name: 'a b' is not a name"),
        ('flagscale: "0.8"', "flagscale: a b", "chips.cpu.components.flagscale: 'a b' is not a version|tag"),
        ('flagscale: "0.8"', "flagscale: none", "matrix.yaml:9: chips.cpu.components.flagscale is none"),
        ('base: "base:1"', 'base: ""', "matrix.yaml:8: chips.cpu.base: '' is not an image reference"),
        ('base: "base:1"', 'base: "base:1@sha256:0"', "chips.cpu.base: 'base:1@sha256:0' is not|has the digest"),
        ("vendor: cpu", 'vendor: cpu\n    python: "3"', "chips.cpu.python: '3' is not a Python version|MAJOR.MINOR"),
        (
            "vendor: cpu",
            "vendor: cpu\n    reasons:\n      flagem: x",
            "matrix.yaml:8: chips.cpu.reasons.flagem is not a component; did you mean 'flaggems'?",
        ),
        ("vendor: cpu", "vendor: cpu\n    container: {shm: 32 gigs}", "container.shm: '32 gigs' is not a size"),
        ("vendor: cpu", "vendor: cpu\n    hosts: []", "matrix.yaml:7: chips.cpu.hosts: it is empty"),
        ('flagscale: "0.8"', "flagscale: ０.8", "components.flagscale: '０.8' is not a version"),
        ("limit: 3", f"limit: {'9' * 5000}", "and must be a whole number"),
        ("license: MIT", "license: MIT, margin: 1e999", f"{SUMS}.margin is '1e999' and must be a number"),
        ("upstream: me/tiny", "upstream: tiny", f"matrix.yaml:14: {TINY}.upstream: 'tiny' is not the name|ORG/NAME"),
        ("license: mit", "license: Apache-2.0", f"{TINY}.license: 'Apache-2.0' is not a licence identifier|lower-case"),
        ("license: mit", "license: mit\n    languages: [en, zh-CN]", f"{TINY}.languages[1]: 'zh-CN' is not an ISO 639"),
        ("llama_cpp}", "llama_cpp, port: 80000}", f"{SERVE}.port: 80000 is out of range, it must be at least 1 and at"),
        ("llama_cpp}", "llama_cpp, ready_seconds: 0}", f"{SERVE}.ready_seconds: 0 is out of range, it must be above 0"),
        ("llama_cpp}", "llama_cpp, max_model_len: 8}", f"matrix.yaml:16: {SERVE}.max_model_len: 8 is out of range"),
        (
            "llama_cpp}",
            "llama_cpp, max_model_len: 1024}",
            f"matrix.yaml:16: {SERVE}.max_model_len is 1024, but sampling.max_tokens is 1024, which leaves no room",
        ),
        (
            "llama_cpp}",
            "llama_cpp}\n    sampling: {temperature: -1}",
            "matrix.yaml:17: models.tiny.sampling.temperature: -1 is out of range, it must be at least 0 and at most 2",
        ),
        (
            "llama_cpp}",
            "llama_cpp}\n    sampling: {top_p: 0}",
            "top_p: 0 is out of range, it must be above 0 and at most",
        ),
        ("llama_cpp}", "llama_cpp}\n    sampling: {top_p: 95}", "top_p: 95 is out of range"),
        ("llama_cpp}", "llama_cpp}\n    sampling: {top_k: 0}", "top_k: 0 is out of range, it must be at least 1"),
        ("llama_cpp}", "llama_cpp}\n    sampling: {max_tokens: -1}", "max_tokens: -1 is out of range"),
        (
            "{sums: {limit: 3}}}",
            "{sums: {}}, speed: [{input: 9, output: 9, concurrency: [1], slo: {ttft: 0}}]}",
            "profiles.quick.speed[0].slo.ttft: 0 is out of range, it must be above 0",
        ),
        (
            "{sums: {limit: 3}}}",
            "{sums: {}}, speed: [{input: 9, output: 9, concurrency: [1, 2]}, {input: 9, output: 9, concurrency: [2]}]}",
            "matrix.yaml:20: profiles.quick.speed[1] has a load that the profile has already",
        ),
    ],
)
def test_values_out_of_range(old: str, new: str, expected: str) -> None:
    test_mistakes(old, new, expected)


@pytest.mark.parametrize(
    "title",
    [
        *("a:b", "a\\0b", "a\\tb", "a\\rb", "a\\x1bb", "a\\x7fb", "a\\x85b", "a\\u2028b", "a\\u202eb", "a\\nb"),
        *("..", "a..b", ".a", "-a", "--rm", " a", "a ", "\\u3000a", "a\\u00a0", "a/b", "/", "x" * 201, "\\u4e2d" * 67),
    ],
)
def test_a_title_of_a_model_is_the_name_of_a_folder(title: str) -> None:
    said = "is not a title of a model|it also names the folder of the weights; write no / or :"
    test_mistakes("title: Tiny", f'title: "{title}"', f"matrix.yaml:12: {TINY}.title: |{said}")


@pytest.mark.parametrize(
    "title",
    [
        *("Qwen3-8B", "DeepSeek-R1-0528", "Llama 3.1 (8B)", "GLM-4.5V", "C4AI_Command-R+", "悟道 天鹰-34B"),
        *("Ágora é 1", "x", "x.", "x" * 200, "Yi-34B_chat", "BERT (v1.5)", "(a)", "_a"),
    ],
)
def test_titles_of_published_models_are_accepted(title: str) -> None:
    assert read(GOOD.replace("title: Tiny", f'title: "{title}"', 1)).models["tiny"].title == title


@pytest.mark.parametrize("text", ["a\\tb", "a\\rb", "a\\0", "\\x1b[1m", "a\\u2028b", "a\\x85b"])
def test_a_line_of_text_has_no_control_characters(text: str) -> None:
    test_mistakes("license: MIT", f'license: "{text}"', f"matrix.yaml:18: {SUMS}.license: |is not a line of text")


EXCLUDE = """\
exclude:
  - {chip: cpu, model: "t*", reason: too slow}
  - chip: CHIP
    model: MODEL
    reason: WHY
"""


@pytest.mark.parametrize(
    ("chip", "model", "why", "expected"),
    [
        ("cup", "tiny", "x", "matrix.yaml:23: exclude[1].chip is 'cup', which matches no chip; did you mean 'cpu'?"),
        (
            "cpu",
            "tony",
            "x",
            "matrix.yaml:24: exclude[1].model is 'tony', which matches no model; did you mean 'tiny'?",
        ),
        ('"gpu-*"', "tiny", "x", "matrix.yaml:23: exclude[1].chip is 'gpu-*', which matches no chip"),
        ("cpu", "tiny", '""', "matrix.yaml:25: exclude[1].reason: '' is not a text"),
    ],
)
def test_an_exclusion_that_excludes_nothing(chip: str, model: str, why: str, expected: str) -> None:
    rules = EXCLUDE.replace("CHIP", chip).replace("MODEL", model).replace("WHY", why)
    with pytest.raises(ConfigError) as caught:
        read(GOOD + rules)
    assert expected in caught.value.line()


def test_exclusions_by_name_and_by_glob() -> None:
    rules = EXCLUDE.replace("CHIP", '"*"').replace("MODEL", "tiny").replace("WHY", "x")
    assert [cell.excluded for cell in expand(read(GOOD + rules))] == ["too slow"]


PER_CHIP = """\
    per_chip:
      gpu:
        serve: {name: tiny, engine: vllm, convert: safetensors}
        notes: [unpacked]
        kernels: {policy: coverage, budget: 1m}
        baseline: {chip: same}
        profile: quick
"""
TWO = GOOD.replace(
    "models:\n",
    """\
  gpu:
    vendor: nvidia
    device: {name: GPU, code: gpu, query: gpu-smi}
    base: "base:2"
    components: {flagscale: "0.8", flaggems: none}
models:
""",
).replace("benchmarks:\n", f"{PER_CHIP}benchmarks:\n", 1)


def test_what_a_model_has_otherwise_on_a_chip_replaces_its_own_there_only() -> None:
    at = {cell.id: cell for cell in expand(read(TWO))}
    gpu, cpu = at["gpu/tiny"].model, at["cpu/tiny"].model
    assert (gpu.serve.engine, gpu.serve.convert, gpu.notes) == ("vllm", "safetensors", ("unpacked",))
    assert (cpu.serve.engine, cpu.serve.convert, cpu.notes) == ("llama_cpp", None, ())
    assert gpu.sampling == cpu.sampling
    assert at["gpu/tiny"].baseline.chip == "gpu"
    assert at["cpu/tiny"].baseline.chip == "cpu"
    assert not gpu.per_chip
    assert (at["gpu/tiny"].kernels.policy, at["cpu/tiny"].kernels.policy) == ("coverage", "express")


def test_what_the_matrix_leaves_out_of_a_chip_is_its_vendors() -> None:
    at = {cell.id: cell for cell in expand(read(TWO.replace(", query: lscpu", "")))}
    gpu, cpu = at["gpu/tiny"], at["cpu/tiny"]
    assert gpu.chip.device.query == "gpu-smi", "the matrix's own command wins"
    assert cpu.chip.device.query == "lscpu"
    assert (gpu.kernels.device, cpu.kernels.device) == ("cuda", "cpu")
    own = read(TWO.replace("budget: 1m}", "budget: 1m, device: npu}"))
    assert {cell.kernels.device for cell in expand(own)} == {"npu", "cpu"}
    assert (gpu.holds_both, cpu.holds_both) == (False, True)
    both = read(TWO.replace("convert: safetensors", "convert: safetensors, colocate: true"))
    assert all(cell.holds_both for cell in expand(both))


def test_a_profile_of_a_model_on_a_chip_gives_way_to_the_one_asked_for() -> None:
    both = "  quick: {benchmarks: {sums: {limit: 3}}}\n  long: {benchmarks: {sums: {}}}\n"
    text = TWO.replace("  quick: {benchmarks: {sums: {limit: 3}}}\n", both).replace(
        "profile: quick\n", "profile: long\n"
    )
    names = {cell.id: cell.profile_name for cell in expand(read(text))}
    assert names == {"cpu/tiny": "quick", "gpu/tiny": "long"}
    assert {cell.profile_name for cell in expand(read(text), profile="quick")} == {"quick"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "      gpu:\n        serve",
            "      gpv:\n        serve",
            "matrix.yaml:23: models.tiny.per_chip.gpv is not a chip; did you mean 'gpu'?",
        ),
        ("convert: safetensors", "convert: safetensor", "did you mean 'safetensors'?"),
        ("notes: [unpacked]", "note: [unpacked]", "unknown key 'models.tiny.per_chip.gpu.note'|did you mean 'notes'?"),
        ("        profile: quick\n", "        profile: quik\n", "models.tiny.per_chip.gpu.profile is 'quik'"),
        ("baseline: {chip: same}", "baseline: {chip: gpv}", "models.tiny.per_chip.gpu.baseline.chip is 'gpv'"),
        ("serve: {name: tiny, engine: vllm, convert", "serve: {engine: vllm, convert", "lacks 'name'"),
    ],
)
def test_mistakes_in_what_a_chip_has_otherwise(old: str, new: str, expected: str) -> None:
    assert old in TWO
    with pytest.raises(ConfigError) as caught:
        read(TWO.replace(old, new, 1))
    said = f"{caught.value.line()}|{caught.value.hint}"
    for part in expected.split("|"):
        assert part in said


def test_an_empty_file_says_how_to_replace_it() -> None:
    with pytest.raises(ConfigError, match="is empty") as caught:
        strict_yaml.loads(b"# nothing\n", matrix.Matrix, "m.yaml")
    assert caught.value.hint == "delete it, then run `flagrelease init --matrix m.yaml`"


def test_bombs_end_at_once() -> None:
    bomb = "a: &a [x,x]\n" + "\n".join(f"b{n}: &b{n} [*a,*a]" for n in range(9))
    for raw in (bomb, "[" * 2000, "a: " * 5000, "x" * (1 << 21), "", "\0", "\ud800" if False else "a: \x07"):
        with pytest.raises(ConfigError):
            strict_yaml.loads(raw.encode(), matrix.Matrix)


def test_an_absent_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist") as caught:
        matrix.load(tmp_path / "matrix.yaml")
    assert "flagrelease init" in caught.value.hint
