"""The pip of this environment as a wheel again: Debian's Python comes without ensurepip's."""

from __future__ import annotations

import zipfile
from importlib.metadata import distribution
from pathlib import Path


def pip_wheel(folder: Path) -> Path:
    pip = distribution("pip")
    made = folder / f"pip-{pip.version}-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as wheel:
        for file in pip.files or ():
            if ".." not in file.parts and file.suffix != ".pyc":  # not the programs beside it
                wheel.write(file.locate(), str(file))
    return made
