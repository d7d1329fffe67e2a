"""Build the base image of the chip `cpu`: Debian's image plus a few packages, or the same from packages only."""

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import engine
from host import CACHE, ROOT, Done, SetupError, apt_install, apt_refresh, as_root, locked, output, run

DOCKERFILE = ROOT / "templates/base.Dockerfile"  # `flagrelease init` writes it for users without a checkout
NAME = os.environ.get("FLAGRELEASE_BASE", "flagrelease-base:bookworm")
SUITE = "bookworm"
# Files that a container does not need. Licence texts (*/copyright) stay, since the image is published.
LEFT_OUT = ("/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/doc/*")
KEPT = "/usr/share/doc/*/copyright"


def _of_dockerfile(pattern: str) -> str:
    found = re.search(pattern, DOCKERFILE.read_text(), re.MULTILINE)
    if found is None:
        raise SetupError(f"{DOCKERFILE.name} has no {pattern}", "restore it: `git checkout templates`")
    return found[1]


UPSTREAM = _of_dockerfile(r"^FROM (\S+)$")
PACKAGES = tuple(_of_dockerfile(r"--no-install-recommends \\\n +(.*) \\$").split())


def ensure() -> Done:
    """Make the base image available in Docker Engine."""
    if found := engine.has_image(NAME):
        return _done("present", found)
    with locked("base"):
        if found := engine.has_image(NAME):
            return _done("present", found)
        state = "pulled" if _pull() else _make()
        found = engine.has_image(NAME)
    if found is None:
        raise SetupError(f"{NAME} does not exist although it was {state}", "list the images with `docker images`")
    return _done(state, found)


def _done(state: str, image: tuple[str, int]) -> Done:
    identity, size = image
    return Done(state, f"{NAME}, {size / 1e6:.0f} MB, {identity[:19]}")


def _pull() -> bool:
    """Build on Debian's published image; False if it cannot be pulled, or the build cannot fetch packages."""
    context = CACHE / "base"
    context.mkdir(parents=True, exist_ok=True)
    shutil.copy(DOCKERFILE, context / "Dockerfile")
    try:
        run("base", ["docker", "pull", "--quiet", UPSTREAM], todo="")
        run("base", ["docker", "build", "--quiet", "--network", "host", "--tag", NAME, str(context)], todo="")
    except SetupError:
        return False
    return True


def _make() -> str:
    if shutil.which("mmdebstrap") is None:
        apt_install("mmdebstrap")
    with locked("apt"):
        apt_refresh()
    # The archives that this machine uses: respects a mirror, and includes security updates.
    targets = output(["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"])
    sources = sorted({f"deb {line}" for line in targets.splitlines() if f" {SUITE}" in line and line.endswith(" main")})
    if not sources:
        raise SetupError(
            f"apt on this machine has no source for Debian {SUITE}",
            "use Debian 12, or make the image on a Debian 12 machine (`make base`), `docker save` it and load it here",
        )
    tar, epoch = CACHE / "base.tar", _epoch()
    rules = [f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT] + [f"--dpkgopt=path-include={KEPT}"]
    hooks = [
        # The published image must not name a local mirror; caches and logs would make every build differ.
        'rm -rf "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/* "$1"/var/lib/apt/lists/* "$1"/var/cache/*',
        'rm -f "$1"/etc/dpkg/dpkg.cfg.d/99mmdebstrap "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/var/log/*.log',
        'rm -f "$1"/var/log/apt/* "$1"/etc/hostname "$1"/etc/resolv.conf "$1"/etc/machine-id',
        # The only byte code that differs between builds: Debian's helpers, which a container does not need.
        'rm -rf "$1"/usr/share/python3/debpython/__pycache__',
    ]
    run(
        "base",
        as_root(
            [
                "env",
                # Only limits the timestamps that the build creates; files keep their packages' dates.
                f"SOURCE_DATE_EPOCH={epoch}",
                "mmdebstrap",
                "--mode=root",
                "--variant=apt",
                f"--include={','.join(PACKAGES)}",
                *_host_configuration(),
                *rules,
                *[f"--customize-hook={hook}" for hook in hooks],
                SUITE,
                str(tar),
                *sources,
            ]
        ),
        todo="check the network and /etc/apt/sources.list*, then run again",
    )
    image = CACHE / "base-image.tar"
    _as_image(tar, image, epoch)
    run("base", ["docker", "load", "--input", str(image)], todo="see the log")
    tar.unlink()
    image.unlink()
    return "made"


def _as_image(layer: Path, image: Path, epoch: int) -> None:
    """Wrap one layer for `docker load`. Unlike with `docker import`, the image's id does not depend on the time."""
    with layer.open("rb") as stream:
        diff_id = hashlib.file_digest(stream, "sha256").hexdigest()
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = {
        "architecture": output(["dpkg", "--print-architecture"]),
        "os": "linux",
        "created": created,
        "config": {
            "Cmd": ["/bin/bash"],
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
        },
        "history": [{"created": created, "created_by": f"mmdebstrap {SUITE} {' '.join(PACKAGES)}"}],
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]
    with tarfile.open(image, "w") as out:
        out.add(layer, "layer.tar")
        for name, content in (("config.json", config), ("manifest.json", manifest)):
            data = json.dumps(content, sort_keys=True).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            out.addfile(entry, io.BytesIO(data))


def _epoch() -> int:
    """The date of the newest release file that apt read, which only changes when the archive changes."""
    texts = (path.read_text(errors="replace") for path in Path("/var/lib/apt/lists").glob(f"*{SUITE}*Release"))
    dates = (re.search(r"^Date: (.*)$", text, re.MULTILINE) for text in texts)
    return max((int(parsedate_to_datetime(date[1]).timestamp()) for date in dates if date), default=0)


def _host_configuration() -> list[str]:
    """This machine's proxy and certificate settings of apt, which mmdebstrap does not read."""
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Check", "Acquire::Retries")
    return [
        f"--aptopt={line.rstrip(';')}"
        for line in output(["apt-config", "dump"]).splitlines()
        if line.startswith(wanted) and not line.endswith('"";')
    ]
