"""A model is a stanza of matrix.yaml."""

from __future__ import annotations

from flagrelease.ports.clock import SystemClock
from flagrelease.ports.hub import RealHubs
from flagrelease.ports.meter import Meter
from flagrelease.ports.progress import Silent
from support.model_files import gguf
from support.newcomer_project import NewcomerProject, recipe

STANZA = """\
  tiny-1b:
    title: Tiny-1B
    source: file://FOLDER
    upstream: me/tiny-1b
    license: mit
    serve: {name: tiny, engine: llama_cpp}
"""


def test_a_model_is_a_stanza(project: NewcomerProject) -> None:
    assert "matrix.yaml" in recipe("a model")
    weights = project.root / "weights"
    weights.mkdir()
    (weights / "tiny.gguf").write_bytes(gguf(b"tiny"))
    project.add("models", STANZA.replace("FOLDER", str(weights)))
    locked = project.relock("cpu/tiny-1b").models["tiny-1b"]
    assert [file.path for file in locked.files] == ["tiny.gguf"]
    plan = project.plan("cpu/tiny-1b")
    assert not plan.blocked
    assert [step.stage for step in plan.steps if step.action != "run"] == ["kernels"]
    into = project.root / "fetched"
    RealHubs().fetch(locked, into, Silent(), Meter(SystemClock()))
    assert (into / "tiny.gguf").read_bytes() == gguf(b"tiny")
