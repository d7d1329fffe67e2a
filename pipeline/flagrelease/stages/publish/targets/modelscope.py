"""Publish to ModelScope; the place is an account or organisation."""

from __future__ import annotations

from flagrelease.ports.hub.write_modelscope import opened
from flagrelease.stages.publish.publisher import Publisher
from flagrelease.stages.publish.targets.hub import HubPublisher

PUBLISHER: Publisher = HubPublisher(opened)
