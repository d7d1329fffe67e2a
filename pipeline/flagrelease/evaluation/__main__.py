"""`python -m flagrelease.evaluation DIR [PATH=LICENCE …]`: write the manifest of a benchmark data folder.

A licence applies to every file whose path starts with PATH: `gpqa=CC-BY-4.0`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from flagrelease.errors import ConfigError, FlagreleaseError
from flagrelease.evaluation.datasets import read_manifest, write_manifest


def main(arguments: list[str]) -> int:
    try:
        if not arguments or not Path(arguments[0]).is_dir():
            raise ConfigError("the first argument must be the data folder", hint=(__doc__ or "").partition(":")[0])
        licenses = dict(argument.partition("=")[::2] for argument in arguments[1:])
        if not all(licenses.values()):
            raise ConfigError("a licence must be given as PATH=LICENCE", hint="for example gpqa=CC-BY-4.0")
        path = write_manifest(Path(arguments[0]), licenses)
        count = len(read_manifest(path.parent).files)
        print(f"{path}: {count} file{'s' * (count != 1)}")  # noqa: T201  the output of this program
    except FlagreleaseError as error:
        print(error.line(), error.hint, sep="\n", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
