"""`latent_store.storage.requests` as it would be with obstore, for the comparison of clients.

All that a store on S3 asks of a client, without fsspec; an object's age, which obstore does not
tell with its bytes, is asked for as of other stores. MEASUREMENTS.md says why it stays here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

import fsspec
import obstore
import zarr
from fsspec import AbstractFileSystem
from fsspec.asyn import get_loop, sync
from obstore.exceptions import AlreadyExistsError
from obstore.store import S3Store

from latent_store.storage import location, object_stores, requests
from latent_store.storage.location import Location
from latent_store.storage.requests import AT_ONCE, Listed, described, md5_of


class Bucket:
    """What stands in the place of a file system: a path is `BUCKET/KEY`."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self.store = S3Store(name, **options)

    def pipe_file(self, path: str, data: bytes, mode: Any = "overwrite") -> None:
        try:
            obstore.put(self.store, key_of(path), data, mode=mode)
        except AlreadyExistsError as error:
            raise FileExistsError(path) from error

    def rm_file(self, path: str) -> None:
        obstore.delete(self.store, key_of(path))

    def modified(self, path: str) -> Any:
        return obstore.head(self.store, key_of(path))["last_modified"]


def key_of(path: str) -> str:
    """Returns the key of a path."""
    return path.partition("/")[2]


def at_once(ask: Callable[..., Coroutine[Any, Any, Any]], calls: Iterable[tuple[Any, ...]]) -> Any:
    """Asks for each, a few at a time; returns the answers."""

    async def run() -> list[Any]:
        free = asyncio.Semaphore(AT_ONCE)

        async def one(call: tuple[Any, ...]) -> Any:
            async with free:
                return await ask(*call)

        return await asyncio.gather(*map(one, calls))

    return sync(get_loop(), run)


def read_ranges(fs: Bucket, parts: Sequence[tuple[str, int, int]]) -> list[bytes | None]:
    async def read(path: str, start: int, end: int) -> bytes | None:
        key = key_of(path)
        try:
            return (await fs.store.get_range_async(key, start=start, end=end)).to_bytes()
        except FileNotFoundError:
            return None
        except obstore.exceptions.BaseError:
            if (await fs.store.head_async(key))["size"]:
                raise
            return b""  # A range of an object that has no bytes is refused.

    found: list[bytes | None] = at_once(read, parts)
    return found


def list_all(fs: Bucket, path: str) -> dict[str, Listed]:
    found = obstore.list(fs.store, key_of(path)).collect()
    bucket = path.partition("/")[0]
    return {f"{bucket}/{info['path']}": _described(info) for info in found}


def _described(info: Any) -> Listed:
    return described({"ETag": info["e_tag"], "size": info.get("size", 0)})


def list_folder(fs: Bucket, path: str) -> dict[str, bool]:
    found = obstore.list_with_delimiter(fs.store, key_of(path))
    names = {info["path"]: False for info in found["objects"]}
    names |= dict.fromkeys(found["common_prefixes"], True)
    return {name.rsplit("/", 1)[-1]: is_folder for name, is_folder in names.items()}


def write_all(fs: Bucket, objects: Mapping[str, bytes]) -> list[str]:
    async def write(path: str, data: bytes) -> str | None:
        answer = await fs.store.put_async(key_of(path), data)
        return None if _described(answer).md5 == md5_of(data) else path

    return [path for path in at_once(write, objects.items()) if path is not None]


def delete_all(fs: Bucket, paths: Iterable[str]) -> None:
    obstore.delete(fs.store, [key_of(path) for path in paths])


def _opened(url: str, options: Mapping[str, Any]) -> tuple[Bucket, str]:
    path = url.removeprefix("s3://")
    known = {name: value for name, value in options.items() if name != "use_listings_cache"}
    return Bucket(path.partition("/")[0], known), path


def _zarr_store(self: Location) -> Any:
    name, _, prefix = self.root.partition("/")
    store = S3Store(name, prefix=prefix, **self.storage_options)
    return zarr.storage.ObjectStore(store, read_only=True)


def install() -> None:
    """Lets obstore reach all that this process opens from now on."""
    for name in ("read_ranges", "list_all", "list_folder", "write_all", "delete_all"):
        setattr(requests, name, globals()[name])
    object_stores.list_folder = list_folder
    location.opened = _opened
    Location.zarr_store = _zarr_store  # type: ignore[method-assign]
    # Or opening an address would load the library that fsspec knows for it.
    fsspec.register_implementation("s3", AbstractFileSystem, clobber=True)
