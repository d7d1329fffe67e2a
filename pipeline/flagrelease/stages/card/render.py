"""Render a release record with templates/card.md.j2. Pure except for reading the template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flagrelease.config.harness_names import DEFAULT_HARNESS, HARNESS_LABELS, HarnessName
from flagrelease.config.matrix import Benchmark
from flagrelease.config.sources import Source
from flagrelease.contract.accuracy_results import BenchmarkScore
from flagrelease.contract.results import Weights
from flagrelease.contract.units import size_text
from flagrelease.recipe import user_commands
from flagrelease.releases.facts import read
from flagrelease.releases.maturity import maturity
from flagrelease.stages.card import charts, facts, licences, operators_section, speed_section
from flagrelease.stages.card.files import TEMPLATE
from flagrelease.stages.card.markdown import Markdown, code, environment, escape, fenced, front_matter, table
from flagrelease.stages.card.record import COMPONENTS, Record, dumps
from flagrelease.verdict import wording

METRIC_FIRST = "Metric"
"""Header of the first column of the evaluation table; the lint finds the table by it."""


def render(record: Record, templates: Path) -> str:
    """Render the card as Markdown. Values of the record are escaped, so that none is read as markup."""
    page = environment(templates).get_template(TEMPLATE).render(view(record))
    return facts.as_published(page.rstrip("\n") + "\n", record)


def view(record: Record) -> dict[str, Any]:
    """The template's values: either finished Markdown, or plain values that the template escapes."""
    model, smoke = record.model, record.smoke
    commands = commands_of(record)
    return {
        "record": record,
        "measured": bool(smoke.checks),
        "front_matter": front_matter(_front_matter(record)),
        "upstream": _link(model.upstream, upstream_url(record)),
        "tag": record.tag,
        "chart": Markdown(charts.SCORES),
        "chart_text": "Scores and differences in the table below, with 90 % intervals",
        "scores": scores_table(record),
        "notes": {
            row.benchmark: score_note(row, shown_reasons(record), asked=record.accuracy.questions_asked > 0)
            for row in record.accuracy.benchmarks
        },
        "speed_said": record.speed is not None and record.speed.reason in shown_reasons(record),
        "facts": facts.model_table(record),
        "hardware": facts.hardware(record),
        "limits": facts.limits(record),
        "container": facts.container_name(record),
        "local_registry": facts.local_registry(record),
        "differences": [facts.prose(text) for text in record.differences],
        "measured_by": _measured_by(record),
        "origins": {row.benchmark: _origin(record, row.benchmark) for row in record.accuracy.benchmarks},
        "speed_chart": Markdown(charts.SPEED),
        "speed": None if record.speed is None else speed_section.speed_table(record.speed, record.candidate_name),
        **({} if record.speed is None else speed_section.speed_texts(record, record.speed)),
        "attempts": attempts_table(record),
        "tokens": tokens_table(record),
        "sampling": ", ".join(f"{name} {value}" for name, value in record.accuracy.sampling.items()),
        "inference_time": _duration(record.accuracy.inference_seconds),
        "environment": table(("Item", "Version"), _environment(record)),
        "download": fenced(commands.pop(user_commands.DOWNLOAD), "bash"),
        "verify": fenced(commands.pop(user_commands.VERIFY), "bash"),
        "unverified": facts.unverified(record),
        "unpack": fenced(commands.pop(user_commands.UNPACK), "bash") if user_commands.UNPACK in commands else None,
        "pull": fenced(commands.pop(user_commands.PULL), "bash"),
        "run": fenced(user_commands.docker_run(smoke.docker_run), "bash"),
        "executed": ", ".join(smoke.commands),
        "not_run": _not_run(record),
        "serve_command": f"flagscale serve {model.serve.name}",
        "ready": _duration(smoke.ready_seconds),
        "wait": fenced(commands.pop(user_commands.WAIT), "bash"),
        "chat": fenced(commands.pop(user_commands.CHAT), "bash"),
        "python": fenced(commands.pop(user_commands.PYTHON), "python"),
        "python_stream": fenced(commands.pop(user_commands.PYTHON_STREAM), "python"),
        "further_commands": [(title, fenced(command, "bash")) for title, command in commands.items()],
        "anythingllm": table(("Setting", "Value"), _anythingllm(record)),
        "operators": None if record.kernels is None else operators_section.view(record.kernels, record.accuracy.called),
        "flaggems_reason": record.chip.reasons.get("flaggems", "").rstrip("."),
        "provenance": table(("Item", "Value"), _provenance(record)),
        "stages": stages_table(record),
        "licence": _licence(record),
    }


def commands_of(record: Record) -> dict[str, str]:
    """The commands of the card by name: as they were run, else as they would be."""
    weights = record.weights
    shown = user_commands.of_card(
        record.model,
        weights.revision,
        weights.fetched,
        record.image.reference,
        unpacked=weights.unpacked is not None,
    )
    return shown | dict(record.smoke.commands)


def _not_run(record: Record) -> str:
    """The commands that were not run, by reason."""
    reasons: dict[str, list[str]] = {}
    for name, why in record.smoke.not_run.items():
        reasons.setdefault(why, []).append(name)
    return "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())


def upstream_url(record: Record) -> str:
    """URL of the model's page on the hub of its weights."""
    return Source.parse(record.model.source).kind.page.replace("{upstream}", record.model.upstream)


def _origin(record: Record, name: str) -> str:
    """The licence of a benchmark's data, and the harness if it was not flagrelease's own."""
    benchmark = record.benchmarks.get(name)
    if benchmark is None:
        return ""
    harness = _harness(record, benchmark)
    return f", licence {benchmark.license}" + ("" if harness == DEFAULT_HARNESS else f"; run and graded by {harness}")


def _harness(record: Record, benchmark: Benchmark) -> HarnessName:
    return benchmark.harness or record.profile.harness


def _measured_by(record: Record) -> str:
    """Names of the harnesses that ran the benchmarks."""
    used = dict.fromkeys(_harness(record, benchmark) for benchmark in record.benchmarks.values())
    return " and ".join(HARNESS_LABELS[name] for name in used or (DEFAULT_HARNESS,))


def score_cells(row: BenchmarkScore) -> tuple[str, ...]:
    """The cells of one row of the evaluation table after the metric, exactly as printed."""
    interval = "–" if row.interval90 is None else f"[{signed(row.interval90[0])}, {signed(row.interval90[1])}]"
    return (
        "–" if row.baseline is None else f"{row.baseline:.3f}",
        f"{row.candidate:.3f}",
        f"{row.n:,}",
        f"{row.repeats:g}",
        "–" if row.difference is None else signed(row.difference),
        interval,
        f"{row.margin:.3f}",
        wording.verdict_label(row),
    )


def shown_reasons(record: Record) -> str:
    """The reasons that the card gives before its tables."""
    head = record.accuracy.reason if record.accuracy.verdict == "PASS" else ""
    return "; ".join(filter(None, (head, record.reason if record.verdict != "PASS" else "")))


def score_note(row: BenchmarkScore, shown: str = "", *, asked: bool = True) -> str:
    """Notes on a row of the evaluation table: how many answers and why it stopped, failures, flips and noise floor;
    the reason of its verdict unless it is among those `shown` already. `asked`: whether questions were asked at all."""
    parts = [f"partial ({row.partial})"] if row.partial else []
    if course := row.course:
        stopped = "stopped early, " if course.early else ""
        count = f"{course.answers:,} of at most {course.planned:,} answers on each side"
        parts.append(f"{stopped}{count}, at look {course.look} of {course.looks}: {course.why}")
    if asked:
        parts.append(f"{row.errors} requests failed, {row.truncated} answers were truncated")
    if row.flips:
        parts.append(f"{row.flips[0]} questions gained, {row.flips[1]} lost")
    if noise := row.noise:
        low, high = map(signed, noise.interval90)
        parts.append(
            f"the baseline compared with itself, {noise.repeats:g} repeats each: difference {signed(noise.difference)} "
            f"[{low}, {high}], {100 * noise.flip_rate:.1f} % of the questions flip"
        )
    return "; ".join(parts if row.reason and row.reason in shown else (*parts, row.reason))


def signed(value: float) -> str:
    text = f"{value:+.3f}"
    return "0.000" if float(text) == 0 else text.replace("-", "−")


def _front_matter(record: Record) -> dict[str, Any]:
    model, used = record.model, record.chip.components
    known = model.license in licences.HUB_LICENCES
    fields: dict[str, Any] = {"license": model.license if known else "other"}
    if not known:
        link = licences.text_url(model.license) or upstream_url(record)
        fields |= {"license_name": model.license, "license_link": link}
    fields["base_model"] = [model.upstream]
    if model.languages:
        fields["language"] = list(model.languages)
    parts = [part for part in COMPONENTS if getattr(used, part) != "none"]
    tags = ["flagos", "flagrelease", record.chip.vendor, *parts, model.serve.engine]
    return fields | {
        "pipeline_tag": "text-generation",
        "tasks": ["text-generation"],
        "tags": list(dict.fromkeys(tags)),
    }


def scores_table(record: Record) -> Markdown:
    """The evaluation table."""
    header = (
        METRIC_FIRST,
        record.accuracy.baseline_name,
        record.candidate_name,
        "Questions",
        "Repeats",
        "Difference",
        "90 % interval",
        "Margin",
        "Verdict",
    )
    rows = [(code(row.metric), *(Markdown(cell) for cell in score_cells(row))) for row in record.accuracy.benchmarks]
    return table(header, rows)


def attempts_table(record: Record) -> Markdown | None:
    """All judgements of each benchmark's lineage; None if each was judged once."""
    if all(len(row.attempts) < 2 for row in record.accuracy.benchmarks):
        return None
    rows = [
        (
            code(row.metric),
            str(attempt.number),
            code(attempt.image.removeprefix("sha256:")[:12]),
            attempt.profile,
            f"{attempt.answers:,}",
            signed(attempt.difference),
            Markdown("[{}, {}]".format(*map(signed, attempt.interval90))),
            f"{100 * attempt.level:.2g} %",
            attempt.verdict,
        )
        for row in record.accuracy.benchmarks
        for attempt in row.attempts
    ]
    header = ("Judged", "Attempt", "Image", "Profile", "Answers", "Difference", "90 % interval", "Level", "Verdict")
    return table(header, rows)


def tokens_table(record: Record) -> Markdown | None:
    """The results of the token gate: the candidate, then the baseline's stack compared with itself."""
    gate = record.accuracy.token_gate
    if gate is None or gate.candidate is None or gate.floor is None:
        return None
    name = record.accuracy.baseline_name
    header = (f"Against {name}", "Tokens", "Prompts", "Same likeliest token", "KL per token, nats", "99.5 % interval")
    rows = [
        (
            side,
            f"{distance.tokens:,}",
            str(distance.prompts),
            f"{distance.same_top:.1%}",
            f"{distance.mean:.4f}",
            "[{:.4f}, {:.4f}]".format(*distance.interval),
        )
        for side, distance in ((record.candidate_name, gate.candidate), (f"{name}, asked again", gate.floor))
    ]
    return table(header, rows)


def _environment(record: Record) -> list[tuple[object, object]]:
    rows: dict[str, str] = {"Accelerator": record.chip.device.name, **record.smoke.environment}
    for part, title in COMPONENTS.items():
        version = getattr(record.chip.components, part)
        rows[title] = "not applied" if version == "none" else version
    named = {title.lower() for title in rows} | {"flag-scale", "flag_scale"}
    rows |= {name: version for name, version in record.image.versions.items() if name.lower() not in named}
    return list(rows.items())


def _anythingllm(record: Record) -> list[tuple[object, object]]:
    return [(name, code(value)) for name, value in user_commands.anything_llm(record.model).items()]


def _provenance(record: Record) -> list[tuple[object, object]]:
    rows: list[tuple[object, object]] = [
        ("Cell", code(record.cell)),
        ("Image", code(record.image.reference)),
        ("Release tag", code(record.tag)),
        *([("Image size", size_text(record.image.size))] if record.image.size else []),
        ("Base image", Markdown(", ".join(code(part) for part in (record.image.base, record.image.base_id) if part))),
        ("Weights", Markdown(f"{code(record.weights.source)}, revision {code(record.weights.revision)}")),
        *_weights(record.weights),
        ("Evaluation profile", code(record.profile_name)),
    ]
    if passed := ", ".join(check.name for check in record.smoke.checks if check.passed):
        rows.insert(-1, ("Smoke checks passed", passed))
    if record.smoke.skipped:
        rows.append(("Smoke checks skipped", "; ".join(f"{name}: {why}" for name, why in record.smoke.skipped.items())))
    rows += [
        (f"Earlier result of {keep.stage}", f"accepted by {keep.by}, {keep.at[:10]}: {keep.reason}")
        for keep in record.kept
    ]
    if record.accuracy.baseline_key:
        baseline = Markdown(f"{escape(record.accuracy.baseline_name)}, {code(record.accuracy.baseline_key)}")
        rows.append(("Baseline", baseline))
    return [*rows, *_lineage(record)]


def _lineage(record: Record) -> list[tuple[object, object]]:
    """The release's place among those of its cell, and how much its evidence covers."""
    found = maturity(read(dumps(record)))
    rows: list[tuple[object, object]] = [("Maturity", "; ".join([found.level, *found.missing]))]
    lineage = record.lineage
    if lineage is not None:
        rows.append(("Revision", f"{lineage.revision}: {lineage.reason}"))
        if lineage.parent:
            why = f", which was yanked: {escape(lineage.parent_yanked)}" if lineage.parent_yanked else ""
            rows.append(("Replaces", Markdown(f"{code(lineage.parent)}, {code(lineage.parent_image)}{why}")))
    return rows


def _weights(weights: Weights) -> list[tuple[object, object]]:
    if weights.unpacked is None:
        return [("Weights digest", code(weights.digest))]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(weights.unpacked.versions.items()))
    return [
        ("Downloaded weights digest", code(weights.unpacked.digest)),
        ("Served weights digest", Markdown(f"{code(weights.digest)}, unpacked by {escape(versions)}")),
    ]


def stages_table(record: Record) -> Markdown:
    """Time and network traffic of each stage."""
    rows = [(cost.stage, f"{cost.seconds:.1f} s", size_text(cost.moved)) for cost in record.stages]
    return table(("Stage", "Time", "Bytes moved"), rows)


def _licence(record: Record) -> Markdown:
    licence = record.model.license
    if titled := licences.TITLES.get(licence):
        return Markdown(f"the {_link(*titled)}")
    if url := licences.text_url(licence):
        return Markdown(f"{code(licence)}, whose text is at {_link(url.removeprefix('https://'), url)}")
    return Markdown(f"{code(licence)}, whose text is at {_link(record.model.upstream, upstream_url(record))}")


def _link(text: str, url: str) -> Markdown:
    """A link to an https URL; characters that a URL cannot contain are percent-encoded."""
    from urllib.parse import quote

    return Markdown(f"[{escape(text)}]({quote(url, safe=':/._-~%+@')})")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
