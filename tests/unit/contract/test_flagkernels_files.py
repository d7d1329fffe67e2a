"""The host reads what flagkernels writes; flagkernels' own tests write the same golden files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flagkernels.attribute.attribute import Attribution, Measurement, Round
from flagkernels.files import write_json
from flagrelease.contract import flagkernels_files as files
from flagrelease.contract.results import ExcludedOperator, Tuning
from flagrelease.errors import EnvironmentFault

GOLDEN = Path(__file__).parents[2] / "support/golden"


def test_a_report() -> None:
    report = files.read_report(GOLDEN / "report.json")
    assert (report.policy, report.execution, report.requests) == ("express", "compiled", "mixed")
    assert report.operators == ("mm",)
    assert report.verdicts == {"correct": 2, "crash": 1}
    assert report.excluded[0] == ExcludedOperator(operator="cat", verdict="excluded", reason="issue 17")
    assert report.tuning == Tuning(kernels=1, keys=1, candidates=12, seconds=37.5)
    figures = report.limits.operators["mm"]
    assert (figures.classes, figures.faster) == (1, 1)
    assert (figures.share, figures.native_share) == ((0.4, 0.4, 0.4), (0.392, 0.392, 0.392))
    assert all(len(ratio) == 3 for ratio in report.served.values())
    assert report.versions["torch"] == "2.10.0"


def test_a_compatibility_label() -> None:
    label = files.read_label(GOLDEN / "compat.json")
    assert (label.vendor, label.device, label.driver) == ("nvidia", "NVIDIA H100 80GB HBM3", "580.159.04")
    assert (label.triton, label.flaggems, label.source) == ("3.6.0", "5.0.2", "5f" * 32)
    assert label.database.startswith("TunedConfig_")
    assert label.content == "d1" * 32


def test_what_is_in_effect() -> None:
    printed = (GOLDEN / "effective.json").read_text()
    expected = files.Effective(
        processes=(101, 102),
        bundles=("d1" * 32,),
        operators=("mm",),
        partial=(),
        called={"mm": 2},
        captured=("mm",),
        tuning_events=1,
        tuned=("mm_kernel",),
        filled=2,
        compilations=1,
        devices=(0, 1),
    )
    assert files.decode_effective(printed) == expected
    assert files.decode_effective(f"[ACL] {{device}} warning\n{printed}\nbye\n") == expected


def test_an_attribution(tmp_path: Path) -> None:
    def measured(*operators: str, guilty: bool) -> Measurement:
        return Measurement(operators=operators, excess=3.14159, shift=-0.5, sigmas=9.0, guilty=guilty)

    both, alone = measured("mm", "neg", guilty=True), measured("mm", guilty=False)
    made = Attribution(
        together=both,
        rounds=(Round(together=both, measurements=(alone, both), culprit="mm", partner="neg"),),
        culprits=("mm",),
        remaining=("neg",),
        clean=True,
    )
    path = tmp_path / "attribute.json"
    write_json(path, made.to_json())
    found = files.read_attribution(path)
    assert found.together is not None
    assert found.together.finding == (
        "log-probabilities 3.14 times as far from float32 as with the native kernels, -0.5000 nats per token on average"
    )
    assert (found.rounds[0].culprit, found.rounds[0].partner, found.clean) == ("mm", "neg", True)
    assert [one.operators for one in found.rounds[0].measurements] == [("mm",), ("mm", "neg")]


def test_a_measurement_without_figures_says_why() -> None:
    died = files.Measurement(operators=("mm",), excess=None, shift=None, note="killed by SIGSEGV")
    assert died.finding == "killed by SIGSEGV"


@pytest.mark.parametrize(
    ("read", "name", "field"),
    [
        (files.read_report, "report.json", "policy"),
        (files.read_report, "report.json", "format"),
        (files.read_label, "compat.json", "content"),
    ],
)
def test_a_file_of_another_form_is_named_with_what_to_do(
    read: Callable[[Path], object], name: str, field: str, tmp_path: Path
) -> None:
    whole: dict[str, Any] = json.loads((GOLDEN / name).read_text())
    del whole[field]
    (tmp_path / name).write_text(json.dumps(whole))
    with pytest.raises(EnvironmentFault, match=f"{name} cannot be read") as caught:
        read(tmp_path / name)
    assert f"missing required field `{field}`" in caught.value.why
    assert "--force kernels" in caught.value.hint


def test_a_report_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    newer = {**json.loads((GOLDEN / "report.json").read_text()), "format": files.FORMAT + 1}
    (tmp_path / "report.json").write_text(json.dumps(newer))
    with pytest.raises(EnvironmentFault) as caught:
        files.read_report(tmp_path / "report.json")
    assert caught.value.why == "it has format 2; formats up to 1 are supported"


def test_a_file_that_is_missing_or_cut_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"attribute\.json cannot be read"):
        files.read_attribution(tmp_path / "attribute.json")
    (tmp_path / "attribute.json").write_text('{"rounds": [')
    with pytest.raises(EnvironmentFault, match=r"attribute\.json cannot be read"):
        files.read_attribution(tmp_path / "attribute.json")
