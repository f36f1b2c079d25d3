"""Changes of planned samples: what a list of the data root adds to them, and what it may not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from latent_store.errors import PlanMismatchError
from latent_store.format.ids import ORIGINAL_VIEW, view_suffix
from latent_store.format.sample_lists import Samples, is_original
from latent_store.format.sample_parts import COLUMNS, SamplePart, to_samples, to_table
from latent_store.format.samples import Sample


def source_ids(table: pa.Table) -> list[str]:
    """Returns the ids of the originals of a table's samples."""
    names: list[str] = table["sample_id"].to_pylist()
    if pc.all(is_original(table)).as_py() is not False:
        return names
    views = map(view_suffix, table["view"].to_pylist())
    return [name.removesuffix(suffix) for name, suffix in zip(names, views, strict=True)]


def renewed(
    part: SamplePart,
    listed: Samples,
    places: np.ndarray,
    annotations: frozenset[str],
    mended: frozenset[str],
) -> SamplePart:
    """Returns a part with what a list adds to its samples; the same one where that is nothing.

    Args:
        part: Of the plan.
        listed: What the data root holds now.
        places: Of the part's samples, or their originals, in that list; -1 where they lack.
        annotations: Those that the list gives any sample.
        mended: Ids of originals that may have changed.
    """
    table, there = part.table(), places >= 0
    planned, now = table.filter(there), listed.take(places[there])
    differs = ~there
    for name in COLUMNS.names:
        if name not in ("sample_id", "view"):
            differs[there] |= pc.not_equal(planned[name], now[name]).to_numpy()
    if not differs.any():
        return part
    samples, current = to_samples(table), iter(to_samples(now))
    for place, known in enumerate(there.tolist()):
        other = next(current) if known else None
        if differs[place]:
            samples[place] = _settled(samples[place], other, annotations, mended)
    changed = to_table(samples)
    return part if changed.equals(table) else SamplePart.of(changed, part.record.first_row)


def _settled(
    sample: Sample, now: Sample | None, annotations: frozenset[str], mended: frozenset[str]
) -> Sample:
    original = sample.seen_as(ORIGINAL_VIEW)
    if now is None and original.annotations and not original.annotations & annotations:
        return sample
    if now is not None and (original.sample_id in mended or not original.has_size):
        return now.joined(original).seen_as(sample.view)
    return _unchanged(original, now).seen_as(sample.view)


def _unchanged(planned: Sample, current: Sample | None) -> Sample:
    """Returns a planned sample with what the current list adds to it; refuses other changes."""
    if current is None:
        raise PlanMismatchError(
            f"the data root changed since the plan was made: {planned.sample_id} is gone; restore "
            "it, or encode into a new store"
        )
    joined, other = planned.joined(current), current.joined(planned)
    for name, value in dataclasses.asdict(joined).items():
        now = getattr(other, name)
        if now != value:
            raise PlanMismatchError(
                f"the data root changed since the plan was made: {planned.sample_id} has {name} "
                f"{now!r}, planned {value!r}; restore it, or encode into a new store"
            )
    return joined
