"""Adding a stage takes the places that the README names."""

from pathlib import Path

import pytest

from support.package_copy import Copy, recipe


@pytest.fixture
def package(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


STAGE = """
from dataclasses import dataclass

from flagrelease.store.evidence import Evidence
from flagrelease.contract.handles import ResultOf
from flagrelease.contract.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Signed:
    by: str
    evidence: tuple[Evidence, ...] = ()

    @property
    def summary(self) -> str:
        return f"signed by {self.by}"


def inputs(job):
    return {"model": job.cell.model_name}


def run(job, context):
    context.progress.doing("signing")
    return Signed(by=job.cell.model_name)


STAGE = Stage(result=ResultOf("sign", Signed), doing="signing the release", inputs=inputs, run=run)
"""

USED = """
from dataclasses import replace
from pathlib import Path

from support import toys
from flagrelease.run.executors.inline import InlineExecutor
from flagrelease.run.cell_run import CellRun
from flagrelease.stages import STAGES

print(*[one.name for one in STAGES])
root = Path("w").absolute()
session = replace(toys.session(root), stages=tuple(one for one in STAGES if one.name == "sign"))
one = CellRun(session, toys.jobs(root)["cpu/tiny"])
InlineExecutor().execute([one])
print(session.ledger.last_done("cpu/tiny", "sign").result)
"""


def test_a_stage(package: Copy) -> None:
    table = "stages/__init__.py"
    package.write("stages/sign.py", STAGE)
    imported = f"from {package.module('stages/sign.py')} import STAGE as SIGN"
    package.insert(table, "from flagrelease.stages.weights import", imported)
    package.insert(table, "    publish.STAGE,", "    SIGN,")
    assert package.touched == recipe("a stage", "sign")

    printed = package.run(USED)
    assert printed.splitlines()[0].endswith(" publish sign")
    assert printed.splitlines()[-1].startswith("{'by': 'tiny'"), printed
