"""Writes whole shards: arrays first, then the receipt that makes them count.

One worker writes one shard of one component whole. (Zarr readers and writers lose data silently
where two writers share a shard, and a missing object reads as zeros.)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from latent_store.components import base as component
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
    read_receipt,
    receipt_key,
)
from latent_store.storage import groups
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
        spec: The component; its arrays exist already (`component.create_component`).
        claim: The component's lease, which is asked for before anything is written; None where
            nobody else can write.
    """

    def __init__(
        self,
        location: Location,
        plan: ShardPlan,
        spec: ComponentSpec,
        claim: LeaseClaim | None = None,
    ):
        self.location = location
        self.claim = claim
        self.plan = plan
        self.spec = spec
        self.group = component.open_component(location, plan.name, spec.key, writable=True)

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
            LeaseLostError: Another job writes the component by now; no receipt is left behind.
            OSError: The store cannot be written; no receipt is left behind.
        """
        self._require_lease(shard)
        self.forget(shard)
        for spec in self.spec.arrays:
            self._write_rows(spec, shard, columns[spec.name])
        for stream in self.spec.streams:
            self._write_stream(stream, shard, streams[stream.name])
        receipt = self._receipt(shard, records)
        key = receipt_key(self.plan.name, self.spec.key, shard)
        # A power cut must not leave a receipt of what never reached the disk.
        self.location.sync(receipt.objects)
        self._require_lease(shard)
        self.location.write(key, receipt.to_json())
        return receipt

    def _require_lease(self, shard: int) -> None:
        if self.claim is None:
            return
        self.claim.require()
        # Between the answer and the writing a job can be suspended: the number tells, too.
        there = read_receipt(self.location, self.plan.name, self.spec.key, shard)
        if there is not None and (there.fence or 0) > self.claim.fence:
            raise LeaseLostError(
                f"shard {shard} of {self.claim.what} was written by a later job, of fencing number "
                f"{there.fence} against {self.claim.fence}: this one writes nothing more"
            )

    def forget(self, shard: int) -> None:
        """Removes a shard's receipt first, then its objects: nothing half-removed counts."""
        self.location.delete(receipt_key(self.plan.name, self.spec.key, shard))
        self.location.delete(failure_key(self.plan.name, self.spec.key, shard))
        for key in self._object_keys(shard).values():
            self.location.delete(key)

    def _write_rows(self, spec: ArraySpec, shard: int, values: Mapping[int, np.ndarray]) -> None:
        size = self.plan.samples_per_shard
        first = shard * size
        block = np.zeros((size, *spec.shape), dtype=spec.dtype)
        for row, value in values.items():
            value = _fitting(np.asarray(value), spec, row)
            corner = tuple(slice(side) for side in value.shape)
            block[(row - first, *corner)] = value
        groups.array_of(self.group, spec.name)[first : first + size] = block

    def _write_stream(self, spec: BytesSpec, shard: int, values: Mapping[int, bytes]) -> None:
        size = self.plan.samples_per_shard
        first = shard * size
        parts = [values.get(row, b"") for row in range(first, first + size)]
        data = groups.array_of(self.group, spec.data)
        flat, offset, length = layout.pack_bytes(parts, data.shape[1])
        data[shard, : flat.size] = flat
        crcs = np.array([crc32c(part) for part in parts], dtype=np.uint32)
        for column, numbers in zip(spec.columns, (offset, length, crcs), strict=True):
            groups.array_of(self.group, column.name)[first : first + size] = numbers

    def _object_keys(self, shard: int) -> dict[str, str]:
        """Returns the key of the object that holds one shard of each array, by its name."""
        base = f"{self.plan.name}/{self.spec.key}"
        ranks = self.spec.ranks.items()
        return {name: layout.object_key(f"{base}/{name}", shard, rank) for name, rank in ranks}

    def _receipt(self, shard: int, records: Sequence[RowRecord]) -> Receipt:
        objects: dict[str, StoredObject] = {}
        absent = []
        for name, key in self._object_keys(shard).items():
            try:
                data = self.location.read(key)
            except FileNotFoundError:
                absent.append(key)
                continue
            there = groups.array_of(self.group, name)
            inner = math.prod(there.shards) // math.prod(there.chunks) if there.shards else 0
            objects[key] = StoredObject.of(data, inner)
        receipt = Receipt(
            component=self.spec.key,
            shard=shard,
            objects=objects,
            absent=tuple(absent),
            rows=tuple(records),
            origin=self.spec.origin,
            fence=None if self.claim is None else self.claim.fence,
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
