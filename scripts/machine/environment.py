"""Create the virtual environment .venv from the hash-locked lists with uv, which pip installs by hash."""

import hashlib
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from host import ROOT, Done, SetupError, apt_install, locked, output, run

VENV = ROOT / ".venv"
PYTHON = VENV / "bin/python"
STAMP = VENV / "installed.sha256"
BUILD, RUNTIME, DEV, KERNELS = (
    ROOT / name
    for name in ("requirements-build.lock", "requirements.lock", "requirements-dev.lock", "requirements-kernels.lock")
)
# uv compiles nothing, and where PYTHONDONTWRITEBYTECODE is set each start would compile what it imports.
CACHE_BYTE_CODE = {"PYTHONDONTWRITEBYTECODE": ""}
IMPORT_VERBS = """
import importlib, pkgutil
import docker, httpx, jinja2, rich.live
import flagrelease.cli.commands as commands
for module in pkgutil.iter_modules(commands.__path__):
    importlib.import_module(f"{commands.__name__}.{module.name}")
"""
TODO = "check the network and pip's configuration (`python3 -m pip config list`), then run again"


def ensure() -> Done:
    """Make .venv contain exactly the locked packages."""
    wanted = _fingerprint()
    if _installed() == wanted:
        return Done("present", _describe())
    with locked("venv"):
        if _installed() == wanted:
            return Done("present", _describe())
        fresh = not PYTHON.exists()
        if fresh:
            _create()
        pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(BUILD)]
        run("venv", pip, todo=TODO)
        # Include the list of `kernels` if its torch is installed: uv cannot find it again where pip did.
        locks = [BUILD, RUNTIME, DEV, *([KERNELS] if _has_kernels() else [])]
        _uv("sync", "--require-hashes", *map(str, locks))
        _uv("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
        run("venv", [str(PYTHON), "-c", IMPORT_VERBS], env=CACHE_BYTE_CODE, todo="see the log")
        STAMP.write_text(wanted)
    return Done("made" if fresh else "updated", _describe())


def kernels() -> Done:
    """Add torch for the tests of flagkernels if pip finds its CPU build; never the CUDA build."""
    if _has_kernels():
        return Done("present", f"torch {_version('torch')}")
    with locked("venv"):
        pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", str(KERNELS)]
        try:
            run("kernels", pip, todo=TODO)
        except SetupError:
            return Done("skipped", "pip finds no CPU build; tests that need it are skipped (requirements-kernels.in)")
    return Done("installed", f"torch {_version('torch')}")


def prefect() -> Done:
    """Run the migrations of Prefect's database once, so that the first run does not wait for them."""
    version = _version("prefect")
    if (VENV / "share/flagrelease" / f"prefect-{version}.db").exists():
        return Done("present", f"Prefect {version}")
    with locked("prefect"):
        run(
            "prefect",
            [str(PYTHON), "-m", "flagrelease.run.executors.prefect_server"],
            env=CACHE_BYTE_CODE,
            todo="see the log; `--engine inline` does not need Prefect",
        )
    return Done("made", f"Prefect {version}")


def _create() -> None:
    if not output([sys.executable, "-c", "import venv, ensurepip; print('both')"]):
        if sys.prefix != "/usr":
            raise SetupError(f"{sys.executable} has no venv module", "choose another with `make PYTHON=…`")
        apt_install("python3-venv")
    if VENV.exists():
        shutil.rmtree(VENV)
    run("venv", [sys.executable, "-m", "venv", str(VENV)], todo="see the log")


def _uv(verb: str, *arguments: str) -> None:
    run("venv", [str(VENV / "bin/uv"), "pip", verb, *arguments], env=_as_pip_is_configured(), todo=TODO)


def _as_pip_is_configured() -> Mapping[str, str]:
    """Index, certificate and proxy settings of pip as variables for uv, which does not read pip's configuration."""
    settings = {}
    for entry in output([str(PYTHON), "-m", "pip", "config", "list"]).splitlines():
        key, _, value = entry.partition("=")
        settings[key.rpartition(".")[2]] = value.strip("'\"")
    env = {"VIRTUAL_ENV": str(VENV), "UV_PYTHON_DOWNLOADS": "never"}
    for ours, theirs in (("index-url", "UV_DEFAULT_INDEX"), ("cert", "SSL_CERT_FILE"), ("proxy", "ALL_PROXY")):
        if ours in settings and theirs not in os.environ:
            env[theirs] = settings[ours]
    return env


def _fingerprint() -> str:
    digest = hashlib.sha256(str(ROOT).encode())
    for path in (BUILD, RUNTIME, DEV, KERNELS, ROOT / "pyproject.toml"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _installed() -> str:
    return STAMP.read_text() if PYTHON.exists() and STAMP.exists() else ""


def _packages() -> Path:
    return next(VENV.glob("lib/python3.*/site-packages"), VENV)


def _has_kernels() -> bool:
    return bool(_version("transformers")) and f"torch=={_version('torch')} " in KERNELS.read_text()


def _version(package: str) -> str:
    info = next(_packages().glob(f"{package}-*.dist-info"), None)
    return info.name.removeprefix(f"{package}-").removesuffix(".dist-info") if info else ""


def _describe() -> str:
    number = len(list(_packages().glob("*.dist-info")))
    return f".venv, Python {_packages().parent.name.removeprefix('python')}, {number} packages"
