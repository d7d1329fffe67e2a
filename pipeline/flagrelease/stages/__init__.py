"""The product at a glance: the stages of a release, in order."""

from flagrelease.stage import Stage

STAGES: tuple[Stage, ...] = ()
