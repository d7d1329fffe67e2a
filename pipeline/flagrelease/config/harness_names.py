"""The harnesses by name, as matrix.yaml and the card call them; HARNESSES in evaluation/ has one adapter for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

HarnessName = Literal["own", "evalscope", "flageval"]
DEFAULT_HARNESS: HarnessName = "own"

HARNESS_LABELS: Mapping[HarnessName, str] = {
    "own": "flagrelease's own harness",
    "evalscope": "evalscope",
    "flageval": "the FlagEval platform",
}
"""What the card calls each harness."""
