"""The product at a glance: the stages of a release, in order."""

from flagrelease.contract.stage import AnyStage, Remedy
from flagrelease.stages import accuracy
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
    image.STAGE,     # build the serving image from locked parts, push it, read its digest back
    smoke.STAGE,     # start the pushed image as the card says, and see that it answers as it must
    accuracy.STAGE,  # evaluate it on real questions against the native stack
    speed.STAGE,     # put load on it, in turns with the native stack
    card.STAGE,      # render the model card from the release record, and lint it
    publish.STAGE,   # digest first, tag last
)  # fmt: skip

# What follows a gate that failed: name the operators that did it, and go on from `kernels` without them.
REMEDY = Remedy(stage=attribute.STAGE)
