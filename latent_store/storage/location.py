"""The one place that opens URLs: local paths, `file://`, `s3://`, `gs://`, `memory://`.

A store is a Zarr hierarchy plus a few objects that are not Zarr (plans, receipts, leases,
Parquet). A `Location` reaches both through the same address.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import zarr
from fsspec.implementations.local import LocalFileSystem
from zarr.abc.store import Store

from latent_store.errors import IntegrityError, StoreNotFoundError
from latent_store.storage.keys import admitted

CONTROL = ".latent_store"
"""Everything in a store that is not Zarr lies below this prefix."""

LARGEST_OBJECT = 2**33
"""In bytes: what is read whole, and nobody knows the length of, is not longer."""


class Location:
    """An address, and the few operations that the format needs there.

    Keys are relative, with `/` between parts, and stay in the store
    (`latent_store.storage.keys`). Writes replace an object whole: a reader sees the
    old bytes or the new ones, never a part.
    """

    def __init__(
        self, url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
    ):
        self.storage_options = dict(storage_options or {})
        self.fs, self.root = fsspec.url_to_fs(os.fspath(url), **self.storage_options)
        self.root = self.root.rstrip("/")
        self.address = os.fspath(url).rstrip("/")

    def __repr__(self) -> str:
        return f"Location({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Location, (self.address, self.storage_options)

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

    def zarr_store(self, *, read_only: bool) -> Store:
        """Returns the Zarr store at this address."""
        if self.local_path is not None:
            return zarr.storage.LocalStore(self.local_path, read_only=read_only)
        return zarr.storage.FsspecStore.from_url(
            fsspec.utils.stringify_path(self.address),
            storage_options=self.storage_options or None,
            read_only=read_only,
        )

    def path(self, key: str) -> str:
        """Returns the file system's path of an object."""
        return f"{self.root}/{key}"

    def exists(self, key: str) -> bool:
        """Tells whether an object is there."""
        return bool(self.fs.exists(self._object(key)))

    def read(self, key: str, most: int = LARGEST_OBJECT) -> bytes:
        """Returns an object's bytes.

        Args:
            key: The object.
            most: Bytes that it may have; a longer file on this machine is not read at all.

        Raises:
            FileNotFoundError: There is no such object.
            IntegrityError: It is no regular file, or longer than `most`.
        """
        length = self.local_length(key)
        if length is not None and length > most:
            raise IntegrityError(
                f"{self.url}: {key} has {length} bytes, more than the {most} that it can have; "
                "restore it, or have its job write it anew"
            )
        return bytes(self.fs.cat_file(self._object(key)))

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

    def write(self, key: str, data: bytes) -> None:
        """Replaces an object whole."""
        if self.local_path is None:
            self.fs.pipe_file(self._object(key), data)
            return
        target = Path(self._object(key))
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, data)

    def create(self, key: str, data: bytes) -> bool:
        """Writes an object unless it is there; tells whether it was written."""
        try:
            if self.local_path is None:
                self.fs.pipe_file(self._object(key), data, mode="create")
            else:
                target = Path(self._object(key))
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    file.write(data)
        except FileExistsError:
            return False
        return True

    def delete(self, key: str) -> None:
        """Removes an object; one that is not there is no error.

        Raises:
            IntegrityError: It lies behind a link that leads out of the store.
        """
        self._require_held(key)
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self._object(key))

    def delete_tree(self, prefix: str) -> None:
        """Removes every object below `prefix`, empty for all; none there is no error.

        Raises:
            IntegrityError: They lie behind a link that leads out of the store.
        """
        if prefix:
            self._require_held(prefix)
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm(self._object(prefix) if prefix else self.root, recursive=True)

    def sizes(self, prefix: str) -> dict[str, int]:
        """Lists every object below `prefix`, in one listing, with its length in bytes."""
        start = len(self.root) + 1
        try:
            found = self.fs.find(self.path(prefix), detail=True)
        except FileNotFoundError:
            return {}
        return {name[start:]: int(info["size"]) for name, info in found.items()}

    def folders(self, prefix: str) -> list[str]:
        """Lists the names directly below `prefix` that have something below them, ascending."""
        try:
            found = self.fs.ls(self.path(prefix), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = (info["name"].rstrip("/") for info in found if info["type"] == "directory")
        return sorted(name.rsplit("/", 1)[1] for name in names)

    def age_seconds(self, key: str) -> float:
        """Returns an object's age by the store's own clock, never by this machine's.

        The clock is read by writing a probe beside the object and comparing the two times.

        Raises:
            FileNotFoundError: There is no such object.
        """
        written = self.fs.modified(self.path(key))
        probe = f"{key}.probe-{uuid4().hex[:8]}"
        self.write(probe, b"")
        try:
            now = self.fs.modified(self.path(probe))
        finally:
            self.delete(probe)
        return float((now - written).total_seconds())

    def _object(self, key: str) -> str:
        """Returns the file system's path of an object whose key may come out of a file."""
        return self.path(admitted(key, self.url))

    def _require_held(self, key: str) -> None:
        folder = key.rpartition("/")[0]
        if folder and not self.holds(folder):  # A link is removed, not what it leads to.
            raise IntegrityError(
                f"{self.url}: {key} lies behind a link that leads out of the store; nothing is "
                "removed there: put the folder itself in the link's place"
            )

    def require(self) -> None:
        """Refuses an address at which nothing lies.

        Raises:
            StoreNotFoundError: With the remedy.
        """
        if not self.exists("zarr.json"):
            raise StoreNotFoundError(
                f"no latent store at {self.url}: make one with encode-to-store `store={self.url}`"
            )


def public_url(url: str) -> str:
    """Returns a URL without user, password, query and fragment; a local path stays as it is."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def write_atomically(target: Path, data: bytes) -> None:
    """Writes a local file whole: to a neighbour first, flushed to disk, then renamed over it."""
    # Without the target's suffix: what a killed process leaves is taken for nothing of its kind.
    neighbour = target.with_name(f".{target.name}.{uuid4().hex[:8]}")
    try:
        with neighbour.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        neighbour.replace(target)
    finally:
        neighbour.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Writes a local text file whole, and makes its folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, text.encode())


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yields a neighbour's path to write to; it takes `target`'s place if nothing is raised."""
    neighbour = target.with_name(f".{target.name}.{uuid4().hex[:8]}{target.suffix}")
    try:
        yield neighbour
        neighbour.replace(target)
    finally:
        neighbour.unlink(missing_ok=True)
