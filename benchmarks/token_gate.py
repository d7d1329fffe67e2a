"""Measure the token gate on damaged copies of the chip `cpu`'s model, and simulate its error rates.

    make release                                        # builds and pushes the image to serve
    python benchmarks/token_gate.py damages [--tokens 512] [--only TEXT] [--work DIR]
    python benchmarks/token_gate.py simulate [--runs 2000]

`damages` serves the unchanged model as the reference, then as the candidate the same file, honest rewrites of it, and
damaged copies. It exits with 1 if an honest one FAILs or one that has to FAIL does not.

`simulate` draws the distances of prompts from a generator that shares no code with the product: a gamma distribution
for the mean of each prompt, with the coefficient of variation that `damages` shows (0.6 to 1.2).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from damaged_model import (
    CELL,
    Q4_1,
    Q4_1_BYTES,
    Q4_1_WEIGHTS,
    ROOT,
    Blocks,
    Damage,
    OtherTemplate,
    coarser,
    context_for,
    released,
    scaled,
    tensors,
)
from numpy.typing import NDArray

from flagrelease.contract import results
from flagrelease.contract.job import Job
from flagrelease.evaluation.token_gate import LENGTH, Plan, compare, prompts_of, refer
from flagrelease.ports.logprobs import ServedProbabilities
from flagrelease.run.project import Options, open_project
from flagrelease.serving.server import ServeRequest, served
from flagrelease.stages.accuracy.run import build_specs
from flagrelease.store.workspace import Workspace
from flagrelease.verdict import rule
from flagrelease.verdict.stats.token_distance import TokenDistance
from flagrelease.verdict.types import Verdict

F16 = 1
FAIL, PASS = Verdict.FAIL, Verdict.PASS
Weights = NDArray[np.float32]


def values(blocks: Blocks) -> Weights:
    """The weights of Q4_1 blocks."""
    ends = blocks[:, :4].copy().view(np.float16).astype(np.float32)
    numbers = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], 1).astype(np.float32)
    weights: Weights = numbers * ends[:, :1] + ends[:, 1:]
    return weights


def symmetric(blocks: Blocks) -> None:
    """Quantise to Q4_0, whose 16 steps are symmetric around zero: the values d·(q − 8), written as d·q + (−8·d)."""
    weights = values(blocks)
    extreme = np.take_along_axis(weights, np.abs(weights).argmax(1)[:, None], 1)
    step = (extreme / -8).astype(np.float16)
    safe = np.where(step == 0, 1, step).astype(np.float32)
    numbers = np.clip(np.floor(weights / safe + 8.5), 0, 15).astype(np.uint8)
    blocks[:, :4] = np.concatenate([step, np.float16(-8) * step], 1).view(np.uint8)
    blocks[:, 4:] = numbers[:, :16] | numbers[:, 16:] << 4


@dataclass(frozen=True)
class Unpacked:
    """The same values as float16: another arithmetic, without rounding activations to 8 bits."""

    name: str

    def to(self, source: Path, target: Path) -> int:
        """Write the copy. Returns the number of unpacked weights."""
        target.parent.mkdir(parents=True, exist_ok=True)
        raw, table = source.read_bytes(), sorted(tensors(source), key=lambda tensor: tensor.start)
        head, body, changed = bytearray(raw[: table[0].start]), bytearray(), 0
        for tensor, end in zip(table, [*(tensor.start for tensor in table[1:]), len(raw)], strict=True):
            kind, content = tensor.kind, raw[tensor.start : end]
            if kind == Q4_1:
                size = tensor.weights // Q4_1_WEIGHTS * Q4_1_BYTES
                blocks = np.frombuffer(content[:size], np.uint8).reshape(-1, Q4_1_BYTES)
                kind, content, changed = F16, values(blocks).astype(np.float16).tobytes(), changed + tensor.weights
            name = tensor.name.encode()
            at = head.rindex(len(name).to_bytes(8, "little") + name) + 8 + len(name)
            at += 4 + 8 * int.from_bytes(head[at : at + 4], "little")
            head[at : at + 12] = kind.to_bytes(4, "little") + len(body).to_bytes(8, "little")
            body += content + bytes(-len(content) % 32)
        target.write_bytes(head + body)
        return changed


@dataclass(frozen=True)
class Edited:
    """The model's own chat template with `old` replaced by the equally long `new`, where it occurs last."""

    name: str
    old: str
    new: str

    def to(self, source: Path, target: Path) -> int:
        """Write the copy. Returns the number of changed weights, 0."""
        target.parent.mkdir(parents=True, exist_ok=True)
        raw = source.read_bytes()
        key = b"tokenizer.chat_template"
        at = raw.index(key) + len(key) + 12
        size = int.from_bytes(raw[at - 8 : at], "little")
        before, found, after = raw[at : at + size].rpartition(self.old.encode())
        if not found or len(self.old) != len(self.new):
            raise SystemExit(f"the chat template does not contain {self.old!r}")
        target.write_bytes(raw[:at] + before + self.new.encode() + after + raw[at + size :])
        return 0


@dataclass(frozen=True)
class Case:
    """A candidate and the verdicts that it may get."""

    copy: Damage | OtherTemplate | Unpacked | Edited | None
    fails: bool | None
    """Whether it has to FAIL, must not, or (None) may."""

    @property
    def name(self) -> str:
        return "the same file" if self.copy is None else self.copy.name


CASES = (
    Case(None, fails=False),
    Case(Unpacked("the same values as float16"), fails=False),
    Case(Damage("one layer of 30 scaled by 1.05", "blk.10.", scaled(1.05)), fails=None),
    Case(Damage("one layer of 30 scaled by 1.2", "blk.10.", scaled(1.2)), fails=True),
    Case(Damage("one layer of 30 scaled by 1.5", "blk.10.", scaled(1.5)), fails=True),
    Case(Damage("Q4_1 quantised to Q4_0", "blk.", symmetric), fails=True),
    Case(Damage("Q4_1 quantised to 3 bits", "blk.", coarser(3)), fails=True),
    Case(Edited("the template without the line end after `assistant`", "\n' }}", "'  }}"), fails=True),
    Case(Edited("the template without `<|im_end|>`", "<|im_end|>' + '\n'", "\n'" + " " * 15), fails=True),
    Case(OtherTemplate("the chat template of another model"), fails=True),
)


@contextmanager
def asking(
    job: Job, workspace: Workspace, weights: results.Weights, image: results.Image
) -> Iterator[ServedProbabilities]:
    request = ServeRequest(image=image, weights=weights, stack="native")
    context = context_for("token gate", workspace, weights, image)
    with served(job, context, request) as server, ServedProbabilities(server.base_url, server.model) as source:
        yield source


def damages(wanted: argparse.Namespace) -> int:
    project = open_project(Options(matrix=ROOT / "matrix.yaml", workspace=wanted.workspace))
    job = project.job(next(cell for cell in project.cells if cell.id == CELL))
    weights: results.Weights = released(project, "weights", results.Weights)
    image: results.Image = released(project, "image", results.Image)
    workspace = Workspace(wanted.work.resolve())
    source = next((project.workspace.weights / weights.folder).rglob("*.gguf"))
    Damage("", "none", scaled(1)).to(source, workspace.weights / "honest" / source.name)
    honest = replace(weights, folder="honest")
    prompts = prompts_of(job, build_specs(job, context_for("questions", workspace, honest, image)))
    plan = Plan(tokens=wanted.tokens, longest=2_000, at_once=1, floor_at_once=4)
    with asking(job, workspace, honest, image) as server:
        started = time.monotonic()
        reference = refer(server, prompts, plan, lambda _: None)
        seconds = time.monotonic() - started
    rows = [row("the reference again, 4 at once", reference.floor, "", seconds, 0)]
    print(rows[-1], flush=True)
    wrong = 0
    for number, case in enumerate(case for case in CASES if wanted.only in case.name):
        folder = "honest" if case.copy is None else f"copy-{number}"
        if case.copy is not None:
            case.copy.to(source, workspace.weights / folder / source.name)
        with asking(job, workspace, replace(weights, folder=folder), image) as server:
            started = time.monotonic()
            found = compare(server, prompts, reference, plan, lambda _: None)
            seconds = time.monotonic() - started
        wrong += case.fails is not None and case.fails is not (found.verdict is Verdict.FAIL)
        rows.append(row(case.name, found.distance, found.verdict, seconds, len(found.other_prompts)))
        print(rows[-1], flush=True)
    head = ("candidate", "tokens", "prompts", "KL per token, nats", "99.5 % interval", "same top", "other prompts", "s")
    print("\n| " + " | ".join((*head, "verdict")) + " |\n" + "|---" * (len(head) + 1) + "|\n" + "\n".join(rows))
    return 1 if wrong else 0


def row(name: str, distance: TokenDistance, verdict: str, seconds: float, others: int) -> str:
    low, high = distance.interval
    cells = (
        name,
        f"{distance.tokens:,}",
        str(distance.prompts),
        f"{distance.mean:.4f}",
        f"{low:.4f} {high:.4f}",
        f"{distance.same_top:.3f}",
        str(others),
        f"{seconds:.0f}",
        verdict,
    )
    return "| " + " | ".join(cells) + " |"


def simulate(wanted: argparse.Namespace) -> int:
    random = np.random.default_rng(wanted.seed)
    print("| distance | floor | spread | tokens | FAIL, % | PASS, % | tokens until FAIL |\n" + "|---" * 7 + "|")
    for mean, floor in (
        (0.001, 0.001),
        (0.009, 0.001),
        (0.01, 0.001),
        (0.03, 0.03),
        (0.02, 0.001),
        (0.05, 0.001),
        (0.15, 0.001),
    ):
        for spread in (0.6, 1.2):
            for tokens in (512, 10_000):
                verdicts = [one(random, mean, floor, spread, tokens) for _ in range(wanted.runs)]
                failed = [at for verdict, at in verdicts if verdict is Verdict.FAIL]
                shares = [100 * sum(verdict is kind for verdict, _ in verdicts) / wanted.runs for kind in (FAIL, PASS)]
                until = f"{np.mean(failed):,.0f}" if failed else "–"
                print(f"| {mean:g} | {floor:g} | {spread} | {tokens:,} | {shares[0]:.1f} | {shares[1]:.1f} | {until} |")
    return 0


def one(random: np.random.Generator, mean: float, floor: float, spread: float, tokens: int) -> tuple[Verdict, int]:
    """The verdict on one drawn cell, and the tokens that it took."""
    count = -(-tokens // LENGTH)
    draw: Callable[[float, int], NDArray[np.float64]] = lambda m, n: random.gamma(spread**-2, m * spread**2, n)  # noqa: E731
    own = summary(draw(floor, max(count // 8, 8)))
    drawn = draw(mean, count)
    looks = [-(-look // LENGTH) for look in rule.TOKEN_LOOKS if look < tokens] + [count]
    for look in looks:
        verdict = rule.decide_tokens(summary(drawn[:look]), own)
        if verdict is Verdict.FAIL:
            break
    return verdict, look * LENGTH


_QUANTILES: dict[int, float] = {}


def summary(drawn: NDArray[np.float64]) -> TokenDistance:
    """The mean and its Student interval, computed here again."""
    from scipy.stats import t

    n = len(drawn)
    if n not in _QUANTILES:
        _QUANTILES[n] = float(t.ppf(1 - 0.01 / 4, n - 1))
    half = _QUANTILES[n] * float(drawn.std(ddof=1)) / n**0.5
    centre = float(drawn.mean())
    return TokenDistance(
        prompts=n, tokens=n * LENGTH, mean=centre, interval=(max(centre - half, 0.0), centre + half), same_top=1.0
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    measured = commands.add_parser("damages")
    measured.add_argument("--tokens", type=int, default=512)
    measured.add_argument("--only", default="")
    measured.add_argument("--workspace", type=Path, help="of the release; default: that of matrix.yaml")
    measured.add_argument("--work", type=Path, default=Path(".flagrelease/token-gate"))
    measured.set_defaults(run=damages)
    simulated = commands.add_parser("simulate")
    simulated.add_argument("--runs", type=int, default=2000)
    simulated.add_argument("--seed", type=int, default=1)
    simulated.set_defaults(run=simulate)
    wanted = parser.parse_args()
    return int(wanted.run(wanted))


if __name__ == "__main__":
    sys.exit(main())
