"""Object stores as a user meets them: whether one answers, and files taken from one."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any, TypeVar

from fsspec import get_filesystem_class

from latent_store.console import STORAGE_OPTIONS, spell_flags
from latent_store.errors import LatentStoreError, public_url
from latent_store.storage.keys import METADATA
from latent_store.storage.location import CONTROL, Location
from latent_store.storage.requests import NoBucketError, list_folder, log_in

ANSWER_SECONDS = 6.0
"""How long a store may take to answer the first request."""
_NO_ACCOUNT = re.compile("redential|, 401$")
"""In what clients say of who has no account, or one that is not taken."""
Found = TypeVar("Found")


def open_location(
    url: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
    *,
    free: bool = False,
) -> Location:
    """Returns a location whose store answers; nothing need lie there yet.

    Args:
        url: The address.
        storage_options: Passed to fsspec.
        free: Refuse a place where something else than a store lies.

    Raises:
        LatentStoreError: An address, a bucket, an endpoint or credentials are wrong; says which.
        MissingExtraError: The package that reaches it is not installed; names the extra.
    """
    if "://" not in os.fspath(url):
        location = Location(url, storage_options)
        if free:
            _require_free(location)
        return location
    # A client takes seconds to load on a busy machine, in which the store was not asked yet.
    with contextlib.suppress(Exception):  # what is wrong with an address is told below
        get_filesystem_class(os.fspath(url).partition("://")[0])
    name = public_url(os.fspath(url))

    def ask() -> Location:
        location = Location(url, storage_options)
        if free or location.local_path is None:
            log_in(location.fs)
            _ask(location, _require_free if free else _look)
        return location

    try:
        return in_time(ask, ANSWER_SECONDS)
    except TimeoutError:
        raise LatentStoreError(
            f"{name} does not answer within {ANSWER_SECONDS:.0f} seconds; check the network, "
            f"its credentials, and the endpoint (in `storage_options=` or {STORAGE_OPTIONS})"
        ) from None
    except LatentStoreError:
        raise
    except Exception as error:
        # Clients raise what they like.
        raise LatentStoreError(f"{name} cannot be opened: {_reason(error)}") from error


def in_time(call: Callable[[], Found], seconds: float) -> Found:
    """Returns what a call gives, of a library that looks for credentials, or tries again, for
    minutes: nobody waits for that.

    Raises:
        TimeoutError: It took longer, and goes on, on a thread that ends with this process.
        BaseException: What it raises.
    """
    return begun(call, "in time").result(seconds)


def begun(call: Callable[[], Found], name: str) -> futures.Future[Found]:
    """Begins a call on a thread of that name, which ends with this process, whatever it does."""
    ended: futures.Future[Found] = futures.Future()

    def run() -> None:
        try:
            ended.set_result(call())
        except BaseException as error:  # noqa: BLE001  (raised again by who waits)
            ended.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return ended


def _look(location: Location) -> None:
    with contextlib.suppress(NotADirectoryError):  # What reads it says so.
        list_folder(location.fs, location.root)


def _require_free(location: Location) -> None:
    """Refuses an address at which something else than a store lies.

    Raises:
        LatentStoreError: It is a file, or a folder of other things; in an object store, objects
            beside it are let be.
    """
    try:
        names = list_folder(location.fs, location.root)
    except NotADirectoryError:
        raise LatentStoreError(
            f"{location.url} is no folder; give `store=` a new or empty one"
        ) from None
    if names.keys() & {METADATA, CONTROL}:
        return
    # What begins with a dot was left by systems, or by a killed job; a new disk begins with a
    # folder of its own, and tools of object stores mark folders with objects.
    local = location.local_path is not None
    strangers = (
        (not is_folder, name)
        for name, is_folder in names.items()
        if (is_folder or local) and not name.startswith(".") and name != "lost+found"
    )
    for is_file, name in sorted(strangers)[:1]:
        raise LatentStoreError(
            f"{location.url} is no latent store but has a {'file' if is_file else 'folder'} {name};"
            " give `store=` a new or empty folder"
        )


def _ask(location: Location, look: Callable[[Location], None]) -> None:
    """Asks an object store once, by listing what lies there."""
    try:
        look(location)
    except NoBucketError as error:
        raise LatentStoreError(
            f"{location.url} lies in no bucket that is there; make it, or give another address"
        ) from error
    except OSError as error:
        raise LatentStoreError(f"{location.url} cannot be opened: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, PermissionError) or text.startswith("Forbidden"):
        return f"{text}; check its credentials and what they may do"
    if _NO_ACCOUNT.search(f"{type(error).__name__} {text}"):
        return (
            f"{text}; log in as your store's own tool wants it, or give a profile, or "
            f'{{"anon": true}} for a public one, with `storage_options=`'
        )
    if type(error).__name__ == "ProfileNotFound":
        return f"{text}; check AWS_PROFILE, or the profile in `storage_options=`"
    if isinstance(error, (AttributeError, TypeError, ValueError)):
        return f"{text}; check the address, and its options (in `storage_options=`)"
    return f"{text}; check the network, and the endpoint (in `storage_options=`)"


def input_file(text: str) -> Path:
    """Returns where a file lies that a flag names, for `add_argument(type=...)`.

    Of a URL that is a copy of it, which lasts as long as the process.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    if "://" not in text:
        return Path(text)
    folder, _, name = text.rpartition("/")
    if not name or folder.endswith(":/"):
        raise argparse.ArgumentTypeError(
            f"must be a file, got {public_url(text)}, which names none"
        )
    try:
        data = open_location(folder).read(name)
    except FileNotFoundError:
        raise argparse.ArgumentTypeError(
            f"must be a file, got {public_url(text)}, where none lies"
        ) from None
    except LatentStoreError as error:
        raise argparse.ArgumentTypeError(spell_flags(str(error))) from error
    copy = Path(tempfile.mkdtemp(prefix="latent-store-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    # Networks are named by their folders.
    path = copy / folder.rpartition("/")[2] / name
    path.parent.mkdir()
    path.write_bytes(data)
    return path
