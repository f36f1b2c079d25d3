"""Parts of a plan: some consecutive samples as a file of Parquet, in memory or in a store.

A part is read when it is asked for, and believed only where its bytes have the crc32c that the plan
records, its columns their types, and its values the rules that a `Sample` has.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from msgspec import Meta

from latent_store.errors import DatasetError, IntegrityError
from latent_store.format.ids import ORIGINAL_VIEW, safe_id
from latent_store.format.samples import LARGEST_SIDE, MOST_BOXES, Sample
from latent_store.storage.location import Location
from latent_store.storage.records import Count, Crc32c

REMEDY = (
    "restore it from a copy of the store, or remove plan.json and run encode-to-store again with "
    "the same data and `samples_per_shard=`"
)
COLUMNS = pa.schema(
    [
        ("sample_id", pa.string()),
        ("image_uri", pa.string()),
        ("label_uri", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("image_bytes", pa.int64()),
        ("view", pa.string()),
        ("boxes_uri", pa.string()),
        ("num_boxes", pa.int32()),
    ]
)
"""The fields of `Sample`; in a part's file behind `row`."""
_ROW = pa.field("row", pa.int64())
_TEXTS = [field.name for field in COLUMNS if field.type == pa.string()]
_LIMITS = {
    "height": LARGEST_SIDE, "width": LARGEST_SIDE, "image_bytes": 2**62 - 1,
    "num_boxes": MOST_BOXES,
}  # fmt: skip
"""The most that numbers can be; the least is 0."""
_REPEATED = ["height", "width", "view", "boxes_uri", "num_boxes"]
"""Columns of few values: they are written as dictionaries."""
_SAFE_ID = "^[A-Za-z0-9_-][A-Za-z0-9_.-]*$"
"""Ids of originals that need no longer look; most are."""
MOST_SAMPLES = 2**20
LARGEST_PART = 2**28
"""In bytes, of the file, of what it says that it unfolds to, and of its texts."""
_CACHED = 8
"""Parts that a process keeps as tables."""


@dataclass(frozen=True, kw_only=True)
class PartRecord:
    """What a plan records of a part.

    Attributes:
        first_row: Row of its first sample; the others follow without a gap.
        samples: How many.
        bytes: Length of its file.
        crc32c: Of its file.
    """

    first_row: Count
    samples: Annotated[int, Meta(ge=1, le=MOST_SAMPLES)]
    bytes: Annotated[int, Meta(ge=1, le=LARGEST_PART)]
    crc32c: Crc32c

    @property
    def stop(self) -> int:
        """The row behind its last."""
        return self.first_row + self.samples


@dataclass(frozen=True, kw_only=True, eq=False)
class SamplePart:
    """Some consecutive samples, in a file of a store or in the memory of one.

    Attributes:
        held: The file; None where it is read from `location`.
    """

    record: PartRecord
    held: bytes | None = None
    location: Location | None = None
    key: str = ""

    @classmethod
    def of(cls, table: pa.Table, first_row: int) -> SamplePart:
        """Makes the part of a table's samples, of which `COLUMNS` are taken.

        Raises:
            DatasetError: They take more than a part can have.
        """
        if table.nbytes + _ROW.type.byte_width * len(table) > LARGEST_PART:
            raise DatasetError(
                f"{len(table)} samples that the plan keeps together, one shard or some, take "
                f"{table.nbytes} bytes, more than {LARGEST_PART}: encode into a new store with a "
                "smaller `samples_per_shard=`, or shorten the paths of the pictures"
            )
        rows = pa.array(np.arange(first_row, first_row + len(table)))
        columns = {_ROW.name: rows, **{name: table[name] for name in COLUMNS.names}}
        buffer = io.BytesIO()
        pq.write_table(
            pa.table(columns, schema=pa.schema([_ROW, *COLUMNS])),
            buffer,
            compression="zstd",
            use_dictionary=_REPEATED,
            column_encoding={_ROW.name: "DELTA_BINARY_PACKED"},
        )
        data = buffer.getvalue()
        record = PartRecord(
            first_row=first_row,
            samples=len(table),
            bytes=len(data),
            crc32c=google_crc32c.value(data),
        )
        return cls(record=record, held=data)

    def data(self) -> bytes:
        """Returns its file.

        Raises:
            IntegrityError: It is missing or was altered.
        """
        if self.location is None:
            return self.held or b""
        try:
            data = self.location.read(self.key, self.record.bytes)
        except FileNotFoundError:
            raise IntegrityError(
                f"{self._name} is missing: if jobs have changed the plan since it was opened, open "
                f"the split again; else {REMEDY}"
            ) from None
        if len(data) != self.record.bytes or google_crc32c.value(data) != self.record.crc32c:
            raise IntegrityError(f"{self._name} does not have its crc32c: it was altered; {REMEDY}")
        return data

    def table(self) -> pa.Table:
        """Returns its samples as `COLUMNS`.

        Raises:
            IntegrityError: It is missing, was altered, or is no part of a plan.
        """
        return _table(self)

    def samples(self, start: int = 0, stop: int | None = None) -> list[Sample]:
        """Returns its samples from the one at a place to before another."""
        return to_samples(self.table().slice(start, None if stop is None else stop - start))

    @property
    def _name(self) -> str:
        where = "" if self.location is None else f"{self.location.url}: "
        return f"{where}{self.key or 'a part'} of the shard plan"


def to_table(samples: Sequence[Sample]) -> pa.Table:
    """Returns samples as `COLUMNS`.

    Raises:
        DatasetError: A reader gave one of them another type of value, or a number out of its range.
    """
    columns = {name: [getattr(s, name) for s in samples] for name in COLUMNS.names}
    try:
        table = pa.table(columns, schema=COLUMNS)
        _require_limits(table)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        raise DatasetError(
            f"one of the samples from {samples[0].sample_id!r} to {samples[-1].sample_id!r} cannot "
            f"be planned ({text}); mend their reader"
        ) from error
    return table


def to_samples(table: pa.Table) -> list[Sample]:
    """Returns the samples of `COLUMNS`."""
    names = COLUMNS.names
    columns = [table[name].to_pylist() for name in names]
    return [Sample(**dict(zip(names, v, strict=True))) for v in zip(*columns, strict=True)]


def cut_parts(tables: Iterable[pa.Table], first_row: int, size: int) -> Iterator[SamplePart]:
    """Yields the parts, of `size` samples each, of tables that are laid end to end."""
    ahead: list[pa.Table] = []
    count = 0
    for table in tables:
        ahead.append(table)
        count += len(table)
        while count >= size:
            whole = pa.concat_tables(ahead)
            yield SamplePart.of(whole.slice(0, size), first_row)
            first_row += size
            count -= size
            ahead = [whole.slice(size)]
    if count:
        yield SamplePart.of(pa.concat_tables(ahead), first_row)


@functools.lru_cache(maxsize=_CACHED)
def _table(part: SamplePart) -> pa.Table:
    data = part.data()
    if part.location is None:  # It was made here.
        return pq.read_table(io.BytesIO(data), columns=COLUMNS.names, use_threads=False)
    try:
        return _believed(data, part.record)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        text = " ".join(str(error).split())[:200]
        raise IntegrityError(f"{part._name} cannot be read ({text}); {REMEDY}") from error


def _believed(data: bytes, record: PartRecord) -> pa.Table:
    """Reads a part's file; raises what Arrow does, or `ValueError`, where it is none."""
    about = pq.read_metadata(io.BytesIO(data))
    unfolded = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    if about.num_rows != record.samples or not 0 <= unfolded <= LARGEST_PART:
        raise ValueError(f"it says that it has {about.num_rows} rows, {unfolded} bytes")
    wanted, there = pa.schema([_ROW, *COLUMNS]), about.schema.to_arrow_schema()
    for field in wanted:
        place = there.get_field_index(field.name)
        found = pa.null() if place < 0 else there.field(place).type
        if pa.types.is_dictionary(found):
            found = found.value_type
        if found != field.type:
            raise ValueError(f"{field.name} is {found}, not {field.type}")
    # As dictionaries, texts take no more memory than the file has of them: one long text that many
    # rows have would take as much as the rows times its length.
    file = pq.ParquetFile(io.BytesIO(data), metadata=about, read_dictionary=_TEXTS)
    # One thread: handing such small tables to a pool takes longer than reading them.
    table = file.read(columns=wanted.names, use_threads=False).select(wanted.names)
    table.validate(full=True)
    if len(table) != record.samples:
        raise ValueError(f"it has {len(table)} rows")
    _require_room(table)
    columns = {name: _dense(table[name]) for name in wanted.names}
    table = pa.table(columns, schema=wanted).combine_chunks()
    table.validate(full=True)
    _require_values(table, record)
    return table.drop_columns([_ROW.name])


def _dense(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns a column without dictionaries."""
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _require_room(table: pa.Table) -> None:
    """Refuses texts that take much more than the file once they have no dictionaries any more."""
    length = 0
    for column in table.select(_TEXTS).columns:
        for chunk in column.chunks:
            chunk.validate(full=True)
            texts = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
            lengths = pc.binary_length(texts).cast(pa.int64())
            if texts is not chunk:
                lengths = lengths.take(chunk.indices)
            length += pc.sum(lengths).as_py() or 0
            if length > LARGEST_PART:
                raise ValueError(f"its texts take more than {LARGEST_PART} bytes")


def _require_limits(table: pa.Table) -> None:
    if any(column.null_count for column in table.columns):
        raise ValueError("a value is missing")
    for name, most in _LIMITS.items():
        values = table[name].to_numpy()
        if len(values) and not 0 <= values.min() <= values.max() <= most:
            raise ValueError(f"{name} is not from 0 to {most} everywhere")


def _require_values(table: pa.Table, record: PartRecord) -> None:
    rows = table[_ROW.name].to_numpy()
    if not np.array_equal(rows, np.arange(record.first_row, record.stop)):
        raise ValueError("its rows are not those that the plan lists")
    _require_limits(table)
    ids, views = table["sample_id"], table["view"]
    plain = pc.and_(pc.match_substring_regex(ids, _SAFE_ID), pc.equal(views, ORIGINAL_VIEW))
    odd = table.filter(pc.invert(plain))
    for name, view in zip(odd["sample_id"].to_pylist(), odd["view"].to_pylist(), strict=True):
        if safe_id(name, view) != name:
            raise ValueError(f"the sample id {name!a} is not in its normal form")
