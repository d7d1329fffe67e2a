"""Completion scripts, made from the parser and run by the shell."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from flagrelease.cli import app
from flagrelease.cli.commands.completion import SHELLS, verbs
from flagrelease.releases.states import STATES

ROOT = Path(__file__).parents[4]


def completed(folder: Path, script: str, *words: str) -> list[str]:
    """What bash offers for the last of these words."""
    program = folder / "flagrelease"
    code = "from flagrelease.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(code)} "$@"\n')
    program.chmod(0o755)
    typed = f"COMP_WORDS=({shlex.join(('./flagrelease', *words))}); COMP_CWORD={len(words)}"
    done = subprocess.run(
        ["bash", "-c", f'{script}\n{typed}\n_flagrelease\nprintf "%s\\n" "${{COMPREPLY[@]}}"'],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "pipeline")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_verbs_flags_values_and_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "matrix.yaml").write_bytes((ROOT / "matrix.yaml").read_bytes())
    assert app.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert completed(tmp_path, script, "pl") == ["plan"]
    assert completed(tmp_path, script, "run", "--prof") == ["--profile"]
    assert completed(tmp_path, script, "status", "--state", "re") == ["red", "released"]
    assert completed(tmp_path, script, "run", "--only", "sm") == ["smoke"]
    assert completed(tmp_path, script, "explain", "cpu/") == ["cpu/smollm2-135m"]
    assert completed(tmp_path, script, "run", "--matrix", "matr") == ["matrix.yaml"]
    (tmp_path / "matrix.yaml").write_text("}")
    assert completed(tmp_path, script, "explain", "cpu/") == [], "a broken matrix is reported by the verbs"


def test_every_verb_and_flag_is_completed() -> None:
    made = {verb.name: verb for verb in verbs(app.parser())}
    assert list(made) == [name for name, _ in app.VERBS]
    flags = {flag.name: flag for flag in made["status"].flags}
    assert flags["--state"].words == STATES
    assert (flags["--matrix"].takes, flags["--chip"].takes, flags["--json"].takes) == ("file", "text", "")
    assert made["run"].cells
    assert not made["doctor"].cells


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "history" in script
    assert all(flag.lstrip("-") in script for flag in ("--power", "--rounds", "--state"))
    if shell == "fish":
        quotes = script.replace("\\\\", "").replace("\\'", "").count("'")
        assert quotes % 2 == 0, "every string is closed"
