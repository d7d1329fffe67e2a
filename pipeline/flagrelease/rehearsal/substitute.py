"""The cell that is rehearsed in place of a real one: what this machine lacks is left out, and named. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flagrelease.config.cell import Cell
from flagrelease.config.chip import Container, Device
from flagrelease.config.engines import ENGINES
from flagrelease.config.matrix import Profile, Sampling, Serve, Share, Traffic
from flagrelease.config.vendors import VENDORS
from flagrelease.rehearsal.flags import usable
from flagrelease.rehearsal.report import LeftOut

QUESTIONS = 3
"""Of each benchmark."""
ANSWER_TOKENS = 32
WINDOW = 16_384
"""The longest context, tokens: a processor reads a full window of an accelerator's size in minutes."""
CONCURRENCY = 8
_LOADS = Traffic(input=32, output=8, concurrency=(1, 4), requests=1)

NOTE = (
    "This page is of a dress rehearsal without the chip: it has no verdict, and says nothing of the model's quality or "
    "the chip's speed."
)
"""The first note on the card of a rehearsal."""
RANDOM = "The weights are random."
"""The second one, unless the model's own weights were served."""


@dataclass(frozen=True, kw_only=True)
class Here:
    """What this machine has in place of the chip's host."""

    python: str
    """MAJOR.MINOR of the Python in the rehearsal's base image."""
    base: str
    """The reference of that image."""
    source: str
    """Where the weights of the rehearsal are."""
    exists: Callable[[str], bool]
    """Whether a path exists on this machine."""
    reported: str
    """What the vendor's tool printed where it was recorded; empty if it was not."""
    env: Mapping[str, str]
    """Environment variables with which the engine runs on this machine."""
    generated: str = ""
    """A benchmark whose questions are drawn, asked if no other one has data here."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """The options of `docker run` that Docker Engine refuses on this machine, with the reason."""


def substituted(cell: Cell, here: Here, lacking: Mapping[str, str]) -> tuple[Cell, tuple[LeftOut, ...]]:
    """The cell to rehearse, and what it leaves out. `lacking` has the benchmarks without data here, with the reason."""
    container, without = _container(cell.chip.container, here)
    env = {**container.env, **here.env}
    parts = replace(cell.chip.components, **dict.fromkeys(cell.chip.brought, "none"))
    device, unproven = _device(cell, here)
    chip = replace(cell.chip, base=here.base, python=here.python, container=replace(container, env=env))
    chip = replace(chip, components=parts, from_base=(), device=device, host_devices=None)
    serve, args = _serve(cell.model.serve)
    notes = (NOTE,) if here.source == cell.model.source else (NOTE, RANDOM)
    sampling = _sampling(cell.model.sampling)
    profile, asked = _profile(cell.profile, lacking, here.generated)
    model = replace(cell.model, source=here.source, serve=serve, sampling=sampling, notes=(*notes, *cell.model.notes))
    left_out = [*without, *unproven, *args, *asked]
    if cell.model.sampling.temperature:
        what = f"sampling at temperature {cell.model.sampling.temperature:g}: greedy answers"
        why = "vLLM's build for processors cannot seed a sample"
        left_out.append(LeftOut(part="accuracy", what=what, why=why))
    if not here.base.endswith(f"/{cell.chip.base}"):
        what = f"the base image {cell.chip.base}: a base with this engine for processors takes its place"
        left_out.append(LeftOut(part="image", what=what, why="its packages are built for the chip"))
    if cell.chip.python != here.python:
        what = f"Python {cell.chip.python} of the base image: {here.python}"
        left_out.append(LeftOut(part="image", what=what, why="the rehearsal's base has no other one"))
    for name in cell.chip.brought:
        what = f"{name} {getattr(cell.chip.components, name)} of the base image: none"
        left_out.append(LeftOut(part="image", what=what, why="only the vendor's base image has it"))
    if here.env:
        what = f"the environment {', '.join(f'{name}={value}' for name, value in here.env.items())} is added"
        left_out.append(LeftOut(part="container", what=what, why="the engine runs on a processor that others use"))
    return replace(cell, chip=chip, model=model, profile=profile), tuple(left_out)


def _container(flags: Container, here: Here) -> tuple[Container, list[LeftOut]]:
    """The flags that can be used on this machine."""
    gone: list[LeftOut] = []

    def without(option: str, why: str) -> None:
        gone.append(LeftOut(part="container", what=option, why=why))

    devices = tuple(device for device in flags.devices if here.exists(device.partition(":")[0]))
    mounts = tuple(mount for mount in flags.mounts if here.exists(mount.partition(":")[0]))
    for device in flags.devices:
        if device not in devices:
            without(f"--device={device}", "this machine has no such device")
    for mount in flags.mounts:
        if mount not in mounts:
            without(f"--volume={mount}", "this machine has no such path")
    for option, why in here.refused.items():
        without(option, why)
    if flags.gpus:
        without(f"--gpus={flags.gpus}", "it needs the chip's container toolkit")
    if flags.runtime:
        without(f"--runtime={flags.runtime}", "it needs the chip's container toolkit")
    return replace(usable(flags, here.refused), devices=devices, mounts=mounts, gpus="", runtime=""), gone


def _device(cell: Cell, here: Here) -> tuple[Device, list[LeftOut]]:
    """A device whose tool prints the recorded output, and which any device fits."""
    if VENDORS[cell.chip.vendor].on_host:
        return cell.chip.device, []
    tool = shlex.split(cell.chip.device.query)[0]
    what = f"{tool}, which asks for device and driver: a recorded output, with which nothing is compared"
    query = shlex.join(["printf", "%s", here.reported])
    device = replace(cell.chip.device, query=query, reported=("*",), memory=None, driver="")
    return device, [LeftOut(part="smoke", what=what, why="this machine has no such device")]


def _serve(serve: Serve) -> tuple[Serve, list[LeftOut]]:
    left_out = []
    args: dict[str, Any] = dict(serve.args)
    engine = ENGINES[serve.engine]
    if engine.eager_argument and not args.get(engine.eager_argument):
        args[engine.eager_argument] = True
        why = "compiling takes minutes on a processor, and makes other kernels than those of the chip"
        what = f"compiled execution: the argument {engine.eager_argument} is added"
        left_out.append(LeftOut(part="smoke", what=what, why=why))
    window = min(serve.max_model_len, WINDOW)
    if window < serve.max_model_len:
        what = f"a context of {serve.max_model_len:,} tokens: {window:,}"
        left_out.append(LeftOut(part="smoke", what=what, why="a processor would read a full window for minutes"))
    if serve.devices > 1:
        what = f"{serve.devices} devices, {serve.ranks}: one"
        left_out.append(LeftOut(part="smoke", what=what, why="the processor is one device"))
    # Both servers stay up: on a processor each start takes a minute.
    alone = replace(serve, devices=1, parallel=None, args=args, max_model_len=window, colocate=True)
    return alone, left_out


def _sampling(sampling: Sampling) -> Sampling:
    """Greedy and short: vLLM's build for processors ends at a sampled request with a seed, as questions have."""
    greedy = {"temperature": 0.0, "top_p": 1.0, "top_k": None}
    return replace(sampling, max_tokens=min(sampling.max_tokens, ANSWER_TOKENS), **greedy)  # type: ignore[arg-type]


def _profile(profile: Profile, lacking: Mapping[str, str], generated: str) -> tuple[Profile, list[LeftOut]]:
    asked = {
        name: replace(share, limit=min(share.limit or QUESTIONS, QUESTIONS), repeats=1)
        for name, share in profile.benchmarks.items()
        if name not in lacking
    }
    left_out = [
        LeftOut(part="accuracy", what=f"the questions of {', '.join(n for n in lacking if lacking[n] == why)}", why=why)
        for why in dict.fromkeys(lacking.values())
    ]
    if not asked and generated:
        asked = {generated: Share(limit=QUESTIONS, repeats=1)}
        what = f"the profile's own benchmarks: {generated} is asked instead"
        left_out.append(LeftOut(part="accuracy", what=what, why="none of them has data here"))
    what = f"all other questions, repeats and answers: {QUESTIONS} questions each, answers of {ANSWER_TOKENS} tokens"
    left_out.append(
        LeftOut(part="accuracy", what=what, why="a rehearsal has no verdict, and random weights have no skill")
    )
    speed: tuple[Traffic, ...] = ()
    if profile.speed:
        speed = (replace(_LOADS, slo=profile.speed[0].slo, gate=profile.speed[0].gate),)
        loads = sum(len(traffic.concurrency) for traffic in profile.speed)
        what = f"{loads} load point{'s' * (loads != 1)} in at least three starts: 2 small ones in one start"
        left_out.append(LeftOut(part="speed", what=what, why="the speed of another model on another device"))
    return replace(profile, benchmarks=asked, sequential=False, gate_tokens=0, speed=speed), left_out
