"""The age of an object by its store's own clock, never by this machine's."""

from __future__ import annotations

from uuid import uuid4

from latent_store.errors import JobFailedError
from latent_store.storage import requests
from latent_store.storage.location import Location

_PROBE = ".probe-"
_PROBES = 5
"""That are written, one after another, until it is said that they vanish."""


def read_with_age(location: Location, key: str, most: int) -> tuple[bytes, float]:
    """Returns an object's bytes and its age in seconds, in one request where its store tells both.

    Args:
        location: The store.
        key: The object.
        most: Bytes that it may have.

    Raises:
        FileNotFoundError: There is no such object.
        IntegrityError: It is longer than `most`.
    """
    found = requests.read_with_age(location.fs, location.path(key))
    if found is None or len(found[0]) > most:
        return location.read(key, most), age_seconds(location, key)
    return found


def age_seconds(location: Location, key: str) -> float:
    """Returns an object's age in seconds.

    The clock is read by writing a probe beside the object and comparing the two times.

    Raises:
        FileNotFoundError: There is no such object.
        JobFailedError: Every probe vanishes.
    """
    for _ in range(_PROBES):
        written = location.fs.modified(location.path(key))
        probe = f"{key}{_PROBE}{uuid4().hex[:8]}"
        location.write(probe, b"")
        try:
            now = location.fs.modified(location.path(probe))
        except FileNotFoundError:
            continue  # Taken by another process for what a killed one left.
        finally:
            location.delete(probe)
        return float((now - written).total_seconds())
    raise JobFailedError(
        f"{location.url}: the age of {key} cannot be told, as {_PROBES} files that were written "
        "beside it vanished at once; end what removes files there and run the command again"
    )


def asks_with_probes(location: Location) -> bool:
    """Tells whether a lease's age is asked for with a probe, which who is killed leaves behind."""
    return location.local_path is not None or not requests.tells_age(location.fs)


def delete_probes(location: Location, key: str) -> None:
    """Removes what processes left that were killed while they asked for an object's age."""
    folder, _, name = key.rpartition("/")
    for found in location.sizes(folder):
        if found.rpartition("/")[2].lstrip(".").startswith(f"{name}{_PROBE}"):
            location.delete(found)
