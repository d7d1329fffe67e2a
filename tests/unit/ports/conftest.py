"""A stand-in of a registry."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.registry_stand_in import Store, standing_in


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def host(store: Store) -> Iterator[str]:
    with standing_in(store) as place:
        yield place
