"""Parquet beside the arrays: who lies in which row, what became of it, which objects exist.

Three tables: `samples.parquet` (one row a sample of the plan), `NAME.parquet` (one row a sample
of a component, from its receipts) and `NAME.objects.parquet` (one row an object, so that a reader
checks a whole component with one request and one listing).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from latent_store.errors import IntegrityError
from latent_store.format import layout
from latent_store.format.plan import ShardPlan
from latent_store.shards.receipts import Receipt, StoredObject, crc32c
from latent_store.storage import groups
from latent_store.storage.location import CONTROL, Location

SAMPLES = pa.schema(
    [
        ("sample_id", pa.string()),
        ("image_uri", pa.string()),
        ("label_uri", pa.string()),
        ("boxes_uri", pa.string()),
        ("sha256", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("coded_height", pa.int32()),
        ("coded_width", pa.int32()),
        ("shard", pa.int32()),
        ("row", pa.int64()),
        ("view", pa.string()),
        ("source_row", pa.int64()),
    ]
)
ROWS = [
    ("row", pa.int64()),
    ("sample_id", pa.string()),
    ("status", pa.string()),
    ("reason", pa.string()),
]
"""Columns that every component's part begins with; its statistics follow."""
OBJECTS = pa.schema(
    [
        ("shard", pa.int32()),
        ("key", pa.string()),
        ("length", pa.int64()),
        ("crc32c", pa.uint32()),
        ("inner_chunks", pa.int32()),
        ("trailers", pa.binary()),
    ]
)
SAMPLES_CRC32C = "samples_crc32c"
"""Attribute of a split's group: the crc32c of `samples.parquet`."""
LARGEST_TABLE = 2**26
"""In rows."""
ABSENT = -1
"""Length in the object table of an object that is not there, because all its values are fill."""


def index_key(split: str, name: str) -> str:
    """Returns the key of a table; `split` is `dataset/split`."""
    return f"{CONTROL}/{split}/{name}.parquet"


def part_name(component: str) -> str:
    """Returns the name of a component's tables: its key with `-` between parts."""
    return component.replace("/", "-")


def samples_table(plan: ShardPlan, sha256: Mapping[int, str]) -> pa.Table:
    """Builds the samples table.

    Args:
        plan: The split's plan.
        sha256: Row number -> sha256 of the picture's file, where it is known.
    """
    rows = []
    for row, sample in plan.by_row.items():
        coded_height, coded_width = sample.coded_size
        place = {
            "sha256": sha256.get(row, ""),
            "coded_height": coded_height,
            "coded_width": coded_width,
            "shard": layout.shard_of(row, plan.samples_per_shard),
            "row": row,
            "source_row": plan.source_rows[row],
        }
        rows.append({**vars(sample), **place})
    return pa.Table.from_pylist(rows, schema=SAMPLES)


def rows_table(receipts: Iterable[Receipt]) -> pa.Table:
    """Builds a component's part: row, status, reason and the statistics of each row, ascending."""
    records = sorted((r for receipt in receipts for r in receipt.rows), key=lambda r: r.row)
    columns = sorted({name for record in records for name in record.stats})
    rows = [{**record.stats, **vars(record)} for record in records]
    extra = [(name, _type_of(rows, name)) for name in columns]
    return pa.Table.from_pylist(rows, schema=pa.schema([*ROWS, *extra]))


def objects_table(receipts: Iterable[Receipt]) -> pa.Table:
    """Builds a component's object table, ordered by shard and key."""
    rows: list[dict[str, Any]] = []
    for receipt in sorted(receipts, key=lambda r: r.shard):
        for key, stored in receipt.objects.items():
            rows.append({"shard": receipt.shard, "key": key, **vars(stored)})
        void = StoredObject(length=ABSENT, crc32c=0, inner_chunks=0, trailers=b"")
        rows.extend({"shard": receipt.shard, "key": k, **vars(void)} for k in receipt.absent)
    return pa.Table.from_pylist(rows, schema=OBJECTS)


def read_samples(location: Location, split: str) -> pa.Table:
    """Reads a split's samples table, if it is the one that was written last.

    Raises:
        IntegrityError: It is missing, altered or older; names the remedy.
    """
    group = groups.open_group(location, split)
    expected = {} if group is None else groups.attrs_of(group)
    # A split that records none has no valid crc32c.
    return read_table(location, index_key(split, "samples"), expected.get(SAMPLES_CRC32C, -1))


def write_table(location: Location, key: str, table: pa.Table) -> int:
    """Writes a table as Parquet, the same bytes for the same rows, and returns their crc32c."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    location.write(key, buffer.getvalue())
    return crc32c(buffer.getvalue())


def read_table(location: Location, key: str, expected_crc32c: int | None = None) -> pa.Table:
    """Reads a table.

    Args:
        location: The store.
        key: The table.
        expected_crc32c: Of the file, as the group that owns it records; None: not checked. Parquet
            readers trust what they read, so a table is best checked before it is parsed.

    Raises:
        IntegrityError: It is missing, altered or unreadable; names the remedy.
    """
    remedy = f"run `latent-store finalize {location.url}`, which writes it from the receipts"
    try:
        data = location.read(key)
    except FileNotFoundError:
        raise IntegrityError(f"{location.url} lacks its index {key}; {remedy}") from None
    if expected_crc32c is not None and crc32c(data) != expected_crc32c:
        raise IntegrityError(
            f"the index {key} of {location.url} is not the one that was written; {remedy}"
        )
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        if file.metadata.num_rows > LARGEST_TABLE:
            raise ValueError(f"it says that it has {file.metadata.num_rows} rows")
        # One thread: handing such small tables to a pool takes longer than reading them.
        return file.read(use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError(
            f"the index {key} of {location.url} is unreadable ({error}); {remedy}"
        ) from error


def _type_of(rows: Sequence[Mapping[str, Any]], name: str) -> pa.DataType:
    values = [row[name] for row in rows if row.get(name) is not None]
    if any(isinstance(value, str) for value in values):
        return pa.string()
    if any(isinstance(value, float) for value in values):
        return pa.float64()
    return pa.int64() if values else pa.float64()
