"""A user's project in a folder of its own, driven through the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from flagrelease.ports.container_runner import WORKSPACE_LABEL
from flagrelease.store.files import TEMPORARY
from support.wheels import outside_python

SOURCE = Path(__file__).parents[2]
CELL = "cpu/smollm2-135m"
PROGRAM = Path(sys.executable).parent / "flagrelease"


@dataclass(frozen=True)
class UserProject:
    """The shipped matrix, lock and templates in `root`; `registry` is HOST:PORT/PREFIX."""

    root: Path
    registry: str = "localhost:1/none"
    program: Path = PROGRAM
    """The installed `flagrelease`, or what starts it."""
    first: tuple[str, ...] = ()
    """Arguments of the program before those of `flagrelease`."""

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        """`flagrelease WORDS` in the project; stderr is where its progress goes."""
        kept = os.environ if self.program == PROGRAM or self.first else outside_python()
        return subprocess.Popen(
            [str(self.program), *self.first, *words],
            cwd=self.root,
            env={**kept, "FLAGRELEASE_ENGINE": "inline", "FLAGRELEASE_REGISTRY": self.registry, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *words: str, seconds: float = 900, **env: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a whole command."""
        with self.start(*words, **env) as process:
            out, err = process.communicate(timeout=seconds)
        return process.returncode, out, err

    def leftovers(self) -> list[str]:
        """Containers of this workspace and half-written files."""
        label = f"label={WORKSPACE_LABEL}={self.root / '.flagrelease'}"
        listed = subprocess.run(["docker", "ps", "-aq", "--filter", label], capture_output=True, text=True, check=True)
        return listed.stdout.split() + [str(path) for path in self.root.rglob(f"{TEMPORARY}*")]


def project(root: Path, registry: str = "localhost:1/none", *, questions: int = 20) -> UserProject:
    """The shipped project with `questions` for each stack, and a speed that is measured for a moment."""
    matrix = (SOURCE / "matrix.yaml").read_text()
    asked = "questions=155\n    license: Apache-2.0\n    shots: 1\n    margin: 0.05\n"
    assert asked in matrix
    # With so few questions only a wide margin can be decided.
    fewer = matrix.replace(asked, asked.replace("155", str(questions)).replace("0.05", "0.15"))
    load = "{input: 32, output: 16, concurrency: [1, 4], requests: 2}"
    assert load in matrix
    fewer = fewer.replace(load, "{input: 16, output: 8, concurrency: [1], requests: 2, gate: 0.1}")
    assert "gate_tokens: 320" in fewer
    fewer = fewer.replace("gate_tokens: 320", "gate_tokens: 128")
    # The tests keep the other core busy, and two threads that wait for each other are slower than one.
    assert "args: {threads: 2}" in fewer
    fewer = fewer.replace("args: {threads: 2}", "args: {threads: 1}")
    (root / "matrix.yaml").write_text(fewer)
    (root / "matrix.lock").write_bytes((SOURCE / "matrix.lock").read_bytes())
    (root / "templates").symlink_to(SOURCE / "templates")
    return UserProject(root, registry)
