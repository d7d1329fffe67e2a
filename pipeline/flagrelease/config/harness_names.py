"""Names of evaluation harnesses in matrix.yaml and on the card; HARNESSES in evaluation/ has their adapters."""

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
"""Names on the card."""
