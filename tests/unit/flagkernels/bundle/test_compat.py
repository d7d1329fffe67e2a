"""Compatibility of a bundle with the machine."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from flagkernels.bundle import compat
from flagkernels.bundle.compat import Compat, SystemProbe, _nvidia_proc, check, differences, read_compat, source_hash
from flagkernels.errors import BundleCorrupt, BundleMismatch, ChipFault, UsageError
from flagkernels.vendors import vendors

H100 = Compat(
    vendor="nvidia", device="NVIDIA H100 80GB HBM3", driver="580.159.04", triton="3.6.0", flaggems="5.0.2", source="a1"
)


@pytest.mark.parametrize("field", ["vendor", "device", "driver", "triton", "flaggems", "source"])
def test_each_field_is_refused_by_its_name(field: str) -> None:
    other = replace(H100, **{field: "another"})
    assert differences(H100, other) == [(field, getattr(H100, field), "another")]
    with pytest.raises(BundleMismatch) as refused:
        check(H100, other, accept=frozenset())
    assert f"fit this machine: {field}" in str(refused.value)
    assert "another" in str(refused.value)
    assert refused.value.exit_code == 6


def test_an_accepted_difference_is_reported_and_no_other_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGKERNELS_ACCEPT", "driver")
    assert check(H100, replace(H100, driver="590.1")) == ["driver"]
    with pytest.raises(BundleMismatch, match="triton"):
        check(H100, replace(H100, driver="590.1", triton="3.7.0"))
    assert check(H100, H100) == []


def test_accepting_an_unknown_field_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGKERNELS_ACCEPT", "tritn, driver")
    with pytest.raises(UsageError, match="did you mean 'triton'"):
        check(H100, H100)


def test_a_label_is_read_back_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    label = tmp_path / "compat.json"
    label.write_text(json.dumps({**asdict(H100), "content": "more"}))
    assert read_compat(label) == H100
    label.write_text('{"vendor": "nvidia"')
    with pytest.raises(BundleCorrupt, match=r"compat\.json"):
        read_compat(label)
    with pytest.raises(BundleCorrupt):
        read_compat(tmp_path / "none.json")


def test_the_driver_and_device_are_read_without_the_vendor_tool(tmp_path: Path) -> None:
    (tmp_path / "gpus/0000:41").mkdir(parents=True)
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (nixbld@)"
    (tmp_path / "version").write_text(f"{text}\nGCC version: 15\n")
    (tmp_path / "gpus/0000:41/information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 41\n")
    assert _nvidia_proc(tmp_path) == ("NVIDIA H100 80GB HBM3", "580.159.04")
    assert _nvidia_proc(tmp_path / "none") is None


def test_the_source_hash_follows_content_and_not_places(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "ops").mkdir(parents=True)
        (tmp_path / name / "ops/mm.py").write_text("BLOCK = 32\n")
        (tmp_path / name / "notes.txt").write_text(name)
    assert source_hash(tmp_path / "one") == source_hash(tmp_path / "two")
    (tmp_path / "three/ops").mkdir(parents=True)
    (tmp_path / "three/ops/mm.py").write_text("BLOCK = 64\n")
    assert source_hash(tmp_path / "three") != source_hash(tmp_path / "one")


def test_a_vendor_without_a_known_tool_says_what_to_add() -> None:
    with pytest.raises(ChipFault, match="unheard-of"):
        SystemProbe().compat("unheard-of")


def test_a_missing_vendor_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ChipFault, match="mx-smi is not on PATH"):
        SystemProbe().compat("metax")


REPORTS = {
    "nvidia": ("NVIDIA H100 80GB HBM3, 580.159.04\n", "NVIDIA H100 80GB HBM3", "580.159.04"),
    "metax": ("Kernel Mode Driver Version: 3.3.12\n| 0  MetaX C550  Off |\n", "MetaX C550", "3.3.12"),
    "ascend": ("| npu-smi 25.5.0  Version: 25.5.0 |\n| 0     910B3  | OK |\n", "910B3", "25.5.0"),
    "cambricon": ("| CNMON v6.2.15   Driver v6.2.15 |\n| 0 / MLU590-M9 |\n", "MLU590-M9", "6.2.15"),
    "mthreads": ("mthreads-gmi:1.14   Driver Version:5.2.0-server\n0  MTT S5000 |\n", "MTT S5000", "5.2.0-server"),
    "iluvatar": ("IX-ML: 4.4.0  Driver Version: 4.4.0\n| 0  Iluvatar BI-V150 |\n", "Iluvatar BI-V150", "4.4.0"),
    "kunlunxin": ("XPU-SMI  Driver Version: 5.37.1\n| 0  P800 OAM |\n", "P800 OAM", "5.37.1"),
    "hygon": ("Driver Version: 6.3.30-V1.4.1a\nHCU[0] : Card series: BW1000\n", "BW1000", "6.3.30-V1.4.1a"),
    "enflame": ("|EFSMI  Driver Ver: 1.6.3.12 |\n| 0  Enflame S60G  | 31.5.3 |\n", "Enflame S60G", "1.6.3.12"),
    "thead": ("PPU-ZW810E, 1.3.2-d7f5a2, 98304 MiB\n", "PPU-ZW810E", "1.3.2-d7f5a2"),
    "amd": ("GPU[0] : Card Series: AMD Instinct MI300X\nDriver version: 6.7.0\n", "AMD Instinct MI300X", "6.7.0"),
}


@pytest.mark.parametrize("vendor", REPORTS)
def test_device_and_driver_are_read_from_what_the_vendors_tool_prints(
    vendor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, device, driver = REPORTS[vendor]
    (tmp_path / "report").write_text(text)
    tool = tmp_path / vendors()[vendor].query[0]
    tool.write_text(f'#!/bin/sh\nwhile read -r line; do echo "$line"; done < {tmp_path}/report\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("flagkernels.bundle.compat._nvidia_proc", lambda _root: None)
    assert SystemProbe()._device(vendor) == (device, driver)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("while :; do sleep 0.1; done", "mx-smi did not end within 1 s"),
        ("sleep 60; true", "mx-smi did not end within 1 s"),  # its child holds the output open
        ("while :; do echo garbage; done", "mx-smi did not report device and driver"),
        ("exit 3", "mx-smi did not report device and driver"),
    ],
)
def test_a_tool_that_hangs_or_prints_without_end_is_named(
    script: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mx-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "mx-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(compat, "_SECONDS", 1.0)
    began = time.monotonic()
    with pytest.raises(ChipFault, match=said) as refused:
        SystemProbe()._device("metax")
    assert len(refused.value.why) <= 300
    assert time.monotonic() - began < 30


def test_every_vendor_that_can_be_asked_has_a_report_here() -> None:
    assert {name for name, vendor in vendors().items() if vendor.device and vendor.driver} == set(REPORTS)


def test_the_drivers_pattern_reads_the_tools_usual_table_as_well() -> None:
    table = "| NVIDIA-SMI 580.159.04    Driver Version: 580.159.04    CUDA Version: 13.0 |\n"
    found = re.search(str(vendors()["nvidia"].driver), table, re.MULTILINE)
    assert found is not None
    assert found[1] == "580.159.04"


@pytest.mark.parametrize("vendor", ["aipu", "tsingmicro"])
def test_a_vendor_without_a_parser_says_where_it_belongs(vendor: str) -> None:
    with pytest.raises(ChipFault, match=vendor) as refused:
        SystemProbe().compat(vendor)
    assert "vendors.json" in refused.value.hint
