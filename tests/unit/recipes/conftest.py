from pathlib import Path

import pytest

from newcomer_project import NewcomerProject


@pytest.fixture
def project(tmp_path: Path) -> NewcomerProject:
    return NewcomerProject(tmp_path)
