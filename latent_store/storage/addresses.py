"""Addresses: local paths and URLs, each with the file system that reaches it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from typing import Any

import fsspec

from latent_store.console import STORAGE_OPTIONS
from latent_store.errors import LatentStoreError, MissingExtraError, public_url
from latent_store.storage.requests import AT_ONCE

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""By scheme, the extra that brings what opens it."""
_WITHOUT_OPTIONS = ("file", "local", "memory", "http", "https")
"""Schemes of what is no object store."""
_OTHERS = "that is no extra of latent-store: install it, or give a path, s3:// or gs://"


def common_options(url: str) -> dict[str, Any]:
    """Returns the options that every object store is opened with.

    Raises:
        LatentStoreError: The variable that holds them holds something else.
    """
    text = os.environ.get(STORAGE_OPTIONS)
    if not text or url.partition("://")[0] in (url, *_WITHOUT_OPTIONS):
        return {}
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    raise LatentStoreError(f"the variable {STORAGE_OPTIONS} is no object in JSON; mend or unset it")


def with_defaults(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a client's options, with what is asked of it here where they say nothing of that."""
    # Other processes write here too: a listing, or what it says of an object, is never kept.
    found = {"use_listings_cache": False, **options}
    given = found.get("config_kwargs") or {}
    if url.partition("://")[0] in ("s3", "s3a") and isinstance(given, Mapping):
        # s3fs has ten, for which all the other requests that are under way wait.
        found["config_kwargs"] = {"max_pool_connections": AT_ONCE, **given}
    return found


def opened(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Returns the file system of an address, and the path in it.

    Raises:
        LatentStoreError: The address is empty, lacks a slash, or is of a kind that nobody knows, or
            that this machine cannot reach.
        MissingExtraError: The package that reaches its kind is not installed.
    """
    if not url.strip():
        raise LatentStoreError("an address is empty; give a path, or a URL such as s3://BUCKET/KEY")
    _require_slashes(url)
    if url.startswith(("gs://", "gcs://")):
        hush_google()
    try:
        return fsspec.url_to_fs(url, **options)  # type: ignore[no-any-return]
    except ImportError as error:
        extra = _EXTRAS.get(url.partition("://")[0])
        remedy = f": pip install 'latent-store[{extra}]'" if extra else f"; {_OTHERS}"
        raise MissingExtraError(f"{public_url(url)} cannot be opened: {error}{remedy}") from error
    except OSError as error:
        # Of a library of the system that a kind needs, the rest is where it was sought.
        reason = str(error).partition("\n")[0]
        # The system numbers what fails in it; a library that is not there has none.
        away = error.errno is not None or isinstance(error, (ConnectionError, TimeoutError))
        known = away or url.partition("://")[0] in _EXTRAS
        remedy = "mend the address, its credentials or its server" if known else _OTHERS
        raise LatentStoreError(f"{public_url(url)} cannot be opened: {reason}; {remedy}") from error
    except (ValueError, TypeError) as error:
        raise LatentStoreError(
            f"{public_url(url)} is no address that can be opened ({error}); give a path, or a URL "
            "such as s3://BUCKET/KEY"
        ) from error


def hush_google() -> None:
    """Lets Google's libraries log nothing, unless they were told to: what they log, with pages of
    frames, they raise as well."""
    for logger in map(logging.getLogger, ("gcsfs", "google.auth")):
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)


def _require_slashes(url: str) -> None:
    """Refuses URLs that would be folders in the one that a command was started in."""
    scheme, colon, rest = url.partition(":")
    local = scheme in ("file", "local")
    # An absolute path may follow `file:` at once; chains have `::`, and `data:` what it holds.
    if local:
        lacking = rest.startswith("//") and rest[2:3] != "/"
    else:
        lacking = not rest.startswith(("//", ":")) and scheme != "data"
    if lacking and colon and scheme in fsspec.available_protocols():
        begin = f"{scheme}:///" if local else f"{scheme}://"
        raise LatentStoreError(
            f"{public_url(url)} lacks a slash: such an address begins with {begin}"
        )
