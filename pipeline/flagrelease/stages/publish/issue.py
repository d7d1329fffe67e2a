"""The report of a release that did not pass, in Markdown: what failed, by which evidence, and what to do. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from flagrelease.contract.accuracy_results import BenchmarkScore, TokenGate
from flagrelease.contract.results import Check
from flagrelease.errors import FlagreleaseError
from flagrelease.stages.card.markdown import Markdown, code, escape, table
from flagrelease.stages.card.record import Record
from flagrelease.store.evidence import Evidence

__all__ = ["FILE", "report"]

FILE = "ISSUE.md"


def report(release: Record, refusal: FlagreleaseError, evidence: Mapping[str, Evidence]) -> bytes:
    """The report; `evidence` is what the stages left, by path in the release folder. The same release gives the same
    bytes."""
    image = release.image
    rows = [
        (code(path), code(file.sha256), f"{file.size:,}")
        for path, file in sorted(evidence.items())
        if any(re.match(pattern, path) for pattern in _failing(release))
    ]
    parts = [
        f"# {escape(release.cell)}: {escape('FAIL' if _failed_checks(release) else release.verdict)}",
        f"{escape(_sentence(refusal.what))} {escape(_sentence(refusal.why))}",
        f"It is the image {code(image.reference)}, release {code(release.tag)}. Nothing of it is public.",
        "## What failed",
        table(("Gate", "Verdict", "Finding"), list(_findings(release))),
        "## Evidence",
        table(("File", "sha256", "Bytes"), rows) if rows else "There is none: see the log of the stage.",
        "## What to do",
        escape(_sentence(refusal.hint[:1].upper() + refusal.hint[1:])) if refusal.hint else Markdown(""),
        f"{code(f'flagrelease explain {release.cell}')} shows where to find the answers, and the stages' own words.",
    ]
    return ("\n\n".join(part for part in parts if part) + "\n").encode()


def _findings(release: Record) -> Iterator[tuple[object, object, object]]:
    for check in _failed_checks(release):
        yield f"smoke: {check.name}", "FAIL", check.detail
    accuracy = release.accuracy
    if (gate := _failed_tokens(release)) is not None:
        yield "accuracy: tokens", gate.verdict, gate.reason
    for row in _open(release):
        yield f"accuracy: {row.benchmark}", row.verdict, _numbers(row)
    if accuracy.verdict != "PASS" and gate is None and not _open(release):
        yield "accuracy", accuracy.verdict, accuracy.reason
    if release.speed is not None and release.speed.verdict != "PASS":
        yield "speed", release.speed.verdict, release.speed.reason
    for name, why in release.unfinished.items():
        yield name, "INCONCLUSIVE", why


def _failing(release: Record) -> Iterator[str]:
    """Patterns of the paths of the evidence of what failed."""
    if _failed_checks(release):
        yield "evidence/smoke/"
    if _failed_tokens(release) is not None:
        yield "evidence/accuracy/.*tokens"
    if _open(release):
        yield "evidence/accuracy/(?!.*tokens)"
    if release.speed is not None and release.speed.verdict != "PASS":
        yield "evidence/speed/"


def _failed_checks(release: Record) -> list[Check]:
    return [check for check in release.smoke.checks if not check.passed]


def _failed_tokens(release: Record) -> TokenGate | None:
    """The token gate if it decided the verdict on the answers."""
    gate, verdict = release.accuracy.token_gate, release.accuracy.verdict
    return gate if gate is not None and gate.verdict == verdict != "PASS" else None


def _open(release: Record) -> list[BenchmarkScore]:
    """The benchmarks that did not pass, if the answers did not."""
    accuracy = release.accuracy
    return [row for row in accuracy.benchmarks if row.verdict != "PASS"] if accuracy.verdict != "PASS" else []


def _numbers(row: BenchmarkScore) -> str:
    if row.baseline is None or row.difference is None or row.interval90 is None:
        return row.reason
    low, high = row.interval90
    return (
        f"{row.candidate:.3f} versus {row.baseline:.3f} over {row.n} questions, difference {row.difference:+.3f} "
        f"[{low:+.3f}, {high:+.3f}], margin {row.margin:.3f}; {row.reason}"
    )


def _sentence(text: str) -> str:
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."
