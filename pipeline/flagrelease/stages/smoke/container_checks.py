"""Check the running container: what it runs, its manifest and its weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flagrelease.serving.inside import CheckFailed, Inside
from flagrelease.serving.server import layout_of
from flagrelease.store.digests import file_sha256, sha256_of
from flagrelease.store.workspace import manifest_of

_HASHERS = 4


def flagscale_in_effect(container: Inside) -> str:
    """Check that FlagScale started the engine."""
    processes = [" ".join(line.split()) for line in container.server.running.processes()]
    launched = next((line for line in processes if "flagscale/serve/run_inference_engine.py" in line), "")
    if not launched:
        raise CheckFailed(f"no FlagScale process among {processes}")
    root = layout_of(container.image, container.context.workspace).root  # do not publish paths of this machine
    return f"the engine runs under `{launched.replace(root, '')[:80]}`"


def manifest_inside(container: Inside) -> str:
    """Check that the pulled image has the manifest that was built, and the package versions of the build."""
    path = layout_of(container.image, container.context.workspace).manifest
    text = container.execute("cat", path)
    manifest = next(file for file in container.image.evidence if file.name == "manifest.json")
    if sha256_of(text.encode()) != manifest.sha256:
        raise CheckFailed(f"{path} differs from the manifest that was built")
    built = next(file for file in container.image.evidence if file.name == "packages.json")
    expected, actual = json.loads(container.context.evidence.read(built)), container.packages()
    differing = [name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name)]
    if differing:
        shown = ", ".join(f"{name} {actual.get(name)} instead of {expected.get(name)}" for name in sorted(differing))
        raise CheckFailed(f"package versions differ from the build: {shown}")
    return f"manifest sha256 {manifest.sha256[:12]}, {len(actual)} packages with the expected versions"


def weights_unchanged(container: Inside) -> str:
    """Read all files that are served, and compare them with the lock: a failing disk changes neither size nor time."""
    folder = container.context.workspace.weights / container.weights.folder
    container.context.progress.doing(f"verifying {len(container.weights.files)} files of the weights")
    with ThreadPoolExecutor(_HASHERS) as pool:
        found = list(pool.map(lambda file: _sha256(folder / file.path), container.weights.files))
    changed = [file.path for file, sha in zip(container.weights.files, found, strict=True) if sha != file.sha256]
    if changed:
        manifest_of(folder).unlink(missing_ok=True)
        raise CheckFailed(f"{changed[0]} is not what was verified when it was fetched; the next run fetches it again")
    return f"{len(found)} file{'s' * (len(found) != 1)}, sha256 verified"


def _sha256(path: Path) -> str:
    """sha256 (hex); empty for a file that cannot be read."""
    try:
        return file_sha256(path)
    except OSError:
        return ""


def all_of(container: Inside) -> Iterator[tuple[str, Callable[[], str]]]:
    """The container checks, by name."""
    if container.cell.stack == "flagos":
        yield "FlagScale in effect", lambda: flagscale_in_effect(container)
    yield "manifest", lambda: manifest_inside(container)
    yield "weights", lambda: weights_unchanged(container)
