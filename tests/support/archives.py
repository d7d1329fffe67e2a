"""Build contexts in memory."""

from __future__ import annotations

import io
import tarfile


def packed(files: dict[str, str]) -> io.BytesIO:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    target.seek(0)
    return target
