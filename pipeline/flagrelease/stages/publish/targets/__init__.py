"""The publishers, one for each kind of target in config/targets.py."""

from __future__ import annotations

from collections.abc import Mapping

from flagrelease.stages.publish.publisher import Publisher
from flagrelease.stages.publish.targets import folder, huggingface, modelscope, registry

PUBLISHERS: Mapping[str, Publisher] = {
    "folder": folder.PUBLISHER,
    "huggingface": huggingface.PUBLISHER,
    "modelscope": modelscope.PUBLISHER,
    "registry": registry.PUBLISHER,
}
