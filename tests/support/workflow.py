"""Run the steps of a GitHub Actions workflow on this machine: their shell as it is written, job after job.

Steps that use an action are left out, and named. Of expressions, only what these workflows use is understood; any
other one is an error, so that a step is never run with text that GitHub would have replaced.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}", re.DOTALL)
_NAMES = ("needs", "steps", "matrix", "vars", "inputs", "secrets")


@dataclass(frozen=True)
class Ran:
    """A job that was run, or one of them if it has a matrix."""

    job: str
    code: int
    """Of its first failed step; 0 if none failed."""
    printed: str
    summary: str
    """What its steps wrote to the summary page."""
    actions: tuple[str, ...]
    """The actions that were left out."""
    matrix: Mapping[str, Any] = field(default_factory=dict)


def run(path: Path, root: Path, env: Mapping[str, str], **contexts: Mapping[str, str]) -> list[Ran]:
    """Run the jobs of the workflow at `path` in the folder `root`, in the order of the file, as far as their `if` and
    their needs allow. `contexts` are `vars`, `inputs` and `secrets`."""
    workflow = yaml.safe_load(path.read_text())
    known: dict[str, Any] = {**{name: {} for name in _NAMES}, **contexts}
    done: list[Ran] = []
    for name, job in workflow["jobs"].items():
        needs = [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", [])
        failed = {ran.job for ran in done if ran.code}
        if failed & set(needs) or not _holds(job.get("if", "true"), known):
            continue
        for matrix in _matrices(job, known):
            known |= {"matrix": matrix, "steps": {}}
            done.append(_job(name, job, root, {**env, **_texts(workflow.get("env", {}), known)}, known))
        known["needs"][name] = {"outputs": _texts(job.get("outputs", {}), known)}
    return done


def _matrices(job: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    matrix = job.get("strategy", {}).get("matrix")
    yield from [{}] if matrix is None else _value(matrix[3:-2].strip(), known)["include"]


def _job(name: str, job: Mapping[str, Any], root: Path, env: Mapping[str, str], known: dict[str, Any]) -> Ran:
    files = {key: root / f"{name}-{key}" for key in ("GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")}
    for file in files.values():
        file.write_text("")
    code, printed, actions = 0, "", []
    for step in job["steps"]:
        if not (_holds(step["if"], known) if "if" in step else code == 0):
            continue
        if "uses" in step:
            actions.append(step["uses"].partition("@")[0])
            continue
        assert not _EXPRESSION.search(step["run"]), f"{name}: an expression in the shell can inject commands"
        path = os.pathsep.join([*files["GITHUB_PATH"].read_text().splitlines(), env.get("PATH", os.defpath)])
        given = {**env, **_texts(step.get("env", {}), known), **{key: str(file) for key, file in files.items()}}
        ended = subprocess.run(
            ["bash", "-e", "-c", step["run"]],
            cwd=root,
            env={**given, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        printed += ended.stdout
        code = code or ended.returncode
        lines = files["GITHUB_OUTPUT"].read_text().splitlines()
        if "id" in step:
            known["steps"][step["id"]] = {"outputs": dict(line.split("=", 1) for line in lines)}
    summary = files["GITHUB_STEP_SUMMARY"].read_text()
    return Ran(name, code, printed, summary, tuple(actions), known["matrix"])


def _texts(values: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, str]:
    return {key: _EXPRESSION.sub(lambda m: str(_value(m[1], known)), str(value)) for key, value in values.items()}


def _holds(condition: str, known: Mapping[str, Any]) -> bool:
    if condition in ("always()", "true"):
        return True
    left, operator, right = condition.partition(" != ")
    assert operator, f"an unknown condition: {condition}"
    return bool(_value(left, known) != _value(right, known))


def _value(expression: str, known: Mapping[str, Any]) -> Any:
    left, otherwise, right = expression.partition(" || ")
    if otherwise:
        return _value(left, known) or _value(right, known)
    if match := re.fullmatch(r"fromJSON\((.*)\)", expression):
        return json.loads(_value(match[1], known))
    if match := re.fullmatch(r"'([^']*)'", expression):
        return match[1]
    first, *names = expression.split(".")
    assert first in _NAMES, f"an unknown expression: {expression}"
    found: Any = known[first]
    for name in names:
        found = found.get(name, "") if isinstance(found, Mapping) else ""
    return found
