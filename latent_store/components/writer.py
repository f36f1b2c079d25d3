"""Writes whole shards: arrays first, then the receipt that makes them count.

One worker writes one shard of one component whole. (Zarr readers and writers lose data silently
where two writers share a shard, and a missing object reads as zeros.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from latent_store.components.creation import Arrays, read_arrays
from latent_store.errors import CapacityError, LeaseLostError
from latent_store.format import layout
from latent_store.format.plan import ShardPlan
from latent_store.format.schema import ArraySpec, BytesSpec, ComponentSpec
from latent_store.shards.receipts import (
    Receipt,
    RowRecord,
    StoredObject,
    crc32c,
    failure_key,
    look_up,
    receipt_key,
)
from latent_store.storage import drafts
from latent_store.storage.lease import LeaseClaim
from latent_store.storage.location import Location

Columns = Mapping[str, Mapping[int, np.ndarray]]
"""Array name -> row number -> value of that row."""
Streams = Mapping[str, Mapping[int, bytes]]
"""Stream name -> row number -> byte string of that row."""


class ShardWriter:
    """Writes shards of one component, one at a time.

    Args:
        location: The store.
        plan: The split's plan.
        spec: The component; its arrays exist already (`creation.create_component`).
        claim: The component's lease, which is asked for before anything is written; None where
            nobody else can write.
        arrays: The metadata of its arrays, where it is known: it lies in the store.
        written_by: What computes the values (`Receipt.written_by`).
    """

    def __init__(
        self,
        location: Location,
        plan: ShardPlan,
        spec: ComponentSpec,
        claim: LeaseClaim | None = None,
        arrays: Arrays | None = None,
        written_by: Mapping[str, str | int] | None = None,
    ):
        self.location = location
        self.claim = claim
        self.written_by = dict(written_by or {})
        self.plan = plan
        self.spec = spec
        self._arrays = read_arrays(location, plan.name, spec) if arrays is None else arrays

    def write(
        self, shard: int, columns: Columns, streams: Streams, records: Sequence[RowRecord]
    ) -> Receipt:
        """Writes one shard whole, and its receipt last.

        Args:
            shard: Shard number.
            columns: Values of the rows that succeeded; the rest of the shard stays fill. A plane
                smaller than the array's lies in its top left corner.
            streams: Byte strings of the rows that succeeded.
            records: One record for each planned row of the shard.

        Returns:
            The receipt, as written.

        Raises:
            CapacityError: A value does not fit its array's dtype or shape, or streams their row.
            IntegrityError: The store has something else than was written.
            LeaseLostError: Another job writes the component by now; no receipt is left behind.
            OSError: The store cannot be written; no receipt is left behind.
        """
        key = receipt_key(self.plan.name, self.spec.key, shard)
        if self._require_lease(shard):
            self.location.delete(key)  # Nothing half written counts.
        objects: dict[str, bytes] = {}
        for spec in self.spec.arrays:
            objects |= self._encode_rows(spec, shard, columns[spec.name])
        for stream in self.spec.streams:
            objects |= self._encode_stream(stream, shard, streams[stream.name])
        receipt = self._receipt(shard, records, objects)
        failure = failure_key(self.plan.name, self.spec.key, shard)
        self.location.delete_all([failure, *receipt.absent])
        self.location.write_all(objects)
        # A power cut must not leave a receipt of what never reached the disk.
        self.location.sync(objects)
        self._require_lease(shard)
        self.location.write(key, receipt.to_json())
        return receipt

    def _require_lease(self, shard: int) -> bool:
        """Refuses to write what a later job may have written; tells whether there is a receipt."""
        if self.claim is not None:
            self.claim.require()
        any_there, there = look_up(self.location, self.plan.name, self.spec.key, shard)
        # Between the answer and the writing a job can be suspended: the number tells, too.
        if there is not None and self.claim and (there.fence or 0) > self.claim.fence:
            raise LeaseLostError(
                f"shard {shard} of {self.claim.what} was written by a later job, of fencing number "
                f"{there.fence} against {self.claim.fence}: this one writes nothing more"
            )
        return any_there

    def _encode_rows(
        self, spec: ArraySpec, shard: int, values: Mapping[int, np.ndarray]
    ) -> dict[str, bytes]:
        size = self.plan.samples_per_shard
        first = shard * size
        block = np.zeros((size, *spec.shape), dtype=spec.dtype)
        for row, value in values.items():
            value = _fitting(np.asarray(value), spec, row)
            corner = tuple(slice(side) for side in value.shape)
            block[(row - first, *corner)] = value
        return self._encode(spec.name, slice(first, first + size), block)

    def _encode_stream(
        self, spec: BytesSpec, shard: int, values: Mapping[int, bytes]
    ) -> dict[str, bytes]:
        size = self.plan.samples_per_shard
        first = shard * size
        parts = [values.get(row, b"") for row in range(first, first + size)]
        capacity = int(self._arrays[spec.data]["shape"][1])
        flat, offset, length = layout.pack_bytes(parts, capacity)
        objects = self._encode(spec.data, (shard, slice(flat.size)), flat)
        crcs = np.array([crc32c(part) for part in parts], dtype=np.uint32)
        for column, numbers in zip(spec.columns, (offset, length, crcs), strict=True):
            objects |= self._encode(column.name, slice(first, first + size), numbers)
        return objects

    def _encode(self, name: str, selection: Any, values: np.ndarray) -> dict[str, bytes]:
        path = f"{self.plan.name}/{self.spec.key}/{name}"
        return drafts.encode(path, self._arrays[name], selection, values)

    def _receipt(
        self, shard: int, records: Sequence[RowRecord], objects: Mapping[str, bytes]
    ) -> Receipt:
        base = f"{self.plan.name}/{self.spec.key}"
        keys = {n: layout.object_key(f"{base}/{n}", shard, r) for n, r in self.spec.ranks.items()}
        listed = {
            key: StoredObject.of(objects[key], drafts.inner_chunks(self._arrays[name]))
            for name, key in keys.items()
            if key in objects
        }
        receipt = Receipt(
            component=self.spec.key,
            shard=shard,
            objects=listed,
            absent=tuple(key for key in keys.values() if key not in objects),
            rows=tuple(records),
            origin=self.spec.origin,
            fence=None if self.claim is None else self.claim.fence,
            written_by=self.written_by,
        )
        pictures = self.plan.pictures_crc32c(receipt.usable)
        return dataclasses.replace(receipt, pictures_crc32c=pictures)


def _fitting(value: np.ndarray, spec: ArraySpec, row: int) -> np.ndarray:
    """Casts a value to the array's dtype, refusing what does not fit a row of it."""
    # Only planes vary with the picture: the last two axes of an array that has more than one.
    fixed = len(spec.shape) - 2 if len(spec.shape) > 1 else len(spec.shape)
    pairs = list(zip(value.shape, spec.shape, strict=False))
    if (
        value.ndim != len(spec.shape)
        or any(side != n for side, n in pairs[:fixed])
        or any(side > n for side, n in pairs)
    ):
        raise CapacityError(
            f"{spec.name} of row {row} has shape {value.shape}, a row of the array {spec.shape}; "
            "encode into a new store with a `canvas=` that holds it"
        )
    target = np.dtype(spec.dtype)
    if target.kind in "iu" and value.dtype.kind in "iu" and value.size:
        low, high = int(value.min()), int(value.max())
        limits = np.iinfo(target)
        if low < limits.min or high > limits.max:
            remedy = "encode into a new store with `y_hat_dtype=int16`"
            if target == np.int16:
                remedy = "the codec's weights or the picture are damaged"
            raise CapacityError(
                f"{spec.name} of row {row} spans {low}..{high}, beyond {target}; {remedy}"
            )
    return value.astype(target, copy=False)
