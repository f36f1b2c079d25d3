"""What a whole dataset takes on many workers, from what one worker was measured to take.

Nothing here is measured: it is arithmetic on measured numbers, on a distance and a bandwidth that
are assumed, and on prices of a public list; each is told where it is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tests.benchmarks.fault_server import GET_LIKE, PUT_LIKE, ROUNDS
from tests.benchmarks.scaling_requests import AFTER, BEFORE, CPU, WORK, Asked, Table

CLASS_A_USD, CLASS_B_USD, GB_MONTH_USD = 0.005e-3, 0.0004e-3, 0.020
STORAGE_SOURCE = (
    "Cloud Storage, Pricing examples, Standard storage in the us-east1 region, page as read on "
    "2026-11-28: '50 GB Standard storage * $0.020 per GB', '10,000 Class A operations * $0.005 per "
    "1,000 operations', '50,000 Class B operations * $0.0004 per 1,000 operations'"
)
VCPU_HOUR_USD, MEMORY_GB_HOUR_USD = 0.02181159, 0.00292353
MACHINE_SOURCE = (
    "Compute Engine, E2 machine types, us-central1, on demand: 'Predefined vCPUs $0.02181159 / "
    "vCPU hour', 'Predefined Memory $0.00292353 / GB hour'; the list of 2024, not read again since"
)
MEMORY_GB = 4
"""Of a worker with one core."""
GB = 1e9
SMALL, LARGE = 3_475, 10_000_000
"""Pictures: Cityscapes' train and val, and a fleet's."""
WORKERS = (10, 100, 1_000)
SHARDS_A_WORKER = 8
"""That a worker has at least, where rows a shard are chosen: the last one idles a part of one."""
MOST_ROWS = 1_024
LAUNCHING, STARTING, SHARDS, CLOSING = (
    "launcher, before", "workers, starting", "workers, shards", "launcher, closing",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one worker takes, and what is assumed of the distance.

    Attributes:
        picture_cpu: CPU-s a picture, on a worker.
        check_cpu: CPU-s a picture, as the launcher holds it to its receipts.
        read_bytes: A picture's, and its labels'.
        stored_bytes: A picture's.
        start: Seconds until a worker has loaded what it needs.
        plan_row: Seconds a row of the plan, as a worker opens it.
        asked: Requests.
        latency: Seconds a round, assumed.
        bandwidth: Bytes a second of one worker, assumed.
    """

    picture_cpu: float
    check_cpu: float
    read_bytes: float
    stored_bytes: float
    start: float
    plan_row: float
    asked: Table
    latency: float
    bandwidth: float

    def at_distance(self, phase: str, pictures: float, shards: float, times: float = 1) -> float:
        """Returns the seconds of a phase's rounds."""
        return self.latency * self.asked[phase][ROUNDS].of(pictures, shards, times)


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A run of so many pictures on so many workers of one core.

    Attributes:
        seconds: Part -> how long it takes.
        closing: What the last of them is made of.
        requests: Class -> how many.
    """

    pictures: int
    workers: int
    rows: int
    seconds: dict[str, float]
    closing: dict[str, float]
    requests: dict[str, float]
    stored_gb: float

    @property
    def total(self) -> float:
        """Returns the seconds of all parts, which follow each other."""
        return sum(self.seconds.values())

    @property
    def machine_hours(self) -> float:
        """Returns the hours of all machines: the launcher's, and workers' while they work."""
        working = self.seconds[STARTING] + self.seconds[SHARDS]
        return (self.total + self.workers * working) / 3600

    @property
    def bound(self) -> str:
        """Returns the part that takes longest."""
        return max(self.seconds, key=lambda part: self.seconds[part])

    def dollars(self, vcpu_hour: float, memory_hour: float) -> dict[str, float]:
        """Returns what the parts of the bill come to, storage of a month among them."""
        machine = vcpu_hour + MEMORY_GB * memory_hour
        return {
            "machines": self.machine_hours * machine,
            "requests": self.requests[PUT_LIKE] * CLASS_A_USD
            + self.requests[GET_LIKE] * CLASS_B_USD,
            "a month of storage": self.stored_gb * GB_MONTH_USD,
        }


def project(measured: Measured, pictures: int, workers: int, rows: int) -> Projection:
    """Adds up a run: what the launcher does first, what workers do at once, what closing takes."""
    shards = math.ceil(pictures / rows)
    busy, each = min(workers, shards), math.ceil(shards / workers)
    there = (measured.read_bytes + measured.stored_bytes) / measured.bandwidth
    work = measured.asked[WORK]
    a_shard = (
        rows * (measured.picture_cpu + there)
        + measured.at_distance(WORK, rows, 1, times=0)
        + work[CPU].a_shard
    )
    opening = measured.start + measured.plan_row * pictures + measured.latency * work[ROUNDS].once
    closing = {
        **_alone(measured, AFTER, pictures, shards),
        "comparing": pictures * measured.check_cpu,
        "reading": pictures * measured.stored_bytes / measured.bandwidth,
    }
    seconds = {
        LAUNCHING: sum(_alone(measured, BEFORE, pictures, shards).values()),
        STARTING: opening,
        SHARDS: each * a_shard,
        CLOSING: sum(closing.values()),
    }
    requests = {
        what: sum(
            measured.asked[phase][what].of(pictures, shards, busy if phase == WORK else 1)
            for phase in (BEFORE, WORK, AFTER)
        )
        for what in (PUT_LIKE, GET_LIKE)
    }
    return Projection(
        pictures=pictures,
        workers=workers,
        rows=rows,
        seconds=seconds,
        closing=closing,
        requests=requests,
        stored_gb=pictures * measured.stored_bytes / GB,
    )


def _alone(measured: Measured, phase: str, pictures: int, shards: int) -> dict[str, float]:
    cpu: Asked = measured.asked[phase][CPU]
    return {
        "distance": measured.at_distance(phase, pictures, shards),
        "asking": cpu.of(pictures, shards),
    }


def chosen_rows(pictures: int, workers: int, default: int) -> int:
    """Returns the rows a shard that ask least and still spread evenly: a power of two."""
    rows = default
    while 2 * rows <= min(MOST_ROWS, pictures / (SHARDS_A_WORKER * workers)):
        rows *= 2
    return rows
