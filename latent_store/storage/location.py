"""The one place that opens URLs: local paths, `file://`, `s3://`, `gs://`, `memory://`.

A store is a Zarr hierarchy plus a few objects that are not Zarr (plans, receipts, leases,
Parquet). A `Location` reaches both through the same address.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import zarr
from fsspec.implementations.local import LocalFileSystem
from zarr.abc.store import Store

from latent_store.errors import IntegrityError, public_url
from latent_store.storage import requests
from latent_store.storage.addresses import common_options, opened, with_defaults
from latent_store.storage.changes import flush, tell
from latent_store.storage.keys import admitted
from latent_store.storage.local_files import (
    remove,
    remove_all_leftovers,
    remove_leftovers,
    remove_tree,
    sizes_below,
    write_atomically,
)
from latent_store.storage.requests import Listed

CONTROL = ".latent_store"
"""Everything in a store that is not Zarr lies below this prefix."""

Range = tuple[str, int, int]
"""A key, and the first byte of a part and the one behind its last."""
LARGEST_OBJECT = 2**33
"""In bytes: what is read whole, and nobody knows the length of, is not longer."""


class Location:
    """An address, and the few operations that the format needs there.

    Keys are relative, with `/` between parts, and stay in the store
    (`latent_store.storage.keys`). Writes replace an object whole: a reader sees the
    old bytes or the new ones, never a part.

    Raises:
        LatentStoreError: The address is empty, or of a kind that nobody knows.
        MissingExtraError: The package that reaches its kind is not installed.
    """

    def __init__(
        self, url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
    ):
        self.storage_options = {**common_options(os.fspath(url)), **(storage_options or {})}
        self._options = with_defaults(os.fspath(url), self.storage_options)
        self.fs, self.root = opened(os.fspath(url), self._options)
        self.root = self.root.rstrip("/")
        self.address = os.fspath(url).rstrip("/")

    def __repr__(self) -> str:
        return f"Location({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # A relative path means another folder to a process that began elsewhere.
        address = self.address if self.local_path is None else self.root
        return Location, (address, self.storage_options)

    @property
    def url(self) -> str:
        """The address as messages and files may have it: without passwords and signatures."""
        return public_url(self.address)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Location) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[str, str]:
        return self.address, repr(sorted(self.storage_options.items()))

    @property
    def local_path(self) -> Path | None:
        """The folder on this machine, or None for an object store."""
        return Path(self.root) if isinstance(self.fs, LocalFileSystem) else None

    def zarr_store(self) -> Store:
        """Returns the Zarr store at this address, to read from."""
        if self.local_path is not None:
            return zarr.storage.LocalStore(self.local_path, read_only=True)
        return zarr.storage.FsspecStore.from_url(
            fsspec.utils.stringify_path(self.address),
            storage_options=self._options,
            read_only=True,
        )

    def path(self, key: str) -> str:
        """Returns the file system's path of an object."""
        return f"{self.root}/{key}"

    def exists(self, key: str) -> bool:
        """Tells whether an object is there."""
        if self.local_path is not None:
            return bool(self.fs.exists(self._object(key)))
        # Who asks for its existence is told of folders too, for a second request.
        return self.read_ranges([(key, 0, 1)]) != [None]

    def read(self, key: str, most: int = LARGEST_OBJECT) -> bytes:
        """Returns an object's bytes.

        Args:
            key: The object.
            most: Bytes that it may have; of a longer object nothing, or little more, is read.

        Raises:
            FileNotFoundError: There is no such object.
            IntegrityError: It is no regular file, or longer than `most`.
        """
        path, length = self._object(key), self.local_length(key)
        if length is None:
            (found,) = requests.read_ranges(self.fs, [(path, 0, most + 1)])
            if found is None:
                raise FileNotFoundError(path)
            data = found
        else:
            data = bytes(self.fs.cat_file(path)) if length <= most else b""
        if max(length or 0, len(data)) > most:
            much = "more bytes than" if length is None else f"{length} bytes, more than"
            raise IntegrityError(
                f"{self.url}: {key} has {much} the {most} that it can have; restore it, or have "
                "its job write it anew"
            )
        return data

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes | None]:
        """Returns parts of objects, asked for at once; None of an object that is not there.

        What an object has no bytes of is missing at the end of its part.

        Raises:
            IntegrityError: One is no regular file.
        """
        if self.local_path is not None:
            return [self._read_part(*part) for part in ranges]
        return requests.read_ranges(self.fs, [(self._object(k), a, b) for k, a, b in ranges])

    def read_all(self, keys: Iterable[str], most: int = LARGEST_OBJECT) -> dict[str, bytes | None]:
        """Returns whole objects, asked for at once; None of one that is not there.

        Raises:
            IntegrityError: One is no regular file, or longer than `most`.
        """
        keys = list(keys)
        if self.local_path is not None:
            return {key: self._read_if_there(key, most) for key in keys}
        found = self.read_ranges([(key, 0, most + 1) for key in keys])
        for key, data in zip(keys, found, strict=True):
            if data is not None and len(data) > most:
                self.read(key, most)
        return dict(zip(keys, found, strict=True))

    def _read_if_there(self, key: str, most: int) -> bytes | None:
        try:
            return Location.read(self, key, most)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _read_part(self, key: str, start: int, end: int) -> bytes | None:
        try:
            self.local_length(key)
            # A buffered file reads until it has all; the system may give less at once.
            with Path(self._object(key)).open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def local_length(self, key: str) -> int | None:
        """Returns the length of a file on this machine in bytes; None in an object store.

        Raises:
            FileNotFoundError: There is no such file.
            IntegrityError: It is a folder, a pipe, a device or the like: no regular file.
        """
        path = self._object(key)
        if self.local_path is None:
            return None
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode):
            raise IntegrityError(f"{self.url}: {key} is no regular file; remove it")
        return found.st_size

    def holds(self, key: str) -> bool:
        """Tells whether a name, links followed, stays in the store; object stores have none."""
        if self.local_path is None:
            return True
        root, target = (os.path.realpath(path) for path in (self.root, self._object(key)))
        return os.path.commonpath([root, target]) == root

    def write(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Replaces an object whole; a `durable` local one is on the disk when this returns."""
        path = self._object(key)
        if self.local_path is None:
            tell("write", path)
            with requests.writing(self.url):
                self.fs.pipe_file(path, data)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), data, durable=durable)

    def write_all(self, objects: Mapping[str, bytes]) -> None:
        """Replaces objects whole, and requires that they arrived.

        In an object store several at once, in no order; on this machine one after another, and not
        yet on its disk (see `sync`).

        Raises:
            IntegrityError: One is another now than was written.
        """
        if self.local_path is not None:
            for key, data in objects.items():
                self.write(key, data, durable=False)
            unproven = list(objects)
        else:
            paths = {self._object(key): key for key in objects}
            for path in paths:
                tell("write", path)
            with requests.writing(self.url):
                left = requests.write_all(self.fs, {p: objects[k] for p, k in paths.items()})
            unproven = [paths[path] for path in left]
        for key, found in self.read_all(unproven).items():
            if found != objects[key]:
                raise IntegrityError(
                    f"{self.url}: {key} is another object than was written; check the disk or the "
                    "network, and whether another program writes there, then run the job again"
                )

    def sync(self, keys: Iterable[str]) -> None:
        """Brings objects, and all else that was written, to a local disk, before what vouches for
        them is written; object stores answer when they have it.
        """
        if self.local_path is None:
            return
        # Folders of a store may be links to other file systems.
        folders = [self.local_path, *(Path(self._object(key)).parent for key in keys)]
        disks = {folder.stat().st_dev: folder for folder in folders if folder.is_dir()}
        for folder in disks.values():
            flush(folder)

    def create(self, key: str, data: bytes) -> bool:
        """Writes an object whole unless it is there; tells whether it was written."""
        path = self._object(key)
        try:
            if self.local_path is None:
                tell("write", path)
                with requests.writing(self.url):
                    self.fs.pipe_file(path, data, mode="create")
            else:
                if os.path.lexists(path):
                    remove_leftovers(Path(path))
                    return False
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(Path(path), data, replace=False)
        except FileExistsError:
            return False
        return True

    def delete(self, key: str) -> None:
        """Removes an object; one that is not there is no error.

        Raises:
            IntegrityError: It lies behind a link that leads out of the store.
        """
        self._require_held(key)
        path = self._object(key)
        if self.local_path is not None:
            remove_leftovers(Path(path))
            with contextlib.suppress(NotADirectoryError):
                remove(Path(path))
            return
        tell("delete", path)
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(path)

    def delete_all(self, keys: Iterable[str]) -> None:
        """Removes objects, as `delete` does, in few requests and in no order."""
        if self.local_path is not None:
            for key in keys:
                self.delete(key)
            return
        paths = [self._object(key) for key in keys]
        for path in paths:
            tell("delete", path)
        if paths:
            requests.delete_all(self.fs, paths)

    def delete_leftovers(self, prefix: str) -> None:
        """Removes what killed processes left of their writing below the prefix of a leased part."""
        if self.local_path is not None:
            remove_all_leftovers(Path(self._object(prefix)))

    def delete_tree(self, prefix: str) -> None:
        """Removes every object below `prefix`, empty for all; none there is no error.

        What lies deepest goes first, so that what a killed process leaves of a group has its
        metadata, and is found.

        Raises:
            IntegrityError: They lie behind a link that leads out of the store.
        """
        if prefix:
            self._require_held(prefix)
        top = self._object(prefix) if prefix else self.root
        if self.local_path is None:
            self.delete_all(self.sizes(prefix))
        elif Path(top).is_symlink():
            tell("delete", top)
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm(top, recursive=True)
        else:
            remove_tree(Path(top))

    def sizes(self, prefix: str) -> dict[str, int]:
        """Lists every object below `prefix`, in one listing, with its length in bytes.

        Whatever lies there is among them: what systems and programs leave (`.DS_Store`, `.nfs...`),
        and what a killed process had not finished.
        """
        if self.local_path is None:
            return {key: listed.length for key, listed in self.listed(prefix).items()}
        start = len(self.root) + 1
        return {name[start:]: size for name, size in sizes_below(self.path(prefix)).items()}

    def listed(self, prefix: str) -> dict[str, Listed]:
        """Lists what an object store has below `prefix`, with what it knows of each object."""
        found = requests.list_all(self.fs, self._folder(prefix))
        start = len(self.root) + 1
        return {name[start:]: listed for name, listed in found.items()}

    def folders(self, prefix: str) -> list[str]:
        """Lists the names directly below `prefix` that have something below them, ascending.

        Those that begin with a dot are left out, but for the store's own.
        """
        try:
            found = requests.list_folder(self.fs, self._folder(prefix))
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = (name for name, is_folder in found.items() if is_folder)
        return sorted(name for name in names if not name.startswith(".") or name == CONTROL)

    def knows_group(self, key: str) -> bool:
        """Tells whether a group's metadata need not be asked for: here always False."""
        return False

    def note_group(self, key: str) -> None:
        """Notes that a group is there, where that is remembered: not here."""

    def owning(self, *_: str) -> contextlib.AbstractContextManager[None]:
        """Lets a block own the metadata below some paths, where it is remembered: not here."""
        return contextlib.nullcontext()

    def _object(self, key: str) -> str:
        """Returns the file system's path of an object whose key may come out of a file."""
        return self.path(admitted(key, self.url))

    def _folder(self, prefix: str) -> str:
        return self.path(prefix) if prefix else self.root or "/"

    def _require_held(self, key: str) -> None:
        folder = key.rpartition("/")[0]
        if folder and not self.holds(folder):  # A link is removed, not what it leads to.
            raise IntegrityError(
                f"{self.url}: {key} lies behind a link that leads out of the store; nothing is "
                "removed there: put the folder itself in the link's place"
            )
