"""`python -m flagrelease.evaluation DIR`: write the manifest of a folder of benchmark data."""

from __future__ import annotations

import sys
from pathlib import Path

from flagrelease.errors import ConfigError, FlagreleaseError
from flagrelease.evaluation.data import read_manifest, write_manifest


def main(arguments: list[str]) -> int:
    try:
        if len(arguments) != 1 or not Path(arguments[0]).is_dir():
            raise ConfigError("exactly one argument, the data folder, is needed")
        path = write_manifest(Path(arguments[0]))
        print(f"{path}: {len(read_manifest(path.parent).files)} files")  # noqa: T201  a program of its own
    except FlagreleaseError as error:
        print(error.line(), error.hint, sep="\n", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
