"""A finished component as it is opened: attributes, tables, arrays, each held to its digest."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import pyarrow as pa
import zarr

from latent_store.components import base as component
from latent_store.components.base import ComponentRecord
from latent_store.errors import IncompleteComponentError, MissingComponentError
from latent_store.shards import index
from latent_store.shards.checked_store import CheckedStore
from latent_store.shards.fetching import Fetcher
from latent_store.shards.listed_objects import ListedObjects
from latent_store.shards.shard_reader import ShardReader
from latent_store.storage import groups, seals
from latent_store.storage.consolidated import pictured_in
from latent_store.storage.location import Location


class OpenComponent:
    """A finished component: its sealed attributes, its tables, and arrays whose reads are checked.

    While a job adds to it, it is what was finished before, without shards that are written anew.

    Args:
        location: The store.
        split: `dataset/split`.
        key: The component's key.
        remedy: The way to make it, or to make it again.

    Raises:
        MissingComponentError: The component does not exist.
        IncompleteComponentError: Its job has not finished.
        IntegrityError: Its metadata was altered.
    """

    record_kind: ClassVar[type[ComponentRecord]] = ComponentRecord

    def __init__(self, location: Location, split: str, key: str, remedy: str = "run its job again"):
        self.location = location
        self.key = key
        self._split = split
        self._remedy = remedy
        self._arrays: dict[str, zarr.Array] = {}
        self._readers: dict[str, ShardReader] = {}
        self._pictured: dict[str, Any] = {}
        self._fetched: dict[str, bytes | None] = {}
        try:
            self.group = self._open_group()
        except MissingComponentError as error:
            raise MissingComponentError(f"{error}; {remedy}") from None
        self.record = component.read_record_of(self.record_kind, location, self.group)
        if not self.record.complete:
            raise IncompleteComponentError(
                f"{split}/{key} in {location.url} is incomplete; {remedy} (finished shards are "
                "kept), or `latent-store finalize` if its job ran detached"
            )
        component.require_intact(location, self.group)
        self.left_out = frozenset(component.noted_record(location, self.group).again)

    def _open_group(self) -> zarr.Group:
        if self.location.local_path is not None:
            return component.open_component(self.location, self._split, self.key)
        # From a distance all that opening takes is asked for at once, and held to the group then.
        path, name = f"{self._split}/{self.key}", index.part_name(self.key)
        key = groups.metadata_key(path)
        tables = [index.index_key(self._split, table) for table in (name, f"{name}.objects")]
        self._fetched = self.location.read_all([key, *tables], index.LARGEST_TABLE_BYTES)
        data = self._fetched.pop(key)
        if data is not None and len(data) > groups.LARGEST_METADATA:
            return component.open_component(self.location, self._split, self.key)
        record = None if data is None else groups.parse_metadata(self.location, path, data)
        self._pictured = {} if record is None else pictured_in(path, record)
        return component.opened_component(self.location, self._split, self.key, record)

    @cached_property
    def content(self) -> int:
        """`content_until` of all shards."""
        return self.content_until(self.record.num_shards or 0)

    def content_until(self, num_shards: int) -> int:
        """Returns a number that changes whenever one of the first shards is written anew.

        It is the crc32c of their part of the table of objects, which lists every checksum.
        """
        rows = self.objects.to_pylist()
        listed = (row | {"trailers": row["trailers"].hex()} for row in rows)
        return seals.json_crc32c([row for row in listed if row["shard"] < num_shards])

    @cached_property
    def index(self) -> pa.Table:
        """One row a sample: its status, why it failed, and its statistics."""
        return self._table(index.part_name(self.key))

    @cached_property
    def objects(self) -> pa.Table:
        """One row an object: its key, length and checksums."""
        return self._table(f"{index.part_name(self.key)}.objects")

    def array(self, name: str) -> zarr.Array:
        """Returns one array as zarr-python reads it, checked against the receipts.

        Raises:
            IntegrityError: Its metadata is missing or was altered.
        """
        if name not in self._arrays:
            self._arrays[name] = component.open_array(
                *(self.location, self.group, name, self._checked),
                grown=True,
                pictured=self._pictured.get(f"{self.group.path}/{name}"),
            )
        return self._arrays[name]

    @cached_property
    def _listed(self) -> ListedObjects:
        return ListedObjects(self.objects, groups.repair_hint(self.location), self.left_out)

    @cached_property
    def _checked(self) -> CheckedStore:
        return CheckedStore(self.location.zarr_store(), self._listed)

    @cached_property
    def _fetcher(self) -> Fetcher:
        return Fetcher(self.location, self._listed)

    def _reader(self, name: str) -> ShardReader:
        """Returns the quick reader of one array."""
        if name not in self._readers:
            self._readers[name] = ShardReader(self.array(name), self._fetcher)
        return self._readers[name]

    def _table(self, name: str) -> pa.Table:
        fetched = self._fetched.pop(index.index_key(self._split, name), None)
        return component.read_table(self.location, self.group, self._split, name, fetched)
