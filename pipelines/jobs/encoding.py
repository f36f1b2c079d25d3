"""The job that encodes: pictures in, whole shards of every missing component out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from latent_store.components.registry import kind_of
from latent_store.errors import DatasetError, IntegrityError
from latent_store.format.plan import ShardPlan
from latent_store.format.schema import ComponentSpec
from latent_store.shards.receipts import FAILED, NOT_LISTED, RowRecord
from pipelines.datasets.base import DatasetReader, read_picture
from pipelines.jobs.component_job import ComponentJob, ShardRows
from pipelines.jobs.encoders import Encoder, Picture

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EncodeJob(ComponentJob):
    """Makes all that is missing of a picture while it is in memory."""

    reader: DatasetReader
    encoders: tuple[Encoder, ...]

    verb = "encode"

    @property
    def components(self) -> list[ComponentSpec]:
        """Those of the encoders."""
        return [encoder.spec for encoder in self.encoders]

    def notes(self) -> dict[str, Any]:
        """Returns the threads, which a rerun must not change."""
        return {"encoder_threads": self.threads}

    def fill(self, plan: ShardPlan, shard: int, rows: Mapping[str, ShardRows]) -> None:
        """Encodes; a picture that cannot be used becomes a failed row."""
        encoders = {encoder.spec.key: encoder for encoder in self.encoders}
        for row, sample in plan.in_shard(shard):
            wanted = [key for key in rows if kind_of(key).lists(sample)]
            for key in rows.keys() - wanted:
                reason = f"not in the dataset's list for {key}"
                rows[key].leave(row, sample, NOT_LISTED, reason)
            if not wanted:
                continue
            try:
                image_HWC, data = read_picture(self.reader, sample)
                picture = Picture(row=row, sample=sample, image_HWC=image_HWC, data=data)
                # Everything is computed before anything is kept: a row is whole or failed.
                made = {key: encoders[key].make(picture) for key in wanted}
            except (DatasetError, IntegrityError) as error:
                _LOG.warning("%s failed: %s", sample.sample_id, error)
                for key in wanted:
                    rows[key].leave(row, sample, FAILED, str(error))
                continue
            for key, encoded in made.items():
                rows[key].put(row, sample, encoded)

    def again(self, plan: ShardPlan, spec: ComponentSpec) -> Callable[[RowRecord], bool]:
        """Makes failed rows again, and those that the task's list has by now."""
        is_new = newly_listed(plan, spec)
        return lambda record: record.status == FAILED or is_new(record)


def newly_listed(plan: ShardPlan, spec: ComponentSpec) -> Callable[[RowRecord], bool]:
    """Returns whether a row was left since a task's list had not its sample, and has it now."""
    pairs = zip(plan.rows, plan.samples, strict=True)
    listed = {row for row, sample in pairs if kind_of(spec.key).lists(sample)}
    return lambda record: record.status == NOT_LISTED and record.row in listed
