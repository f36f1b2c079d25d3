"""Every error a user can cause, in one family.

Each message is one line that names the rule, the values and the remedy. Each class is also the
builtin that a caller would expect, so `except FileNotFoundError` keeps working.

A message names an argument as a call does, between backticks, `codec=` or `keep=16`, and never a
command's flag: the commands spell it as theirs (`latent_store.console.spell_flags`).

No message shows a password or a signature, also where another library's words stand in it:
messages are printed, logged, and written into stores.
"""

import re
from typing import Self

_URL = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"`<>]*[^\s'\"`<>;:,.)\]]")
_USER = r"[^\s/?#@:'\"]+:(?!//|\d+(?:[/?#\s]|$))[^\s@'\"]*@(?!hflip\b)"
_USER_OF_URL = re.compile(rf"^(?:{_USER}|[^/?#@]*@)")
_BARE_USER = re.compile(rf"(?<![\w.-]){_USER}(?=\w)")
_BARE_QUERY = re.compile(
    r"\?[^\s'\"]*(?:sig|key|token|credential|secret)[^\s'\"=]*=[^\s'\"]*", re.I
)


def public_url(url: str) -> str:
    """Returns a URL without user, password, query and fragment; a local path stays as it is."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    return f"{scheme}://{re.split('[?#]', _USER_OF_URL.sub('', rest), maxsplit=1)[0]}"


def public_text(text: str) -> str:
    """Returns a text in which every URL is public, and what libraries make of one as well: they
    leave the scheme out.
    """
    text = _URL.sub(lambda found: public_url(found[0]), text)
    return _BARE_QUERY.sub("", _BARE_USER.sub("", text))


class LatentStoreError(ValueError):
    """Bad input or bad usage; a command that meets one exits with status 2."""

    def __new__(cls, *args: object) -> Self:
        """Makes one as its own layout wants it: Dask's unpickling calls this by name."""
        return (OSError if issubclass(cls, OSError) else ValueError).__new__(cls, *args)

    def __init__(self, message: str = "") -> None:
        super().__init__(public_text(message))


class StoreNotFoundError(LatentStoreError, FileNotFoundError):
    """There is no latent store, or no such split, at this address."""


class FormatVersionError(LatentStoreError):
    """The store was written by a newer major version of the format."""


class MissingComponentError(LatentStoreError, LookupError):
    """The store lacks a component (labels, features, latents, ranking) that is asked for."""


class MissingExtraError(LatentStoreError, ImportError):
    """A package that only an optional extra installs is not there; the extra is named."""


class IncompleteComponentError(LatentStoreError):
    """A component exists but the job that writes it has not finished."""


class IdentityError(LatentStoreError):
    """Latents of different codecs would be mixed; the differing field is named."""


class IntegrityError(LatentStoreError):
    """Stored or transmitted bytes are not those that were written."""


class PlanMismatchError(LatentStoreError):
    """The data root, or a flag, no longer agrees with the store's persisted shard plan."""


class CapacityError(LatentStoreError):
    """A value or a stream does not fit in the array that was planned for it."""


class RankingError(LatentStoreError):
    """A channel ranking is unknown, belongs to another codec, or is too short."""


class CheckpointError(LatentStoreError):
    """A checkpoint is truncated, of another architecture, or has another hash."""


class DatasetError(LatentStoreError):
    """A dataset's files are missing, unreadable or inconsistent."""


class LeaseHeldError(LatentStoreError, BlockingIOError):
    """Another job is writing this component."""


class JobFailedError(LatentStoreError):
    """The input was fine but the work failed; a command exits with status 1."""


class LeaseLostError(JobFailedError):
    """The right to write was taken over, or lapsed, while a job was suspended or its store away."""
