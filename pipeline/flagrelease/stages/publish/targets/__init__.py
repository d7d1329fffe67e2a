"""The publishers, one for each kind of target in config/targets.py."""

from __future__ import annotations

from collections.abc import Mapping

from flagrelease.stages.publish.publisher import Publisher
from flagrelease.stages.publish.targets import folder, registry

PUBLISHERS: Mapping[str, Publisher] = {
    "folder": folder.PUBLISHER,
    "registry": registry.PUBLISHER,
}
