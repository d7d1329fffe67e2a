"""`flagrelease verify FOLDER|IMAGE|BUNDLE`: check a release again, without inference."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from flagrelease.cli.text_table import aligned, terminal_width
from flagrelease.errors import ConfigError, GateFailed, UpstreamRefused
from flagrelease.ports.registry import Registry
from flagrelease.run.project import shipped_templates
from flagrelease.store.files import write_atomic
from flagrelease.verification import image
from flagrelease.verification.bundles import read as bundles
from flagrelease.verification.download import download
from flagrelease.verification.findings import Check, State, differs, exit_code
from flagrelease.verification.release import open_release
from flagrelease.verification.verify import Options, receipt, verify

_MARKS = {State.AGREES: "✓", State.DIFFERS: "✗", State.NOT_CHECKED: "–"}
_RESULTS = {
    0: "verified: {agrees} checks agree, {not checked} are not checked",
    4: "differs, see ✗: {differs}; {agrees} checks agree, {not checked} are not checked",
    5: "not verified: nothing differs, but what decides is missing; {agrees} checks agree, {not checked} not checked",
}


def main(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="flagrelease-verify-") as downloads:
        return _verify(arguments, Path(downloads))


def _verify(arguments: argparse.Namespace, downloads: Path) -> int:
    folder, reference = _subject(arguments.subject, arguments.folder)
    if missing := [data for data in arguments.data_dir if not data.is_dir()]:
        raise ConfigError(f"--data-dir {missing[0]} is not a directory")
    registry: Registry | None = None
    bundle = bundles.opened(folder) if folder is not None and bundles.is_bundle(folder) else None
    if bundle is not None:
        if reference is not None:
            raise ConfigError("--folder is a bundle", hint="give the bundle instead of the image")
        reference, registry, folder = bundle.reference, bundle.layout, bundle.release.folder
    elif reference is not None:
        from flagrelease.ports.registry import OciRegistry

        host = reference.repository.partition("/")[0]
        registry = OciRegistry(authorities={host: arguments.ca} if arguments.ca is not None else {})
        folder = folder or download(reference, registry, downloads)
    assert folder is not None  # noqa: S101 - given, or downloaded
    release = open_release(folder)
    options = Options(
        templates=arguments.templates or shipped_templates(),
        data=tuple(arguments.data_dir),
        programs=arguments.programs,
        key=arguments.key,
        reference=reference,
    )
    checks = verify(release, options, registry) if bundle is None else _of_bundle(bundle, options)
    made = receipt(release, options, checks, datetime.now(UTC).isoformat(timespec="seconds"))
    text = json.dumps(made, indent=2, ensure_ascii=False)
    if arguments.receipt is not None:
        write_atomic(arguments.receipt, f"{text}\n".encode())
    print(text if arguments.json else _table(checks))
    return exit_code(checks)


def _of_bundle(bundle: bundles.Bundle, options: Options) -> list[Check]:
    own = list(bundles.checks(bundle))
    try:
        return verify(bundle.release, options, bundle.layout) + own
    except UpstreamRefused as error:
        # A blob that cannot be read as it should ends the verification: what is wrong with it is among `own`.
        if exit_code(own) != GateFailed.exit_code:
            raise
        return [differs("bundle", "image/", error.line()), *own]


def _subject(subject: str, folder: Path | None) -> tuple[Path | None, image.Reference | None]:
    """The folder and the image, as far as they are given."""
    if Path(subject).exists():
        if folder is not None:
            raise ConfigError(f"{subject} is a folder, and --folder gives another one", hint="leave out --folder")
        path = Path(subject)
        return path.parent if path.is_file() else path, None
    return folder, image.parse(subject)


def _table(checks: list[Check]) -> str:
    rows = [(check.check, check.subject, _MARKS[check.state], check.detail) for check in checks]
    counted = Counter(check.state.value for check in checks)
    result = _RESULTS[exit_code(checks)].format(**{state.value: counted[state.value] for state in State})
    return f"{aligned(('check', 'subject', '', 'detail'), rows, width=terminal_width())}\n\n{result}"
