"""Parquet beside the arrays: who lies in which row, what became of it, which objects exist.

Three tables: `samples.parquet` (one row a sample of the plan), `NAME.parquet` (one row a sample
of a component, from its receipts) and `NAME.objects.parquet` (one row an object, so that a reader
checks a whole component with one request and one listing).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from latent_store.errors import IntegrityError
from latent_store.format.plan import ShardPlan
from latent_store.format.plan_sizes import coded_sizes
from latent_store.shards.receipts import Receipt, crc32c
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
LARGEST_TABLE, LARGEST_TABLE_BYTES = 2**26, 2**32
"""In rows, and in bytes of the file and of what it says that it unfolds to."""
ABSENT = -1
"""Length in the object table of an object that is not there, because all its values are fill."""


def index_key(split: str, name: str) -> str:
    """Returns the key of a table; `split` is `dataset/split`."""
    return f"{CONTROL}/{split}/{name}.parquet"


def former_key(split: str, name: str) -> str:
    """Returns the key of the table that a seal names, while another one has taken its place."""
    return index_key(split, f"{name}.former")


def part_name(component: str) -> str:
    """Returns the name of a component's tables: its key with `-` between parts."""
    return component.replace("/", "-")


def samples_table(plan: ShardPlan, sha256: Mapping[int, str]) -> pa.Table:
    """Builds the samples table.

    Args:
        plan: The split's plan.
        sha256: Row number -> sha256 of the picture's file, where it is known.
    """
    tables = []
    for part in plan.samples.parts:
        table = part.table()
        rows = np.arange(part.record.first_row, part.record.stop)
        coded_N2 = coded_sizes(table["height"].to_numpy(), table["width"].to_numpy())
        more = {
            "sha256": [sha256.get(row, "") for row in rows.tolist()],
            "coded_height": coded_N2[:, 0],
            "coded_width": coded_N2[:, 1],
            "shard": rows // plan.samples_per_shard,
            "row": rows,
            "source_row": plan.source_rows(rows),
        }
        columns = {name: more[name] if name in more else table[name] for name in SAMPLES.names}
        tables.append(pa.table(columns).cast(SAMPLES))
    return pa.concat_tables([SAMPLES.empty_table(), *tables]).combine_chunks()


def rows_table(receipts: Iterable[Receipt]) -> pa.Table:
    """Builds a component's part: row, status, reason and the statistics of each row, ascending."""
    records = sorted((r for receipt in receipts for r in receipt.rows), key=lambda r: r.row)
    columns = sorted({name for record in records for name in record.stats} - {n for n, _ in ROWS})
    rows = [{**r.stats, **{name: getattr(r, name) for name, _ in ROWS}} for r in records]
    extra = [(name, _type_of(rows, name)) for name in columns]
    return _table(rows, pa.schema([*ROWS, *extra]))


def objects_table(receipts: Iterable[Receipt]) -> pa.Table:
    """Builds a component's object table, ordered by shard and key."""
    rows: list[dict[str, Any]] = []
    for receipt in sorted(receipts, key=lambda r: r.shard):
        for key, stored in receipt.objects.items():
            listed = {name: getattr(stored, name) for name in OBJECTS.names[2:]}
            rows.append({"shard": receipt.shard, "key": key, **listed})
        void = {"length": ABSENT, "crc32c": 0, "inner_chunks": 0, "trailers": b""}
        rows.extend({"shard": receipt.shard, "key": key, **void} for key in receipt.absent)
    return _table(rows, OBJECTS)


def read_samples(location: Location, split: str) -> pa.Table:
    """Reads a split's samples table, if it is the one that was written last.

    Raises:
        IntegrityError: It is missing, altered or older; names the remedy.
    """
    recorded = _samples_crc32c(location, split)
    while True:
        try:
            return read_table(location, split, "samples", recorded)
        except IntegrityError:
            # A job may have written another one between the two requests.
            before, recorded = recorded, _samples_crc32c(location, split)
            if recorded == before:
                raise


def _samples_crc32c(location: Location, split: str) -> int:
    group = groups.open_group(location, split)
    found = None if group is None else groups.attrs_of(group).get(SAMPLES_CRC32C)
    # A split that records none has no valid crc32c.
    return found if isinstance(found, int) else -1


def renew_table(
    location: Location, split: str, name: str, table: pa.Table, sealed_crc32c: int | None
) -> int:
    """Writes a table as Parquet, the same bytes for the same rows, and returns their crc32c.

    Args:
        location: The store.
        split: `dataset/split`.
        name: The table's.
        table: Its rows.
        sealed_crc32c: Of the table that readers are told of until they are told of this one; it is
            kept beside it. None where there is none.
    """
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    data, key = buffer.getvalue(), index_key(split, name)
    # Where no seal names a table, whatever lies there is nobody's.
    there = None if sealed_crc32c is None else _read(location, key)
    if there != data:
        if there is not None and crc32c(there) == sealed_crc32c:
            location.write(former_key(split, name), there)
        location.write(key, data)
    return crc32c(data)


def read_table(
    location: Location,
    split: str,
    name: str,
    expected_crc32c: int,
    fetched: bytes | None = None,
) -> pa.Table:
    """Reads a table.

    Args:
        location: The store.
        split: `dataset/split`.
        name: The table's.
        expected_crc32c: Of the file, as the group that owns it records: Parquet readers trust what
            they read, so a table is checked before it is parsed.
        fetched: The file, where it was read already; it is read again if it is not the one.

    Raises:
        IntegrityError: It is missing, altered or unreadable; names the remedy.
    """
    key = index_key(split, name)
    remedy = f"run `latent-store finalize {location.url}`, which writes it from the receipts"
    data = fetched
    if data is None or crc32c(data) != expected_crc32c:
        data = _read(location, key)
    if data is None or crc32c(data) != expected_crc32c:
        former = _read(location, former_key(split, name))
        if former is not None and crc32c(former) == expected_crc32c:
            data = former
    if data is None:
        raise IntegrityError(f"{location.url} lacks its index {key}; {remedy}")
    if crc32c(data) != expected_crc32c:
        raise IntegrityError(
            f"the index {key} of {location.url} is not the one that was written; {remedy}"
        )
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        groups_of_rows = range(file.metadata.num_row_groups)
        unfolded = sum(file.metadata.row_group(i).total_byte_size for i in groups_of_rows)
        if file.metadata.num_rows > LARGEST_TABLE or unfolded > LARGEST_TABLE_BYTES:
            raise ValueError(f"it says that it has {file.metadata.num_rows} rows, {unfolded} bytes")
        # One thread: handing such small tables to a pool takes longer than reading them.
        return file.read(use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError(
            f"the index {key} of {location.url} is unreadable ({error}); {remedy}"
        ) from error


def _read(location: Location, key: str) -> bytes | None:
    try:
        return location.read(key, LARGEST_TABLE_BYTES)
    except FileNotFoundError:
        return None


def _table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowException, OverflowError) as error:
        raise IntegrityError(
            f"the receipts hold statistics that make no table ({error}); run their job again"
        ) from error


def _type_of(rows: Sequence[Mapping[str, Any]], name: str) -> pa.DataType:
    values = [row[name] for row in rows if row.get(name) is not None]
    if any(isinstance(value, str) for value in values):
        return pa.string()
    if any(isinstance(value, float) for value in values):
        return pa.float64()
    return pa.int64() if values else pa.float64()
