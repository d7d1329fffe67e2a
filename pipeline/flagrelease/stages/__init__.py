"""The stages of a release, in order."""

from flagrelease.contract.stage import AnyStage, Remedy
from flagrelease.stages.accuracy import stage as accuracy
from flagrelease.stages.card import stage as card
from flagrelease.stages.image import stage as image
from flagrelease.stages.kernels import attribute
from flagrelease.stages.kernels import stage as kernels
from flagrelease.stages.publish import stage as publish
from flagrelease.stages.smoke import stage as smoke
from flagrelease.stages.speed import stage as speed
from flagrelease.stages.weights import stage as weights

STAGES: tuple[AnyStage, ...] = (
    weights.STAGE,   # fetch the model and verify every file against the lock
    kernels.STAGE,   # qualify, tune and choose the chip's Triton operators
    image.STAGE,     # build the serving image from locked packages, push it, read its digest back
    smoke.STAGE,     # start the pushed image as the card documents it, and check its answers
    accuracy.STAGE,  # evaluate it on real questions against the native stack
    speed.STAGE,     # measure its throughput and latency, alternating with the native stack
    card.STAGE,      # render the model card from the release record, and lint it
    publish.STAGE,   # publish: digest first, tag last
)  # fmt: skip

# After a failed gate: identify the operators at fault, and continue from `kernels` without them.
REMEDY = Remedy(stage=attribute.STAGE)
