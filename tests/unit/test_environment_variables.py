"""docs/operating.md names every environment variable that the code reads, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PIPELINE = ROOT / "pipeline"
ENVIRONMENTS = {"environ", "env", "_env"}
"""Names under which the code passes the environment on."""
IN_IMAGES = {"FLAGCX_PATH", "FLAGOS_HOST", "FLAGOS_PORT", "OMP_WAIT_POLICY"}
"""Read by the programs that are copied into images."""


def documented(title: str) -> set[str]:
    text = (ROOT / "docs/operating.md").read_text()
    section = text.partition(f"\n{title}:\n")[2].partition("\nRead ")[0]
    rows = re.findall(r"(?m)^\| (`[A-Z].*?) \|", section)
    return {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)}


def read_by(*folders: str) -> set[str]:
    trees = {
        path: ast.parse(path.read_text()) for folder in folders for path in sorted((PIPELINE / folder).rglob("*.py"))
    }
    constants = {
        (path, target.id): node.value.value
        for path, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    everywhere = {name: value for (_, name), value in constants.items()}
    found = set()
    for path, tree in trees.items():
        for key in keys(tree):
            if isinstance(key, ast.Constant):
                found.add(key.value)
            elif isinstance(key, ast.Name):
                found.add(constants.get((path, key.id), everywhere.get(key.id)))
    return {name for name in found if isinstance(name, str) and name.isupper()}


def keys(tree: ast.Module) -> Iterator[ast.expr]:
    """What is looked up in an environment: `environ.get(KEY)`, `environ[KEY]`, `KEY in environ`, `getenv(KEY)`, and by
    ports/credentials.py."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="get", value=owner), args=[key, *_]) if environment(owner):
                yield key
            case ast.Call(func=ast.Attribute(attr="getenv"), args=[key, *_]):
                yield key
            case ast.Call(func=ast.Name(id="from_environment"), args=[key]):
                yield key
            case ast.Call(func=ast.Name(id="token_for"), args=[_, key]):
                yield key
            case ast.Subscript(value=owner, slice=key, ctx=ast.Load()) if environment(owner):
                yield key
            case ast.Compare(left=key, ops=[ast.In() | ast.NotIn()], comparators=[owner]) if environment(owner):
                yield key


def environment(owner: ast.expr) -> bool:
    match owner:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name in ENVIRONMENTS
    return False


def test_the_variables_of_flagrelease_are_documented() -> None:
    names = {name for name in read_by("flagrelease") - IN_IMAGES if not name.startswith("FLAGKERNELS_")}
    assert documented("Read by flagrelease") == names


def test_the_variables_in_images_and_on_chips_are_documented() -> None:
    names = read_by("flagkernels") | {name for name in read_by("flagrelease") if name.startswith("FLAGKERNELS_")}
    assert documented("Read in an image or on a chip") == names | IN_IMAGES
