"""Provide Docker Engine: use a running one, otherwise start it, installing it if necessary."""

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
    """The version of the running engine, or None. Raises SetupError if this user may not use it."""
    try:
        status, body = _get("/version")
    except PermissionError as error:
        raise SetupError(
            f"Docker Engine is running, but {getpass.getuser()} may not use it",
            f"run `sudo usermod -aG docker {getpass.getuser()}`, log in again, then run again",
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
    """Start an engine. With DOCKER_HOST set, the user is responsible for that engine."""
    if remote := os.environ.get("DOCKER_HOST"):
        return Done("external", remote)
    if found := version():
        return Done("present", found)
    with locked("engine"):
        if found := version():
            return Done("present", found)
        installed = shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None
        if installed:
            # iptables is only a recommended package, but dockerd exits without it.
            apt_install("docker.io", "iptables", "ca-certificates")
        if not (installed and wait_until(lambda: version() is not None, 5 if _systemd() else 1)):
            _start()
    return Done("installed" if installed else "started", f"{version()}")


def _systemd() -> bool:
    return Path("/run/systemd/system").is_dir()


def _start() -> None:
    if _systemd():
        run("dockerd", as_root(["systemctl", "start", "docker"]), todo="see `journalctl -u docker`, then run again")
        wait_until(lambda: version() is not None, 30)
        return
    # The socket belongs to the user's group, so that using it needs no new login.
    argv = ["dockerd", "--group", grp.getgrgid(os.getgid()).gr_name, *os.environ.get("DOCKERD_ARGS", "").split()]
    log = start_daemon(DAEMON, as_root(argv))
    if not wait_until(lambda: version() is not None, 60):
        lines = log.read_text(errors="replace").splitlines()[-1:]
        raise SetupError(
            f"dockerd does not respond: {''.join(lines)[-200:]}",
            f"see {relative(log)}; DOCKERD_ARGS passes options (--iptables=false, --storage-driver=vfs …)",
            log,
        )
