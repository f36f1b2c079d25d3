"""The frame of component jobs, with a job of a few lines: what is missing is made, and told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

import latent_store
from latent_store.components import base as component
from latent_store.components import creation
from latent_store.components.labels import labels_spec
from latent_store.errors import JobFailedError, LatentStoreError, LeaseHeldError
from latent_store.format.plan import ShardPlan, make_plan
from latent_store.format.plan_files import write_plan
from latent_store.format.samples import Sample
from latent_store.format.schema import ComponentSpec
from latent_store.shards.receipts import FAILED, NOT_LISTED, RowRecord
from latent_store.storage.location import Location
from pipelines.jobs.component_job import (
    ComponentJob,
    Encoded,
    ShardRows,
    finished_receipts,
    leased,
)

SPLIT = "made/train"
OPTIONS = PipelineOptions(["--runner", "FnApiRunner"])


@dataclass(frozen=True, kw_only=True)
class MarkJob(ComponentJob):
    """Writes labels that all have one value; some rows fail, some shards cannot be made."""

    mark: int
    bad_rows: tuple[int, ...] = ()
    bad_shards: tuple[int, ...] = ()

    verb = "mark"

    @property
    def components(self) -> Sequence[ComponentSpec]:
        return [labels_spec(64, 64, ("thing",), "made")]

    def fill(self, plan: ShardPlan, shard: int, rows: Mapping[str, ShardRows]) -> None:
        if shard in self.bad_shards:
            raise LatentStoreError("no ink left")
        for row, sample in plan.in_shard(shard):
            if row in self.bad_rows:
                rows["labels"].leave(row, sample, FAILED, "smudged")
            else:
                plane_HW = np.full((64, 64), self.mark, np.uint8)
                rows["labels"].put(row, sample, Encoded(arrays={"segmentation": plane_HW}))

    def again(self, plan: ShardPlan, spec: ComponentSpec) -> Callable[[RowRecord], bool]:
        return lambda record: record.status == FAILED


@pytest.fixture
def plan(tmp_path: Path) -> ShardPlan:
    """Five samples in shards of two, of a store that has nothing else."""
    location = Location(tmp_path / "s.zarr")
    creation.create_store(location)
    samples = [
        Sample(
            sample_id=f"s{number}",
            image_uri=f"{number}.png",
            label_uri=f"{number}.png",
            height=64,
            width=64,
            image_bytes=1,
        )
        for number in range(5)
    ]
    plan = make_plan(*SPLIT.split("/"), samples, 2)
    write_plan(location, plan)
    return plan


@pytest.fixture
def job(tmp_path: Path, plan: ShardPlan) -> MarkJob:
    return MarkJob(store=Location(tmp_path / "s.zarr"), split=SPLIT, cores=1, mark=3)


def run(job: MarkJob, plan: ShardPlan) -> list[str]:
    return [closed.component for closed in job.run(plan, OPTIONS)]


def marks(job: MarkJob) -> list[int]:
    labels = latent_store.open(job.store.url)[SPLIT].labels()
    return [int(plane_HW.max()) for plane_HW in labels.read(labels.rows)]


def test_what_has_a_receipt_is_left_and_what_lacks_one_is_made(
    job: MarkJob, plan: ShardPlan
) -> None:
    assert run(job, plan) == ["labels"]
    assert marks(job) == [3] * 5
    job.store.delete(next(k for k in job.store.sizes(".latent_store") if "000001.json" in k))
    assert run(replace(job, mark=7), plan) == ["labels"]
    assert marks(job) == [3, 3, 7, 7, 3]
    assert component.open_component(job.store, SPLIT, "labels").attrs["max_failures"] == 0


def test_a_plan_that_changed_meanwhile_is_the_one_that_is_held_to(
    job: MarkJob, plan: ShardPlan
) -> None:
    """Another component's job has mended a picture and added one, since this one began."""
    first, *others = plan.samples
    new = replace(first, sample_id="s5", image_uri="5.png")
    listed = [replace(first, image_bytes=2), *others, new]
    write_plan(job.store, plan.extended(listed, mended={"s0"}))
    assert run(job, plan) == ["labels"]
    assert marks(job) == [3] * 5


def test_a_shard_that_cannot_be_made_does_not_stop_the_others(
    job: MarkJob, plan: ShardPlan
) -> None:
    with pytest.raises(JobFailedError, match="no ink left"):
        run(replace(job, bad_shards=(1,)), plan)
    assert list(finished_receipts(job.store, SPLIT, "labels")) == [0, 2]
    run(replace(job, mark=7), plan)
    assert marks(job) == [3, 3, 7, 7, 3]


def test_failed_rows_are_tolerated_as_told_and_made_again(job: MarkJob, plan: ShardPlan) -> None:
    bad = replace(job, bad_rows=(0, 4))
    with pytest.raises(JobFailedError, match="2 samples of made/train/labels failed"):
        run(bad, plan)
    run(replace(bad, max_failures=2), plan)
    assert marks(job) == [3] * 3
    # Nothing else said, what was tolerated stays tolerated.
    run(replace(bad, mark=5), plan)
    assert marks(job) == [5, 3, 3]
    run(job, plan)
    assert marks(job) == [3] * 5


def test_rows_keep_the_reason_why_they_are_left(plan: ShardPlan) -> None:
    rows = ShardRows()
    rows.leave(0, plan.samples[0], NOT_LISTED, "not today")
    (record,) = rows.records
    assert (record.status, record.reason, record.sample_id) == (NOT_LISTED, "not today", "s0")


def test_one_job_at_a_time_writes_a_component(job: MarkJob) -> None:
    with (
        leased(job.store, SPLIT, ["labels"], steal=False),
        pytest.raises(LeaseHeldError, match="made/train/labels is being written by process"),
        leased(job.store, SPLIT, ["labels"], steal=False),
    ):
        pass
