"""Write the release record and its charts, then render and lint the card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.contract.handles import Finished
from flagrelease.contract.job import Job
from flagrelease.redact import redact
from flagrelease.stages.card import charts, chinese, exports, facts, fonts, lint, record, render
from flagrelease.stages.card.files import README, README_ZH, RECORD
from flagrelease.store.files import write_atomic


def make(job: Job, context: Context, code_version: str) -> results.Card:
    """Write record, charts and card. Raises GateFailed with every defect; a defective card stays in scratch."""
    context.progress.doing("writing the record, the charts and the card")
    release, written = write(job, context.finished, code_version)
    images = {name: data for name, data in written.items() if name in charts.NAMES}
    for name in (README, README_ZH):
        draft = context.workspace.scratch(job.cell.slug, "card") / name
        write_atomic(draft, written[name])
        beside = images | ({README: written[README]} if name == README_ZH else {})
        passed = lint.check(written[name].decode(), release, beside, str(draft))
        draft.unlink(missing_ok=True)
    return results.Card(
        readme=context.evidence.put(README, written[README]),
        images=tuple(context.evidence.put(name, data) for name, data in images.items()),
        lint=passed,
        evidence=tuple(
            context.evidence.put(name, data) for name, data in written.items() if name != README and name not in images
        ),
    )


def write(
    job: Job, finished: Finished, code_version: str, unfinished: Mapping[str, str] | None = None
) -> tuple[record.Record, dict[str, bytes]]:
    """The release record, and the contents of all files of the card by name. `code_version` is that of the
    card stage; `unfinished` has the state of each stage without a result."""
    release = record.build(job, finished, code_version, unfinished)
    release = replace(release, public_image=facts.public_image(release, job.matrix.targets))
    # The card repeats the record, so redact secrets before writing either.
    release = record.loads(redact(record.dumps(release).decode()).encode())
    written = {
        README: render.render(release, job.templates).encode(),
        RECORD: record.dumps(release),
        README_ZH: chinese.render_card(release, job.templates).encode(),
        **exports.files(release),
    }
    fonts.find()
    if release.accuracy.benchmarks:
        written[charts.SCORES] = charts.scores(release)
    if release.speed is not None:
        written[charts.SPEED] = charts.speed(release, release.speed)
    return release, written
