"""The shard plan: which sample lies in which row, settled before anything is encoded.

Rows are assigned once and kept for ever. A data root that no longer agrees with the plan is
refused, because a row that changes its picture silently would poison everything derived from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latent_store import layout, seals
from latent_store.errors import (
    DatasetError,
    IntegrityError,
    PlanMismatchError,
    StoreNotFoundError,
)
from latent_store.location import CONTROL, Location

ORIGINAL_VIEW = "original"
_REMEDY = (
    "restore plan.json from a copy of the store, or remove it and run encode-to-store again with "
    "the same data and --samples_per_shard"
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One picture of a dataset, as its reader lists it, before anything is decoded.

    Attributes:
        sample_id: Unique in the split.
        image_uri: Path of the picture, relative to the data root.
        label_uri: Path of its labels, relative to the data root; empty if it has none.
        height: Pixels, from the file's header.
        width: Pixels, from the file's header.
        image_bytes: Length of the picture's file: a cheap sign that it was replaced.
    """

    sample_id: str
    image_uri: str
    label_uri: str
    height: int
    width: int
    image_bytes: int


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """Rows of one split: row ``r`` lies in shard ``r // samples_per_shard``.

    Attributes:
        rows: Row of each sample, ascending. An append starts at a new shard, so numbers may skip.
        canvas: Height and width, in pixels, of the arrays: the coded size of every sample here.
    """

    dataset: str
    split: str
    samples_per_shard: int
    canvas: tuple[int, int]
    samples: tuple[Sample, ...]
    rows: tuple[int, ...]

    @property
    def num_shards(self) -> int:
        """Shards that hold at least one sample, or lie before one that does."""
        return layout.num_shards(self.rows[-1] + 1, self.samples_per_shard) if self.rows else 0

    @property
    def num_rows(self) -> int:
        """Length of the sample axis: whole shards, void rows included."""
        return self.num_shards * self.samples_per_shard

    @property
    def name(self) -> str:
        """``dataset/split``, the path of the split's group."""
        return f"{self.dataset}/{self.split}"

    def in_shard(self, shard: int) -> list[tuple[int, Sample]]:
        """Returns the ``(row, sample)`` pairs of one shard, ascending."""
        first = shard * self.samples_per_shard
        wanted = range(first, first + self.samples_per_shard)
        pairs = zip(self.rows, self.samples, strict=True)
        return [(row, sample) for row, sample in pairs if row in wanted]

    def extended(self, manifest: Sequence[Sample], *, mended: Collection[str] = ()) -> ShardPlan:
        """Returns the plan with the samples of ``manifest`` that it lacks, from a new shard on.

        Args:
            manifest: What the data root holds now; the plan's own samples must be among it.
            mended: Ids of samples that failed so far, whose files may therefore have changed.

        Raises:
            PlanMismatchError: The data root changed; the first difference is named.
            DatasetError: A new sample has another size.
        """
        known = {sample.sample_id: sample for sample in self.samples}
        current = {sample.sample_id: sample for sample in manifest}
        for sample_id, sample in known.items():
            if sample_id in mended and sample_id in current:
                known[sample_id] = current[sample_id]
            else:
                _require_unchanged(sample, current.get(sample_id))
        fresh = [sample for sample in manifest if sample.sample_id not in known]
        require_sizes([*known.values(), *fresh], self.canvas)
        first = self.num_rows
        return dataclasses.replace(
            self,
            samples=(*known.values(), *fresh),
            rows=self.rows + tuple(range(first, first + len(fresh))),
        )

    def to_json(self) -> bytes:
        """Returns the persisted form."""
        return seals.seal_record(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> ShardPlan:
        """Reads :meth:`to_json`; what later minor versions add is left.

        Raises:
            IntegrityError: It was altered.
        """
        record = seals.known_fields(cls, seals.read_record(data, "the shard plan", _REMEDY))
        samples = (seals.known_fields(Sample, sample) for sample in record["samples"])
        record["samples"] = tuple(Sample(**sample) for sample in samples)
        record["rows"] = tuple(record["rows"])
        record["canvas"] = tuple(record["canvas"])
        return cls(**record)


def make_plan(
    dataset: str, split: str, manifest: Sequence[Sample], samples_per_shard: int
) -> ShardPlan:
    """Assigns rows to a split's samples, in the order of its manifest.

    Raises:
        DatasetError: There is no sample, an id occurs twice, or sizes differ.
        PlanMismatchError: ``samples_per_shard`` is below 1.
    """
    if samples_per_shard < 1:
        message = f"--samples_per_shard must be at least 1, got {samples_per_shard}"
        raise PlanMismatchError(message)
    if not manifest:
        message = f"the split {dataset}/{split} has no samples; check --data_root and --split"
        raise DatasetError(message)
    seen: set[str] = set()
    for sample in manifest:
        if sample.sample_id in seen:
            message = f"sample id {sample.sample_id!r} occurs twice; ids must be unique in a split"
            raise DatasetError(message)
        seen.add(sample.sample_id)
    canvas = layout.coded_size(manifest[0].height, manifest[0].width)
    require_sizes(manifest, canvas)
    return ShardPlan(
        dataset=dataset,
        split=split,
        samples_per_shard=samples_per_shard,
        canvas=canvas,
        samples=tuple(manifest),
        rows=tuple(range(len(manifest))),
    )


def require_sizes(samples: Sequence[Sample], canvas: tuple[int, int]) -> None:
    """Refuses samples whose coded size is not the split's.

    Raises:
        DatasetError: Names the sample and both sizes.
    """
    for sample in samples:
        if layout.coded_size(sample.height, sample.width) != canvas:
            message = (
                f"{sample.image_uri} is {sample.height}x{sample.width} (height x width), but the "
                f"split is coded at {canvas[0]}x{canvas[1]}: every image of a split has one size; "
                "put other sizes into a split of their own"
            )
            raise DatasetError(message)


def plan_key(dataset: str, split: str) -> str:
    """Returns the key of a split's persisted plan."""
    return f"{CONTROL}/{dataset}/{split}/plan.json"


def read_plan(location: Location, dataset: str, split: str) -> ShardPlan:
    """Reads a split's plan.

    Raises:
        StoreNotFoundError: The store has no such split; those it has are named.
        IntegrityError: The plan was altered, or is another split's.
    """
    key = plan_key(dataset, split)
    try:
        plan = ShardPlan.from_json(location.read(key))
    except FileNotFoundError:
        known = ", ".join(sorted(list_splits(location))) or "none"
        message = f"{location.url} has no split {dataset}/{split}; it has: {known}"
        raise StoreNotFoundError(message) from None
    except IntegrityError as error:
        message = f"{location.url}: {key}: {error}"
        raise IntegrityError(message) from error
    if plan.name != f"{dataset}/{split}":
        message = f"{location.url}: {key} is the plan of {plan.name}; {_REMEDY}"
        raise IntegrityError(message)
    return plan


def list_splits(location: Location) -> list[str]:
    """Returns ``dataset/split`` for each plan in the store."""
    found = (key.split("/") for key in location.sizes(CONTROL))
    return sorted(
        "/".join(parts[1:3]) for parts in found if len(parts) == 4 and parts[3] == "plan.json"
    )


def _require_unchanged(planned: Sample, current: Sample | None) -> None:
    if current is None:
        message = (
            f"the data root changed since the plan was made: {planned.sample_id} is gone; restore "
            "it, or encode into a new store"
        )
        raise PlanMismatchError(message)
    for name, value in _fields(planned).items():
        now = getattr(current, name)
        if now != value:
            message = (
                f"the data root changed since the plan was made: {planned.sample_id} has {name} "
                f"{now!r}, planned {value!r}; restore it, or encode into a new store"
            )
            raise PlanMismatchError(message)


def _fields(sample: Sample) -> Mapping[str, Any]:
    return dataclasses.asdict(sample)
