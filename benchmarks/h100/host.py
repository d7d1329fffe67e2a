"""Transfer what a cell needs to a chip's host without network access, in pieces of limited size.

    python benchmarks/h100/host.py pack --out DIR --there NAMES --data DATA [--piece 50]
    python3 benchmarks/h100/host.py unpack DIR --into PLACE

`pack` runs on a machine with network access, in flagrelease's environment. It packs the files of `flagrelease fetch`,
benchmark data with its manifest, vLLM, and the Python packages of vLLM and flagrelease except those in NAMES (the
output of `python3 -m pip list --format freeze` on the host). `unpack` runs on the host, with the chip's Python: it
installs the packages of vLLM there without replacing any, and makes PLACE/env, an environment that sees them and also
has flagrelease's, so that packages only for flagrelease stay out of the chip's Python, the base of the image. Then

    export FLAGRELEASE_OFFLINE=1
    PLACE/env/bin/python benchmarks/h100/cell.py --workspace PLACE/workspace --data PLACE/data --out RESULTS

or all proofs in sequence, which also installs FlagGems for those that run without flagrelease:

    python3 benchmarks/h100/proofs.py --place PLACE --out RESULTS
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENGINE = "vllm==0.22.1"
OURS = ("docker>=7.2", "modelscope-hub>=0.5.1", "msgspec", "openai", "langdetect", "math-verify[antlr4-13-2]", "gguf")
CHIP = ("sqlalchemy==2.0.48",)
NOT_NEEDED = (
    *("torch", "torchaudio", "torchvision", "triton", "numba", "opencv-python-headless", "flashinfer-python"),
    *("flashinfer-cubin", "tilelang", "nvidia-cudnn-frontend", "nvidia-cutlass-dsl", "quack-kernels"),
    *("tokenspeed-mla", "humming-kernels", "fastsafetensors"),
)
"""Packages that the host has, or kernels that no model of these cells uses."""
LEFT_OUT = re.compile(
    r"vllm/(vllm-rs|_moe_C|_flashmla|vllm_flash_attn/_vllm_fa2_C|third_party/deep_gemm/)|\.(hpp|h|cuh)$"
)
"""Files of vLLM's wheel: mixture-of-experts, FlashMLA, FlashAttention 2 (a Hopper chip uses 3), DeepGEMM."""
TAGS = tuple(f"manylinux_2_{minor}_x86_64" for minor in (39, 35, 34, 31, 28, 27, 24, 17, 12, 5))
TAGS = (*TAGS, "manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64")


def run(*argv: object) -> None:
    print("$", *argv, flush=True)
    subprocess.run([str(word) for word in argv], check=True)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pack(out: Path, there: Path, data: Path, cell: str, python: str, megabytes: int) -> None:
    """Write the pieces to `out`. Raises CalledProcessError if a program fails, after printing its error."""
    work = out / "content"
    shutil.rmtree(out, ignore_errors=True)
    for name in ("wheels", "own"):
        (work / name).mkdir(parents=True)
    names = {normal(line.split("==")[0].strip()) for line in there.read_text().splitlines() if line.strip()}
    engines = {normal(line.split("==")[0]) for line in resolved(out, python, (ENGINE, *CHIP))}
    every = resolved(out, python, (ENGINE, *CHIP, *OURS))
    wanted = [line for line in every if normal(line.split("==")[0]) not in names | {"vllm"}]
    tags = [word for tag in TAGS for word in ("--platform", tag)]
    download = [*(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--implementation", "cp"), *tags]
    download += ["--python-version", python, "--only-binary", ":all:", "--dest"]
    sources = [line for line in wanted if normal(line.split("==")[0]) in ("langdetect", "antlr4-python3-runtime")]
    plain = [line for line in wanted if line not in sources]
    run(*download, work / "wheels", *plain)
    if sources:
        run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", work / "wheels", *sources)
    for wheel in (work / "wheels").iterdir():
        if normal(wheel.name.split("-")[0]) not in engines:
            wheel.rename(work / "own" / wheel.name)
    run(*download, out / "whole", ENGINE)
    (whole,) = (out / "whole").glob("vllm-*.whl")
    pruned(whole, work / "wheels" / whole.name)
    program = Path(sys.executable).with_name("flagrelease")
    run(program, "fetch", cell, "--matrix", ROOT / "matrix.yaml", "--workspace", work / "workspace")
    shutil.copytree(data, work / "data")
    with tarfile.open(out / "all.tar", "w", format=tarfile.PAX_FORMAT) as tar:  # times to the nanosecond
        for name in ("wheels", "own", "data", *(f"workspace/{part}" for part in ("weights", "wheels"))):
            tar.add(work / name, arcname=name)
    for number, piece in enumerate(pieces(out / "all.tar", megabytes * 1_000_000)):
        (out / f"piece-{number:02}").write_bytes(piece)
        print(f"piece-{number:02}  {len(piece) / 1e6:.1f} MB")
    for left in (work, out / "whole"):
        shutil.rmtree(left)
    (out / "all.tar").unlink()


def resolved(out: Path, python: str, requirements: tuple[str, ...]) -> list[str]:
    """NAME==VERSION of all packages, resolved by uv for the host."""
    asked, without, locked = out / "asked.in", out / "without.txt", out / "resolved.txt"
    asked.write_text("\n".join(requirements) + "\n")
    without.write_text("".join(f"{name} ; sys_platform == 'never'\n" for name in NOT_NEEDED))
    options = ("--quiet", "--no-header", "--no-annotate", "--python-platform", "x86_64-manylinux_2_28")
    uv = Path(sys.executable).with_name("uv")
    run(uv, "pip", "compile", asked, "--override", without, "--python-version", python, *options, "-o", locked)
    return [line.split(" ")[0] for line in locked.read_text().splitlines() if "==" in line]


def pruned(source: Path, target: Path) -> None:
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as wheel:
        for member in whole.infolist():
            if not LEFT_OUT.search(member.filename):
                wheel.writestr(member, whole.read(member))


def pieces(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while piece := stream.read(size):
            yield piece


def unpack(parts: Iterable[Path], into: Path) -> None:
    """Unpack the pieces and install the packages. Raises CalledProcessError if pip or venv fails."""
    into.mkdir(parents=True, exist_ok=True)
    with (into / "all.tar").open("wb") as whole:
        for part in sorted(parts):
            whole.write(part.read_bytes())
    with tarfile.open(into / "all.tar") as tar:
        tar.extractall(into, filter="tar")
    (into / "all.tar").unlink()
    install = ("install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir")
    run(sys.executable, "-m", "pip", *install, *sorted((into / "wheels").glob("*.whl")))
    run(sys.executable, "-m", "venv", "--without-pip", into / "env")
    (site,) = (into / "env/lib").glob("python*/site-packages")
    run(sys.executable, "-m", "pip", *install, "--target", site, *sorted((into / "own").glob("*.whl")))
    (site / "chip.pth").write_text(sysconfig.get_path("purelib") + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing, unpacking = verbs.add_parser("pack"), verbs.add_parser("unpack")
    packing.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder, replaced")
    packing.add_argument("--there", type=Path, required=True, metavar="NAMES", help="file with the host's packages")
    packing.add_argument("--data", type=Path, required=True, metavar="DIR", help="benchmark data with its manifest")
    packing.add_argument("--cell", default="nvidia-h100/smollm2-135m", metavar="CHIP/MODEL")
    packing.add_argument("--python", default="3.12", metavar="MAJOR.MINOR", help="version of the chip's Python")
    packing.add_argument("--piece", type=int, default=50, metavar="MB", help="maximum size of a piece")
    unpacking.add_argument("pieces", type=Path, metavar="DIR")
    unpacking.add_argument("--into", type=Path, required=True, metavar="PLACE")
    given = parser.parse_args()
    if given.verb == "pack":
        pack(given.out.resolve(), given.there, given.data, given.cell, given.python, given.piece)
    else:
        unpack(given.pieces.glob("piece-*"), given.into.resolve())


if __name__ == "__main__":
    main()
