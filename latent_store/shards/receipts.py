"""Receipts: what a whole shard consists of, written last.

A shard without a receipt does not exist for any reader of this package. A receipt lists every
object of the shard with its length and crc32c, the objects that are absent because all their
values are fill, and one record a row.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import google_crc32c
from msgspec import Meta

from latent_store.errors import IntegrityError
from latent_store.format import layout
from latent_store.storage import records
from latent_store.storage.keys import is_key
from latent_store.storage.location import CONTROL, Location, Range
from latent_store.storage.records import Count, Crc32c, Hex, Text
from latent_store.storage.requests import Listed, md5_of

_NAME = r"(?!\.)[^/]+"
_RECEIPT = re.compile(
    rf"{re.escape(CONTROL)}/(?P<split>{_NAME}/{_NAME})/receipts/"
    rf"(?P<component>{_NAME}(?:/{_NAME})*)/(?P<shard>\d{{6,}})\.json"
)
_AT_ONCE = 256
"""Receipts that are in memory together as they are read."""
LARGEST_RECEIPT = 2**28
"""In bytes: a shard of 100,000 rows takes a tenth of it."""
OK = "ok"
FAILED = "failed"
NOT_LISTED = "absent"
"""Status of a row that its dataset has nothing for: the list of the component's task lacks it."""
Statistic = Annotated[int, Meta(ge=-(2**62), le=2**62)] | float | Text | None


@dataclass(frozen=True, kw_only=True)
class RowRecord:
    """The outcome of one row.

    Attributes:
        row: Row number.
        sample_id: The sample's id.
        status: `"ok"`, `"failed"` or `"absent"`.
        reason: Why it failed; empty otherwise.
        stats: Numbers and strings for the component's index part.
    """

    row: Count
    sample_id: Text
    status: Text = OK
    reason: Text = ""
    stats: Mapping[Text, Statistic] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """The entry of one object in a receipt.

    Attributes:
        length: In bytes.
        crc32c: Of the whole object.
        inner_chunks: How many inner chunks its index has room for; 0 for a plain chunk.
        trailers: The crc32c at the end of each of its pieces
            (`latent_store.format.layout.chunk_trailers`). They tell its contents: bytes that end in
            their own crc32c all have one and the same crc32c, so that of the whole object says
            little more than how long its pieces are.
        md5: Of the whole object, which many object stores compute of what they hold; empty where
            the receipt does not say.
    """

    length: Count
    crc32c: Crc32c
    inner_chunks: Annotated[int, Meta(ge=0, lt=2**31)]
    trailers: Hex
    md5: Annotated[str, Meta(pattern="^([0-9a-f]{32})?$")] = ""

    def __post_init__(self) -> None:
        pieces, rest = divmod(len(self.trailers), layout.INDEX_CRC)
        index = layout.INDEX_ENTRY * self.inner_chunks + layout.INDEX_CRC
        if rest or not 1 <= pieces <= self.inner_chunks + 1 or self.length < index:
            raise IntegrityError(
                f"{self.length} bytes with room for {self.inner_chunks} inner chunks do not end in "
                f"{len(self.trailers)} bytes of checksums"
            )

    @classmethod
    def of(cls, data: bytes, inner_chunks: int) -> StoredObject:
        """Describes an object's bytes."""
        return cls(
            length=len(data),
            crc32c=crc32c(data),
            inner_chunks=inner_chunks,
            trailers=Hex(layout.chunk_trailers(data, inner_chunks)),
            md5=md5_of(data),
        )

    def trailer(self, position: int) -> bytes:
        """Returns the trailing crc32c of the inner chunk at `position`; -1: of the last piece.

        Raises:
            IndexError: There are fewer pieces.
        """
        pieces = range(0, len(self.trailers), layout.INDEX_CRC)
        start = pieces[position]
        return self.trailers[start : start + layout.INDEX_CRC]

    def defect(self, data: bytes) -> str | None:
        """Returns the first way in which `data` is not this object, or None."""
        if len(data) != self.length:
            return f"has {len(data)} bytes, its receipt says {self.length}"
        if crc32c(data) != self.crc32c:
            return "has another crc32c than its receipt"
        if layout.chunk_trailers(data, self.inner_chunks) != self.trailers:
            return "is whole, but another object than its receipt lists"
        return None


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """One shard of one component, whole.

    What it was made from is missing in receipts of format version 1.1 and older.

    Attributes:
        objects: By key.
        absent: Keys that were not written, because every value is fill.
        origin: What its numbers were made from (`ComponentSpec.origin`).
        pictures_crc32c: Of its usable rows' pictures (`ShardPlan.pictures_crc32c`).
        fence: The fencing number of the lease that it was written under, if under any.
        written_by: What computed its numbers, which may differ by rounding elsewhere: torch's
            version, the device and its threads. Nothing is held to it; empty in older receipts.
    """

    component: Text
    shard: Count
    objects: Mapping[Text, StoredObject]
    absent: tuple[Text, ...]
    rows: tuple[RowRecord, ...]
    origin: Mapping[Text, Text] = field(default_factory=dict)
    pictures_crc32c: Crc32c | None = None
    fence: Count | None = None
    written_by: Mapping[Text, Text | Count] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Returns the persisted form."""
        record = dataclasses.asdict(self)
        for stored in record["objects"].values():
            stored["trailers"] = stored["trailers"].hex()
        return records.seal_record(record)

    @classmethod
    def from_json(cls, data: bytes) -> Receipt:
        """Reads `to_json`; what later minor versions add is left.

        Raises:
            IntegrityError: It was altered, or is no receipt.
        """
        return records.read_record(cls, data, "a receipt", "run its job again")

    @property
    def usable(self) -> list[int]:
        """The rows whose status is `ok`."""
        return [record.row for record in self.rows if record.status == OK]

    def lies_in(self, split: str, component: str, shard: int) -> bool:
        """Tells whether it is the receipt of that shard, and names objects of that component."""
        start = f"{split}/{component}/"
        names = [*self.objects, *self.absent]
        inside = all(is_key(name) and name.startswith(start) for name in names)
        return inside and (self.component, self.shard) == (component, shard)

    def defect(self, location: Location, listed: Mapping[str, Listed] | None = None) -> str | None:
        """Returns the first way in which the stored objects differ from this receipt, or None.

        Args:
            location: The store.
            listed: What an object store says of them: those whose digest it gives are not read.
                Without it every object is read whole.
        """
        if listed is not None:
            absent = [key for key in self.absent if key in listed]
        elif location.local_path is not None:
            absent = [key for key in self.absent if location.exists(key)]
        else:
            found = location.read_ranges([(key, 0, 1) for key in self.absent])
            absent = [k for k, data in zip(self.absent, found, strict=True) if data is not None]
        for key in absent:
            return f"{key} exists, but its receipt says that all its values are fill"
        unread: list[Range] = []
        try:
            for key, stored in self.objects.items():
                there = location.local_length(key) if listed is None else _length(listed, key)
                if there not in (None, stored.length):
                    return f"{key} has {there} bytes, its receipt says {stored.length}"
                if listed is None or not stored.md5 or listed[key].md5 != stored.md5:
                    unread.append((key, 0, stored.length + 1))
            return self._defect_read(location, unread)
        except FileNotFoundError:
            return f"{key} is missing"
        except IntegrityError as error:
            return str(error)

    def _defect_read(self, location: Location, unread: Sequence[Range]) -> str | None:
        datas = location.read_ranges(unread)
        for (key, _, _), data in zip(unread, datas, strict=True):
            defect = "is missing" if data is None else self.objects[key].defect(data)
            if defect is not None:
                return f"{key} {defect}"
        return None


def _length(listed: Mapping[str, Listed], key: str) -> int:
    if key not in listed:
        raise FileNotFoundError(key)
    return listed[key].length


def crc32c(data: bytes) -> int:
    """Returns the CRC-32C (Castagnoli) of `data` as an unsigned integer."""
    return int(google_crc32c.value(bytes(data)))


def receipt_prefix(split: str, component: str) -> str:
    """Returns the prefix of a component's receipts; `split` is `dataset/split`."""
    return f"{CONTROL}/{split}/receipts/{component}"


def receipt_key(split: str, component: str, shard: int) -> str:
    """Returns the key of one shard's receipt."""
    return f"{receipt_prefix(split, component)}/{shard:06d}.json"


def failure_key(split: str, component: str, shard: int) -> str:
    """Returns the key of the note that a shard's last attempt failed."""
    return f"{CONTROL}/{split}/failures/{component}/{shard:06d}.json"


def splits_with_receipts(location: Location) -> set[str]:
    """Returns `dataset/split` of every split in which a shard was finished."""
    return {split for split, _, _ in _found(location, CONTROL)}


def components_with_receipts(location: Location, split: str) -> set[str]:
    """Returns the keys of the components of which a shard was finished."""
    return {component for _, component, _ in _found(location, receipt_prefix(split, ""))}


def finished_shards(location: Location, split: str, component: str) -> set[int]:
    """Returns the shards that have a receipt, from one listing, without checking them."""
    return {shard for _, _, shard in _found(location, receipt_prefix(split, component))}


def finished_in(location: Location, split: str, components: Sequence[str]) -> dict[str, set[int]]:
    """Returns `finished_shards` of each of some components, from one listing."""
    found: dict[str, set[int]] = {component: set() for component in components}
    common = os.path.commonpath([receipt_prefix(split, component) for component in components])
    for _, component, shard in _found(location, common):
        if component in found:
            found[component].add(shard)
    return found


def _found(location: Location, prefix: str) -> Iterator[tuple[str, str, int]]:
    """Lists split, component and shard of the receipts below a prefix; other files are left."""
    for key in location.sizes(prefix):
        if found := _RECEIPT.fullmatch(key):
            yield found["split"], found["component"], int(found["shard"])


def read_receipt(location: Location, split: str, component: str, shard: int) -> Receipt | None:
    """Reads one shard's receipt, or None where there is none."""
    return look_up(location, split, component, shard)[1]


def look_up(
    location: Location, split: str, component: str, shard: int
) -> tuple[bool, Receipt | None]:
    """Tells whether anything lies where a shard's receipt would, and returns the receipt."""
    key = receipt_key(split, component, shard)
    found = _read_each(location, [key])
    data = found.get(key)
    receipt = None if data is None else _parsed(data)
    if receipt is not None and not receipt.lies_in(split, component, shard):
        receipt = None
    return data is not None or key not in found, receipt


def read_receipts(
    location: Location, split: str, component: str, shards: Iterable[int]
) -> dict[int, Receipt]:
    """Reads the receipts of `shards`, at once; those without one are left out.

    An altered receipt proves nothing: its shard counts as not written. Nor does one of another
    shard, or of objects that are not the component's.
    """
    wanted = list(shards)
    found = {}
    for first in range(0, len(wanted), _AT_ONCE):
        some = wanted[first : first + _AT_ONCE]
        keys = {receipt_key(split, component, shard): shard for shard in some}
        for key, data in _read_each(location, keys).items():
            receipt = None if data is None else _parsed(data)
            if receipt is not None and receipt.lies_in(split, component, keys[key]):
                found[keys[key]] = receipt
    return found


def _parsed(data: bytes) -> Receipt | None:
    with contextlib.suppress(IntegrityError):
        return Receipt.from_json(data)
    return None


def _read_each(location: Location, keys: Iterable[str]) -> dict[str, bytes | None]:
    """Reads receipts; one that is no file, or too long, is none."""
    try:
        return location.read_all(keys, LARGEST_RECEIPT)
    except IntegrityError:
        found: dict[str, bytes | None] = {}
        for key in keys:
            with contextlib.suppress(IntegrityError):
                found |= location.read_all([key], LARGEST_RECEIPT)
        return found
