"""Select the load points of a cell's profile that its model can serve."""

from __future__ import annotations

from dataclasses import replace

from flagrelease.config.matrix import Traffic
from flagrelease.contract.job import Job
from flagrelease.errors import ConfigError
from flagrelease.stages.speed.load import LoadPoint


def load_points(job: Job) -> dict[LoadPoint, Traffic]:
    """The load points of the profile that fit the model's window. Raises ConfigError for none or a duplicate."""
    points: dict[LoadPoint, Traffic] = {}
    for traffic in job.cell.profile.speed:
        for concurrency in traffic.concurrency if _fits(job, traffic) else ():
            point = LoadPoint(
                input_tokens=traffic.input,
                output_tokens=traffic.output,
                concurrency=concurrency,
                requests=concurrency * traffic.requests,
            )
            if any(replace(other, requests=point.requests) == point for other in points):
                raise ConfigError(
                    f"profile {job.cell.profile_name} has the load {point} twice", hint="remove one in matrix.yaml"
                )
            points[point] = traffic
    if not points:
        raise ConfigError(
            f"no load of profile {job.cell.profile_name} fits {job.cell.model_name}",
            why="; ".join(too_long(job)),
            hint="use another profile, or raise serve.max_model_len",
        )
    return points


def too_long(job: Job) -> tuple[str, ...]:
    """The loads of the profile that do not fit, each with the reason."""
    window = job.cell.model.serve.max_model_len
    return tuple(
        f"{traffic.input:,} in and {traffic.output:,} out are longer than the window of {window:,} tokens"
        for traffic in job.cell.profile.speed
        if not _fits(job, traffic)
    )


def _fits(job: Job, traffic: Traffic) -> bool:
    return traffic.input + traffic.output <= job.cell.model.serve.max_model_len
