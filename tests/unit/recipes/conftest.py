from pathlib import Path

import pytest

from support.newcomer_project import NewcomerProject


@pytest.fixture
def project(tmp_path: Path) -> NewcomerProject:
    return NewcomerProject(tmp_path)
