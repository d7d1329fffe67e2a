"""Run a local registry: Debian's docker-registry as an ordinary process of the user.

The package is unpacked, not installed: when installed, it starts a service on the same port that needs a password file.
"""

import http.client
import os
import shutil
from pathlib import Path

from host import CACHE, LOGS, ROOT, Done, SetupError, apt_refresh, locked, relative, run, start_daemon, wait_until

PORT = int(os.environ.get("FLAGRELEASE_REGISTRY_PORT", "5000"))
DAEMON = "registry"
DATA = ROOT / ".flagrelease" / "registry"
CONFIG = CACHE / "registry.yml"
UNPACKED = CACHE / "docker-registry"

CONFIGURATION = """\
version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {data}}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:{port}"}}
"""


def answers() -> bool:
    """True if a registry without authentication responds. Raises SetupError if something else uses the port."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
    try:
        connection.request("GET", "/v2/")
        response = connection.getresponse()
        response.read()
    except ConnectionRefusedError:
        return False
    except (OSError, http.client.HTTPException) as error:
        raise SetupError(*_taken(f"{error}")) from error
    finally:
        connection.close()
    if response.status != 200 or "registry/2" not in response.headers.get("Docker-Distribution-Api-Version", ""):
        raise SetupError(*_taken(f"HTTP {response.status} for /v2/"))
    return True


def _taken(answer: str) -> tuple[str, str]:
    return (
        f"port {PORT} is used by something that is not an open registry ({answer})",
        f"stop it (`ss -ltnp 'sport = :{PORT}'`) or choose another port: FLAGRELEASE_REGISTRY_PORT=5001 make …",
    )


def ensure() -> Done:
    """Start a registry on 127.0.0.1 unless one is running."""
    address = f"localhost:{PORT}"
    if answers():
        return Done("present", address)
    with locked("registry"):
        if answers():
            return Done("present", address)
        path, fetched = _program()
        DATA.mkdir(parents=True, exist_ok=True)
        CONFIG.write_text(CONFIGURATION.format(data=DATA, port=PORT))
        log = start_daemon(DAEMON, [path, "serve", str(CONFIG)])
        if not wait_until(answers, 20):
            raise SetupError(f"docker-registry does not respond on port {PORT}", f"see {relative(log)}", log)
    return Done("installed" if fetched else "started", f"{address}, data in {relative(DATA)}")


def program() -> Done:
    """Have the program at hand, also where the registry that runs is not ours: tests start registries of their own."""
    with locked("registry"):
        path, fetched = _program()
    return Done("installed" if fetched else "present", relative(Path(path)))


def _program() -> tuple[str, bool]:
    unpacked = UNPACKED / "usr/bin/docker-registry"
    if found := shutil.which("docker-registry"):
        return found, False
    if unpacked.exists():
        return str(unpacked), False
    downloads = CACHE / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    with locked("apt"):
        apt_refresh()
        _download(downloads)
    (package,) = downloads.glob("docker-registry_*.deb")
    run(
        "apt",
        ["dpkg-deb", "-x", str(package), str(UNPACKED)],
        todo=f"remove {relative(downloads)} and run again",
    )
    package.unlink()
    return str(unpacked), True


def _download(folder: Path) -> None:
    LOGS.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("docker-registry_*.deb"):
        old.unlink()
    script = f"cd '{folder}' && apt-get -q download docker-registry"
    todo = "check that your sources have it: `apt-cache policy docker-registry` (Debian main, Ubuntu universe)"
    run("apt", ["sh", "-c", script], todo=todo)
