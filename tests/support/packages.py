"""Files of made-up Python packages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def distribution(name: str, version: str, requires: str = "") -> dict[str, str]:
    """The files of an installed package whose module has its version."""
    info = f"{name}-{version}.dist-info"
    return {
        f"{name}.py": f"VERSION = {version!r}\ndef main():\n    import one\n    print('one', one.VERSION)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }


def written(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
