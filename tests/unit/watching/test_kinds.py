"""Every kind of target can be watched, and a hub's page leads back to its repository."""

from __future__ import annotations

import pytest

from flagrelease.config.targets import TARGETS
from flagrelease.ports.hub import write_huggingface, write_modelscope
from flagrelease.watching.watch import INSPECTORS


def test_every_kind_of_target_is_watched() -> None:
    assert set(INSPECTORS) == set(TARGETS)


@pytest.mark.parametrize("writer", [write_huggingface, write_modelscope])
def test_a_page_leads_to_its_repository_without_a_token(writer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    hub = writer.opened(reads_only=True)  # type: ignore[attr-defined]
    assert hub.repository(hub.page("Org/Some.Model-FlagOS", "tree_none-gems_5")) == "Org/Some.Model-FlagOS"
    assert hub.repository("https://elsewhere.example/Org/Model/tree/v1") == ""
