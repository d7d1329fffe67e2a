"""Docker Engine: one that answers is used as it is; otherwise it is installed, otherwise started."""

import getpass
import grp
import http.client
import json
import os
import shutil
import socket
from pathlib import Path

from host import Done, SetupError, apt_install, as_root, locked, relative, run, start_daemon, wait_until

SOCKET = Path("/var/run/docker.sock")
DAEMON = "dockerd"


class _UnixConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(SOCKET))


def _get(path: str) -> tuple[int, bytes]:
    connection = _UnixConnection("localhost", timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def version() -> str | None:
    """The version of the engine that answers, or None. Raises SetupError where it answers, but not to this user."""
    try:
        status, body = _get("/version")
    except PermissionError as error:
        raise SetupError(
            f"Docker Engine runs, but {getpass.getuser()} may not use it",
            f"`sudo usermod -aG docker {getpass.getuser()}`, log in again, then repeat",
        ) from error
    except (OSError, http.client.HTTPException):
        return None
    return str(json.loads(body)["Version"]) if status == 200 else None


def has_image(reference: str) -> tuple[str, int] | None:
    """(id, bytes) of a local image, or None."""
    status, body = _get(f"/images/{reference}/json")
    if status != 200:
        return None
    image = json.loads(body)
    return str(image["Id"]), int(image["Size"])


def ensure() -> Done:
    """Bring an engine up. With DOCKER_HOST set, that engine is the user's business."""
    if remote := os.environ.get("DOCKER_HOST"):
        return Done("external", remote)
    if found := version():
        return Done("present", found)
    with locked("engine"):
        if found := version():
            return Done("present", found)
        installed = shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None
        if installed:
            # iptables comes only as a recommendation, and dockerd ends without it.
            apt_install("docker.io", "iptables", "ca-certificates")
        if not (installed and wait_until(lambda: version() is not None, 5 if _systemd() else 1)):
            _start()
    return Done("installed" if installed else "started", f"{version()}")


def _systemd() -> bool:
    return Path("/run/systemd/system").is_dir()


def _start() -> None:
    if _systemd():
        run("dockerd", as_root(["systemctl", "start", "docker"]), todo="see `journalctl -u docker`, then repeat")
        wait_until(lambda: version() is not None, 30)
        return
    # The socket belongs to the user's own group, so that no new login is needed to use it.
    argv = ["dockerd", "--group", grp.getgrgid(os.getgid()).gr_name, *os.environ.get("DOCKERD_ARGS", "").split()]
    log = start_daemon(DAEMON, as_root(argv))
    if not wait_until(lambda: version() is not None, 60):
        lines = log.read_text(errors="replace").splitlines()[-1:]
        raise SetupError(
            f"dockerd does not answer: {''.join(lines)[-200:]}",
            f"read {relative(log)}; DOCKERD_ARGS passes options (--iptables=false, --storage-driver=vfs …)",
            log,
        )
