"""What the code of a small package reaches, and what its digest does and does not depend on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from flagrelease.contract.definitions import Analysis
from flagrelease.contract.reach import Cache, Code, Reached

STAGE = '''\
"""A stage."""

from __future__ import annotations

import os

from app import shapes
from app.text import clean


def run(job):
    """Do it."""
    return shapes.area(clean(job), os.sep)


def helper():
    return 1


STAGE = (run, "stage")
'''
SHAPES = """\
from app.deep import half


def area(text, sep):
    return half(len(text)) + len(sep)
"""
TEXT = """\
def clean(text):
    # as it was typed
    return text.strip()


def unused(text):
    return text
"""
DEEP = """\
FACTOR = 2


def half(number):
    return number / FACTOR
"""
FILES = {"__init__": "", "stage": STAGE, "shapes": SHAPES, "text": TEXT, "deep": DEEP}


def code(root: Path, files: Mapping[str, str], cache: Cache[Analysis] | None = None) -> Code:
    shutil.rmtree(root / "app", ignore_errors=True)
    for name, text in files.items():
        path = root / "app" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Code(root, ("app",), lambda module: not module.startswith("app.carried"), cache)


def reached(root: Path, files: Mapping[str, str], start: str = "app.stage") -> Reached:
    made = code(root, files)
    return made.reached(made.definition(start, "STAGE"))


def digest(root: Path, **changed: str) -> str:
    return reached(root, {**FILES, **changed}).digest


@pytest.fixture
def before(tmp_path: Path) -> str:
    return digest(tmp_path)


def test_comments_docstrings_positions_and_imports_do_not_count(tmp_path: Path, before: str) -> None:
    reworded = (
        STAGE.replace("Do it", "Does all of it").replace("A stage", "Another").replace("\n\n\n", "\n\n\n\n# so\n")
    )
    assert digest(tmp_path, stage=reworded) == before
    turned = STAGE.replace(
        "from app import shapes\nfrom app.text import clean\n", "from app.text import clean\nfrom app import shapes\n"
    )
    assert turned != STAGE
    assert digest(tmp_path, stage=turned) == before
    assert (
        digest(tmp_path, text=TEXT.replace("as it was typed", "without blanks").replace("(text)", "( text )")) == before
    )
    inside = SHAPES.replace("from app.deep import half\n", "").replace(
        "    return", '    """The half."""\n    from app.deep import half\n\n    return'
    )
    assert digest(tmp_path, shapes=inside) == before


def test_a_definition_that_moves_to_another_file_does_not_count(tmp_path: Path, before: str) -> None:
    moved = "from app.deep import half\n\n\n" + TEXT + SHAPES.partition("\n\n\n")[2]
    files = {**FILES, "text": moved, "stage": STAGE.replace("from app import shapes", "from app import text as shapes")}
    del files["shapes"]
    assert reached(tmp_path, files).digest == before
    beside = STAGE.replace("from app.text import clean\n", "").replace(
        "\n\n\n", f"\n\n\n{TEXT.partition('def unused')[0]}", 1
    )
    assert digest(tmp_path, stage=beside) == before


def test_a_module_that_is_renamed_or_put_into_a_folder_does_not_count(tmp_path: Path, before: str) -> None:
    files = dict(FILES)
    files["room/__init__"], files["room/halves"] = "", files.pop("deep")
    files["shapes"] = "from app.room import halves\n\n" + SHAPES.partition("\n\n")[2].replace("half(", "halves.half(")
    assert reached(tmp_path, files).digest == before
    files["stage"] = STAGE.replace("from app import shapes\n", "import app.shapes as forms\n").replace(
        "shapes.", "forms."
    )
    assert reached(tmp_path, files).digest == before
    files["stage"] = STAGE.replace("from app import shapes\n", "import app.shapes\n").replace(
        "shapes.a", "app.shapes.a"
    )
    assert reached(tmp_path, files).digest == before
    files["stage"] = STAGE.replace("from app", "from .").replace(". import", ". import").replace("..text", ".text")
    assert "from .text import clean" in files["stage"]
    assert reached(tmp_path, files).digest == before


def test_what_is_reached_two_modules_away_counts(tmp_path: Path, before: str) -> None:
    assert digest(tmp_path, deep=DEEP.replace("number / ", "number // ")) != before
    assert digest(tmp_path, deep=DEEP.replace("= 2", "= 3")) != before


def test_what_is_not_reached_does_not_count(tmp_path: Path, before: str) -> None:
    assert digest(tmp_path, text=TEXT.replace("    return text\n", "    return text * 2\n")) == before
    assert digest(tmp_path, stage=STAGE.replace("return 1", "return 2")) == before
    assert digest(tmp_path, carried="import app.deep\n") == before


def test_an_equally_named_definition_of_another_module_is_another(tmp_path: Path) -> None:
    both = "STAGE = (run, other)\n\n\ndef run():\n    return a.f()\n\n\ndef other():\n    return b.f()\n"
    files = {"__init__": "", "a": "def f():\n    return 1\n", "b": "def f():\n    return 2\n"}
    one = reached(tmp_path, {**files, "stage": f"from app import a, b\n\n{both}"}).digest
    swapped = both.replace("a.f", "x.f").replace("b.f", "a.f").replace("x.f", "b.f")
    assert reached(tmp_path, {**files, "stage": f"from app import a, b\n\n{swapped}"}).digest != one
    assert reached(tmp_path, {**files, "stage": f"from app import b as a, a as b\n\n{swapped}"}).digest == one
    twice = "from app import a, b\n\nSTAGE = (a.f, b.f)\n"
    assert (
        reached(tmp_path, {**files, "stage": twice}).digest
        != reached(tmp_path, {**files, "stage": twice.replace("(a.f, b.f)", "(b.f, a.f)")}).digest
    )


def test_what_comes_from_other_packages_counts_by_its_origin(tmp_path: Path) -> None:
    def of(text: str) -> str:
        return reached(tmp_path, {"__init__": "", "stage": text}).digest

    assert of("import os\nSTAGE = os.path.join\n") == of("from os.path import join as j\nSTAGE = j\n")
    assert of("from concurrent.futures import wait\nSTAGE = wait\n") != of("from asyncio import wait\nSTAGE = wait\n")


@pytest.mark.parametrize("started", ['"app.tool"', '"tool.py"', '"app.kit"', '"kit/more.py"'])
def test_a_string_that_names_a_module_reaches_all_of_it(tmp_path: Path, started: str) -> None:
    files = {
        "__init__": "",
        "stage": f"STAGE = ['-m', {started}]\n",
        "tool": (
            "from app import deep\n\n\ndef main():\n    return deep.half(2)\n"
            "\n\nif __name__ == '__main__':\n    main()\n"
        ),
        "kit/__init__": "",
        "kit/more": "from app.tool import main\n",
        "kit/__main__": "from app.tool import main\n\nmain()\n",
        "deep": DEEP,
    }
    if started == '"kit/more.py"':
        files["kit/more"] += "\n\nRUN = main\n"
    one = reached(tmp_path, files)
    assert "app.deep" in one.modules
    assert reached(tmp_path, {**files, "deep": DEEP.replace("= 2", "= 3")}).digest != one.digest
    if started == '"app.tool"':
        renamed = {**files, "stage": files["stage"].replace("tool", "device"), "device": files["tool"]}
        assert reached(tmp_path, renamed).digest == one.digest
        mere = {**files, "stage": "STAGE = ['-m', 'app.other']\n"}
        assert (
            reached(tmp_path, mere).digest != reached(tmp_path, {**mere, "stage": "STAGE = ['-m', 'app.x']\n"}).digest
        )


def test_what_a_package_exports_again_is_what_it_was(tmp_path: Path, before: str) -> None:
    files = {**FILES, "__init__": "from app.text import clean as tidy\n", "stage": STAGE}
    files["stage"] = STAGE.replace("from app.text import clean\n", "from app import tidy as clean\n")
    assert reached(tmp_path, files).digest == before
    files["text"] = TEXT.replace("strip", "lstrip")
    assert reached(tmp_path, files).digest != before


@pytest.mark.parametrize("imported", ["from app.kit.tool import work", "from app.kit import tool"])
def test_a_module_counts_if_its_package_gives_another_its_name(tmp_path: Path, imported: str) -> None:
    used = "work.make" if imported.endswith("work") else "tool.make"
    files = {
        "__init__": "",
        "kit/__init__": "from app.kit.tool import stage as tool\n",
        "kit/tool/__init__": "",
        "kit/tool/stage": "def make():\n    return 1\n",
        "kit/tool/work": "def make():\n    return 2\n",
        "stage": f"def STAGE():\n    {imported}\n\n    return {used}()\n",
    }
    name = f"kit/tool/{'work' if used.startswith('work') else 'stage'}"
    one = reached(tmp_path, files)
    assert f"app.{name.replace('/', '.')}" in one.modules
    assert reached(tmp_path, {**files, name: files[name].replace("return", "return -")}).digest != one.digest


def test_a_package_that_imports_its_own_modules_ends(tmp_path: Path) -> None:
    files = {"__init__": "", "kit/__init__": "from app.kit import a\n", "kit/a": "def f():\n    return 1\n"}
    one = reached(tmp_path, {**files, "stage": "from app import kit\n\nSTAGE = kit.a.f\n"})
    assert "app.kit.a" in one.modules


def test_a_module_that_is_handed_on_counts_whole(tmp_path: Path) -> None:
    files = {**FILES, "stage": "from app import text\n\nSTAGE = vars(text)\n"}
    one = reached(tmp_path, files).digest
    assert (
        reached(tmp_path, {**files, "text": TEXT.replace("    return text\n", "    return text * 2\n")}).digest != one
    )


def test_carriers_are_not_followed(tmp_path: Path) -> None:
    files = {
        "__init__": "",
        "stage": "from app.carried import Box\n\nSTAGE = Box\n",
        "carried": "class Box:\n    n = 1\n",
    }
    one = reached(tmp_path, files)
    assert set(one.modules) == {"app.stage"}
    assert reached(tmp_path, {**files, "carried": "class Box:\n    n = 2\n"}).digest == one.digest


def test_variables_hide_modules_of_the_same_name_where_python_says_so(tmp_path: Path) -> None:
    def modules(body: str) -> set[str]:
        text = f"from app import deep\n\n\ndef STAGE(job, other=None):\n{body}"
        return set(reached(tmp_path, {**FILES, "stage": text}).modules) - {"app.stage"}

    assert modules("    deep = job\n    return deep.half\n") == set()
    assert modules("    return [deep.half for deep in job]\n") == set()
    assert modules("    return [deep.half for deep in deep.FACTOR]\n") == {"app.deep"}
    assert modules("    x = [deep for deep in job]\n    return deep.half\n") == {"app.deep"}
    assert modules("    f = lambda deep: deep.half\n    return deep.half\n") == {"app.deep"}
    assert modules("    def inner(deep=deep.half):\n        return deep\n    return inner\n") == {"app.deep"}
    assert modules("    global deep\n    deep = job\n    return deep.half\n") == {"app.deep"}
    assert modules("    def inner():\n        return deep.half\n    return inner\n") == {"app.deep"}
    assert modules("    match job:\n        case deep:\n            return deep.half\n") == set()


def test_blocks_registrations_and_loose_statements_count(tmp_path: Path) -> None:
    def of(text: str) -> str:
        return reached(tmp_path, {"__init__": "", "stage": "from app.a import f\n\nSTAGE = f\n", "a": text}).digest

    block = "try:\n    import fast as f\nexcept ImportError:\n    f = 1\n"
    assert of(block) != of(block.replace("= 1", "= 2"))
    loose = "TABLE = {}\n\n\ndef f():\n    return TABLE\n\n\nTABLE['a'] = 1\n"
    assert of(loose) != of(loose.replace("] = 1", "] = 2"))
    called = "def f():\n    return 0\n\n\nprint('a')\n"
    assert of(called) != of(called.replace("'a'", "'b'"))
    registered = (
        "TABLE = []\n\n\ndef put(one):\n    TABLE.append(one)\n    return one\n\n\n@put\ndef g():\n    return 1\n\n\n"
        "def f():\n    return TABLE\n"
    )
    assert of(registered) != of(registered.replace("return 1", "return 2"))
    guarded = "def f():\n    return 0\n\n\ndef main():\n    return 1\n\n\nif __name__ == '__main__':\n    main()\n"
    assert of(guarded) == of(guarded.replace("return 1", "return 2"))


def test_a_changed_module_is_named_and_a_renamed_one_is_the_same(tmp_path: Path) -> None:
    one = reached(tmp_path, FILES).modules
    other = reached(tmp_path, {**FILES, "deep": DEEP.replace("= 2", "= 3")}).modules
    own = {name for name in one if one[name].partition("-")[0] != other[name].partition("-")[0]}
    assert own == {"app.deep"}
    files = {**FILES, "shapes": SHAPES.replace("deep", "depth"), "depth": DEEP}
    del files["deep"]
    assert reached(tmp_path, files).modules["app.depth"] == one["app.deep"]


def test_the_cache_decides_nothing(tmp_path: Path, before: str) -> None:
    path = tmp_path / "cache" / "definitions.json"

    def cached(files: Mapping[str, str]) -> str:
        made = code(tmp_path, files, Cache([Path("/proc/no/definitions.json"), path], Analysis))
        return made.reached(made.definition("app.stage", "STAGE")).digest

    assert cached(FILES) == before
    assert cached(FILES) == before
    assert cached({**FILES, "deep": DEEP.replace("= 2", "= 3")}) == digest(tmp_path, deep=DEEP.replace("= 2", "= 3"))
    written = path.read_bytes()
    path.write_bytes(written[: len(written) // 2])
    assert cached(FILES) == before
    assert path.read_bytes() != written[: len(written) // 2]
    assert [one.name for one in path.parent.iterdir()] == ["definitions.json"]


def test_the_cache_is_used(tmp_path: Path) -> None:
    cache = Cache([tmp_path / "c.json"], Analysis)
    made: list[str] = []

    def make() -> Analysis:
        made.append("made")
        return Analysis(definitions={}, imports={}, rest=code(tmp_path, FILES).analysis("app.deep").rest)

    cache.get("a", make)
    cache.save()
    again = Cache([tmp_path / "c.json"], Analysis)
    assert again.get("a", make) == cache.get("a", make)
    assert made == ["made"]
