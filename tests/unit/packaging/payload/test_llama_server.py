"""The images' llama-server, as far as it runs without its engine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flagrelease.errors import PortInUse
from flagrelease.ports.container_runner import Ended
from flagrelease.serving.server import _died_early

PROGRAM = Path(__file__).parents[4] / "pipeline/flagrelease/packaging/payload/llama_server.py"


def ended(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it; it must exit before it uses the engine, which is an empty module here."""
    (tmp_path / "xllamacpp.py").touch()
    return subprocess.run(
        [sys.executable, str(PROGRAM), "--model", str(tmp_path), "--alias", "m", *arguments],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_taken_port_is_reported_as_port_in_use(tmp_path: Path, family: socket.AddressFamily, host: str) -> None:
    with socket.create_server((host, 0), family=family) as taken:
        done = ended(tmp_path, "--host", host, "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    error = _died_early("cpu/m", Ended(code=1, out_of_memory=False, error=""), done.stderr)
    assert isinstance(error, PortInUse), done.stderr


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = ended(tmp_path, "--port", str(port))
    assert done.returncode == 1
    assert f"no GGUF file at {tmp_path}" in done.stderr


@pytest.mark.parametrize(
    ("given", "effective"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "none")],
)
def test_waiting_threads_leave_their_core_unless_the_user_wants_otherwise(
    tmp_path: Path, given: dict[str, str], effective: str
) -> None:
    """OpenMP reads its settings from the process's environment when the engine's module loads it."""
    library = "import ctypes, os\nlibc = ctypes.CDLL(None)\nlibc.getenv.restype = ctypes.c_char_p\n"
    (tmp_path / "xllamacpp.py").write_text(
        library + 'raise SystemExit((libc.getenv(b"GOMP_SPINCOUNT") or b"none").decode())'
    )
    env = {name: text for name, text in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--model", str(tmp_path), "--alias", "m"],
        env={**env, **given, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr.strip() == effective
