"""Requests to object stores: many under way at once, and what an answer proves beside its bytes.

A store's own digest of what it holds, which it gives with a listing and with the answer to a write,
spares reading an object back; the time of an answer tells an object's age without a probe. Which
stores give which is settled here, and nowhere else; of others the bytes are asked for.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import re
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from fsspec.asyn import AsyncFileSystem, sync

from latent_store.errors import LatentStoreError

AT_ONCE = 32
"""Requests of one call that are under way together."""
_MOST_DELETED = 1000
"""By one request of S3."""
_NO_SUCH_RANGE = 416
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
Answer = TypeVar("Answer")


class NoBucketError(FileNotFoundError):
    """There is no such bucket, or it shows itself to others alone."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What a listing tells of an object.

    Attributes:
        length: In bytes.
        md5: Of its bytes, as its store has computed it: 32 hexadecimal digits. Empty where it says
            nothing. Another digest than expected proves nothing: some stores give a number of their
            own instead, as S3 does of objects that it encrypts with keys of its users.
    """

    length: int
    md5: str = ""


def md5_of(data: bytes) -> str:
    """Returns the MD5 of bytes: stores compute no other digest unasked. It guards against faults,
    not against forgery."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def described(info: Mapping[str, Any]) -> Listed:
    """Returns what a file system says of an object, in the format's words."""
    # S3's etag of an object that was written in one request; Google's has a field of its own.
    found = _MD5.fullmatch(str(info.get("ETag", "")))
    md5 = found[1] if found else ""
    if isinstance(info.get("md5Hash"), str):
        try:
            md5 = base64.b64decode(info["md5Hash"], validate=True).hex()
        except (binascii.Error, ValueError):
            md5 = ""
    return Listed(length=int(info["size"]), md5=md5)


def read_ranges(fs: Any, parts: Sequence[tuple[str, int, int]]) -> list[bytes | None]:
    """Returns parts of objects, asked for at once; None of an object that is not there.

    Args:
        fs: The file system.
        parts: Of each the path, its first byte and the one behind its last.
    """
    if not parts:
        return []
    paths, starts, ends = map(list, zip(*parts, strict=True))
    found = fs.cat_ranges(paths, starts, ends, on_error="return")
    return [_part(fs, path, part) for path, part in zip(paths, found, strict=True)]


def _part(fs: Any, path: Any, found: Any) -> bytes | None:
    if isinstance(found, FileNotFoundError):
        return None
    refused = isinstance(found, OSError) or getattr(found, "code", None) == _NO_SUCH_RANGE
    if refused and not fs.size(path):
        return b""  # Some object stores refuse a range of an object that has no bytes.
    if isinstance(found, BaseException):
        raise found
    return bytes(found)


def list_all(fs: Any, path: str) -> dict[str, Listed]:
    """Lists every object below a path, none where there is none, by its path."""
    if _is_s3(fs):
        found = sync(fs.loop, fs._lsdir, path, delimiter="")
        return {info["name"]: described(info) for info in found if info["type"] == "file"}
    try:
        return {name: described(info) for name, info in fs.find(path, detail=True).items()}
    except FileNotFoundError:
        return {}


def list_folder(fs: Any, path: str) -> dict[str, bool]:
    """Lists what lies directly below a path by its name, none where there is none: is it a folder?

    Raises:
        NotADirectoryError: An object lies at the path.
        NoBucketError: There is not even the bucket.
    """
    try:
        # s3fs itself looks above, too, where it finds nothing.
        found = sync(fs.loop, fs._lsdir, path) if _is_s3(fs) else fs.ls(path, detail=True)
    except FileNotFoundError as error:
        if "bucket does not exist" in str(error) or (_is_gcs(fs) and not _has_bucket(fs, path)):
            raise NoBucketError(path) from error
        return {}
    kinds = {info["name"].rstrip("/"): info["type"] == "directory" for info in found}
    if not kinds.get(path, True):
        raise NotADirectoryError(path)
    return {name.rsplit("/", 1)[1]: kind for name, kind in kinds.items() if name != path}


def _has_bucket(fs: Any, path: str) -> bool:
    # Who may write need not be told of the bucket itself, but may list it.
    try:
        fs.ls(path.partition("/")[0], max_results=1)
    except FileNotFoundError:
        return False
    return True


def log_in(fs: Any) -> None:
    """Has Google's client get its token: asked for anything, it tries a refused one for a minute.

    Raises:
        Exception: One of its own, where the account is not taken.
    """
    if _is_gcs(fs):
        fs.credentials.maybe_refresh()


def tells_age(fs: Any) -> bool:
    """Tells whether `read_with_age` can."""
    return _is_s3(fs)


def _is_s3(fs: Any) -> bool:
    return hasattr(fs, "_call_s3") and hasattr(fs, "_lsdir")


def _is_gcs(fs: Any) -> bool:
    return hasattr(fs, "_list_objects") and hasattr(fs, "credentials")


def write_all(fs: Any, objects: Mapping[str, bytes]) -> list[str]:
    """Writes objects by their paths; returns those of which no answer proves that they arrived."""
    if not isinstance(fs, AsyncFileSystem):
        for path, data in objects.items():
            fs.pipe_file(path, data)
        return list(objects)

    async def write(path: str) -> str | None:
        answer = await fs._pipe_file(path, objects[path])
        told = answer if isinstance(answer, dict) else {}
        proven = described({"size": 0, **told}).md5 == md5_of(objects[path])
        return None if proven else path

    return [path for path in _at_once(fs, write, objects) if path is not None]


def delete_all(fs: Any, paths: Iterable[str]) -> None:
    """Removes objects; one that is not there is no error."""
    paths = list(paths)
    if not isinstance(fs, AsyncFileSystem):
        for path in paths:
            if fs.isfile(path):
                fs.rm_file(path)
        return
    if _is_s3(fs):
        for first in range(0, len(paths), _MOST_DELETED):
            sync(fs.loop, _delete_some_of_s3, fs, paths[first : first + _MOST_DELETED])
        return

    async def delete(path: str) -> None:
        try:
            await fs._rm_file(path)
        except FileNotFoundError:
            return

    _at_once(fs, delete, paths)


def read_with_age(fs: Any, path: str) -> tuple[bytes, float] | None:
    """Reads a small object, and its age in seconds by its store's clock, in one request.

    Returns:
        None where the file system does not say when its store answered.

    Raises:
        FileNotFoundError: There is no such object.
    """
    if not tells_age(fs):
        return None

    async def ask() -> tuple[bytes, float] | None:
        bucket, key, _ = fs.split_path(path)
        answer = await fs._call_s3("get_object", Bucket=bucket, Key=key)
        async with answer["Body"] as body:
            data = await body.read()
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        if date is None or "LastModified" not in answer:
            return None
        age = parsedate_to_datetime(date) - answer["LastModified"]
        return bytes(data), age.total_seconds()

    found: tuple[bytes, float] | None = sync(fs.loop, ask)
    return found


async def _delete_some_of_s3(fs: Any, paths: list[str]) -> None:
    places = [fs.split_path(path) for path in paths]
    asked = {"Objects": [{"Key": key} for _, key, _ in places], "Quiet": True}
    answer = await fs._call_s3("delete_objects", Bucket=places[0][0], Delete=asked)
    for refused in answer.get("Errors", [])[:1]:
        raise PermissionError(f"{refused.get('Key')} cannot be removed: {refused.get('Message')}")


def _at_once(
    fs: AsyncFileSystem, ask: Callable[[str], Coroutine[Any, Any, Answer]], paths: Iterable[str]
) -> list[Answer]:
    """Asks for each path, a few at a time; all have ended when an error of one is raised."""

    async def run() -> list[Any]:
        free = asyncio.Semaphore(AT_ONCE)

        async def one(path: str) -> Answer:
            async with free:
                return await ask(path)

        return await asyncio.gather(*map(one, paths), return_exceptions=True)

    found = sync(fs.loop, run)
    for answer in found:
        if isinstance(answer, BaseException):
            raise answer
    return list(found)


@contextlib.contextmanager
def writing(url: str) -> Iterator[None]:
    """Lets a block that writes to a store end in errors that say where and what to do.

    Raises:
        LatentStoreError: The kind of store is one to read from.
        PermissionError: The account may not.
    """
    try:
        yield
    except (NotImplementedError, ValueError) as error:  # of file systems that are read alone
        raise LatentStoreError(
            f"nothing can be written to {url}; give a path, or a URL such as s3://BUCKET/KEY"
        ) from error
    except OSError as error:
        # Clients say a word or two, and not of what.
        text = " ".join(str(error).split())
        if not isinstance(error, PermissionError) and not text.startswith("Forbidden"):
            raise
        raise PermissionError(
            f"{url} cannot be written: {text}; check its credentials and what they may do"
        ) from error
