"""The files of an image, as a container of it sees them."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from flagrelease.ports.docker.engine import Engine

_PROGRAM = r"""
import hashlib, json, os, stat
found = {}
for folder, folders, files in os.walk("/"):
    # What the kernel and the engine put there.
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/sys", "/dev")]
    for name in (*folders, *files):
        path = os.path.join(folder, name)
        seen = os.lstat(path)
        content = os.readlink(path) if stat.S_ISLNK(seen.st_mode) else ""
        if stat.S_ISREG(seen.st_mode):
            with open(path, "rb") as stream:
                data = stream.read()
            content = hashlib.sha256(data).hexdigest()
            if path.startswith("/opt/flagos/lib/bin/") or path.endswith("/RECORD"):
                content = data.decode()
        found[path] = [oct(seen.st_mode), seen.st_uid, seen.st_gid, content]
print(json.dumps(found))
"""
_OF_THE_ENGINE = ("/.dockerenv", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
_OF_THE_INSTALLER = ("INSTALLER", "REQUESTED", "direct_url.json")
"""What a program that installs writes about itself: its name, whether the package was asked for, and where it was."""


def tree(engine: Engine, image: str) -> dict[str, Any]:
    """By path: mode, user, group, and the sha256 of a file or the target of a link.

    Not in it: bytecode, what the engine adds to each container, and what a program that installs writes about itself.
    Of a generated script only what it imports and starts counts, and of a RECORD the files but for all these.
    """
    printed = engine.output(image, ["python3", "-B", "-c", _PROGRAM], {})
    found: dict[str, Any] = json.loads(printed)
    return {
        path: [*entry[:3], _content(path, entry[3])]
        for path, entry in found.items()
        if path not in _OF_THE_ENGINE
        and "__pycache__" not in path
        and not (".dist-info/" in path and path.endswith(_OF_THE_INSTALLER))
    }


def bytecode(engine: Engine, image: str, tag: str) -> set[str]:
    """The paths of the release's bytecode for that version of Python."""
    program = f"import pathlib; print(*pathlib.Path('/opt/flagos/lib').rglob('*.{tag}.pyc'))"
    return set(engine.output(image, ["python3", "-B", "-c", program], {}).split())


def _content(path: str, text: str) -> Any:
    if path.endswith("/RECORD"):
        # pip lists scripts below the folder that it installed them to before it moved them.
        lines = (re.sub(r"^(\.\./)+", "", line) for line in text.splitlines())
        own = ("bin/", "__pycache__", *_OF_THE_INSTALLER)
        return sorted(
            line.rsplit("=", 1)[-1] for line in lines if line[:4] != "bin/" and not any(o in line for o in own)
        )
    if path.startswith("/opt/flagos/lib/bin/") and "sys.exit(" in text:
        parsed = ast.parse(text)
        imports = [ast.unparse(node) for node in parsed.body if isinstance(node, ast.ImportFrom)]
        return [text.splitlines()[0], imports, re.findall(r"sys\.exit\((\w+)\(\)\)", text)]
    return text
