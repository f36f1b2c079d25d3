"""What a whole dataset takes is added up as it is told: by hand, for numbers that a head can do."""

from __future__ import annotations

import pytest

from tests.benchmarks import scaling_model as model
from tests.benchmarks.fault_server import GET_LIKE, PUT_LIKE, ROUNDS
from tests.benchmarks.scaling_requests import AFTER, BEFORE, CPU, WHAT, WORK, Asked


def asked(phase: str, what: str) -> Asked:
    """One request of class A a picture and two of class B a shard; closing asks one round a shard,
    and a worker two once and three a shard."""
    table = {
        (BEFORE, PUT_LIKE): Asked(once=0, a_picture=1, a_shard=0),
        (WORK, GET_LIKE): Asked(once=5, a_picture=0, a_shard=2),
        (WORK, ROUNDS): Asked(once=2, a_picture=0, a_shard=3),
        (AFTER, ROUNDS): Asked(once=0, a_picture=0, a_shard=1),
        (AFTER, CPU): Asked(once=1, a_picture=0, a_shard=0),
    }
    return table.get((phase, what), Asked(once=0, a_picture=0, a_shard=0))


MEASURED = model.Measured(
    picture_cpu=2.0,
    check_cpu=0.5,
    read_bytes=3e6,
    stored_bytes=1e6,
    start=4.0,
    plan_row=0.01,
    asked={p: {what: asked(p, what) for what in WHAT} for p in (BEFORE, WORK, AFTER)},
    latency=0.1,
    bandwidth=1e6,
)


def test_a_run_is_the_sum_of_its_parts() -> None:
    found = model.project(MEASURED, pictures=95, workers=4, rows=10)
    assert list(found.seconds.values()) == pytest.approx(
        [
            0,
            4 + 0.01 * 95 + 0.1 * 2,
            # Ten shards on four workers are three for the slowest.
            3 * (10 * (2 + 4) + 0.1 * 3),
            0.1 * 10 + 1 + 0.5 * 95 + 95,
        ]
    )
    assert found.bound == model.SHARDS
    assert found.requests == {PUT_LIKE: 95, GET_LIKE: 5 * 4 + 2 * 10}
    work = found.seconds[model.STARTING] + found.seconds[model.SHARDS]
    assert found.machine_hours * 3600 == pytest.approx(found.total + 4 * work)
    dollars = found.dollars(vcpu_hour=1, memory_hour=0.25)
    assert dollars["machines"] == pytest.approx(2 * found.machine_hours)
    assert dollars["requests"] == pytest.approx(95 * 0.005 / 1000 + 40 * 0.0004 / 1000)
    assert dollars["a month of storage"] == pytest.approx(0.095 * 0.02)


def test_with_many_workers_closing_is_the_bound() -> None:
    assert model.project(MEASURED, pictures=95, workers=95, rows=1).bound == model.CLOSING


@pytest.mark.parametrize(
    ("pictures", "workers", "rows"),
    [(3_475, 1_000, 16), (3_475, 10, 32), (10_000_000, 10, 1_024), (1_000_000, 1_000, 64)],
)
def test_rows_leave_every_worker_its_shards(pictures: int, workers: int, rows: int) -> None:
    assert model.chosen_rows(pictures, workers, 16) == rows
