"""Adding a verb takes the places that the README names."""

from pathlib import Path

import pytest

from support.package_copy import Copy, recipe


@pytest.fixture
def package(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


VERB = """
import argparse


def main(arguments: argparse.Namespace) -> int:
    print(f"hello, {arguments.who}")
    return 0
"""

USED = """
from flagrelease.cli.app import main

print(main(["greet", "--who", "world"]), main(["gret"]))
try:
    main(["greet", "--help"])
except SystemExit:
    pass
"""


def test_a_verb(package: Copy) -> None:
    app = "cli/verbs.py"
    package.write("cli/commands/greet.py", VERB)
    package.insert(app, "VERBS", '    ("greet", "say hello"),')
    package.insert(app, "    made = {", '    made["greet"].add_argument("--who", help="whom to greet")')
    assert package.touched == recipe("a verb", "greet")

    printed = package.run(USED)
    assert printed.startswith("hello, world\n0 2\n"), printed
    assert "say hello" in printed
    assert "--who WHO" in printed
