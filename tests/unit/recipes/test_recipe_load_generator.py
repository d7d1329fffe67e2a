"""Adding a load generator takes the places that the README names."""

from pathlib import Path

import pytest

from support.package_copy import Copy, recipe


@pytest.fixture
def package(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


GENERATOR = """
from flagrelease.stages.speed.load import LoadTool


class Burst:
    name = "burst"

    def __init__(self, base_url):
        self.base_url = base_url

    def measure(self, points, seed):
        return []


LOAD_TOOL = LoadTool(make=lambda target, _env: Burst(target.base_url))
"""

USED = """
from dataclasses import replace
from types import SimpleNamespace

from support import finished_cell as given
from flagrelease.config.matrix import Profile
from flagrelease.stages.speed import load_tools
from flagrelease.stages.speed import run as speed
from flagrelease.stages.speed.inputs import inputs
from flagrelease.config.strict_yaml import loads

profile = loads(b"benchmarks: {mmlu-sample: {}}\\nload_tool: burst\\n", Profile)
job = replace(given.job(), cell=replace(given.job().cell, profile=profile))
load_tools.check(job.cell, {})
context = SimpleNamespace(
    result=lambda _handle: SimpleNamespace(folder="w"),
    workspace=SimpleNamespace(weights=given.TEMPLATES),
    ports=SimpleNamespace(command=None),
)
server = SimpleNamespace(
    base_url="http://h/v1", model="m", port_inside=1, folder_inside="/m", running=SimpleNamespace(execute=None)
)
tool = speed.choose(job, context, server)
print(tool.name, tool.base_url, inputs(job)["load_tool"])
"""


def test_a_load_generator(package: Copy) -> None:
    tools = "stages/speed/load_tools.py"
    package.write("stages/speed/load_burst.py", GENERATOR)
    imported = "from flagrelease.stages.speed import load_burst"
    package.insert(tools, "from collections.abc import Mapping", imported)
    package.insert(tools, "LOAD_TOOLS: Mapping", '    "burst": load_burst.LOAD_TOOL,')
    package.name_in("config/engines.py", "LoadToolName", "burst")
    assert package.touched == recipe("a load generator", "burst")

    assert package.run(USED) == "burst http://h/v1 burst\n"
