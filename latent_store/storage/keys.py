"""Names of objects in a store: relative, and never leading out of it.

Attributes, receipts, plans and consolidated metadata hold names too, and whoever made a store wrote
them. Every key goes through `admitted` before anything is opened, written or removed.
"""

from __future__ import annotations

from latent_store.errors import IntegrityError

METADATA = "zarr.json"
"""The last part of the key of a Zarr node's metadata."""
LONGEST_KEY = 1024
"""In bytes of UTF-8; object stores allow no more."""


def is_key(key: object) -> bool:
    """Tells whether a value can be a key: parts between `/`, none of them empty, `.` or `..`."""
    if not isinstance(key, str) or "\0" in key:
        return False
    if len(key.encode(errors="surrogatepass")) > LONGEST_KEY:
        return False
    return not any(part in ("", ".", "..") for part in key.split("/"))


def admitted(key: str, url: str) -> str:
    """Returns a key of the store at `url`, if it is one.

    Raises:
        IntegrityError: It leads out of the store, or is no name at all.
    """
    if not is_key(key):
        raise IntegrityError(
            f"{url}: {key[:80]!r} is no name in a store: it has an empty part, . or .., or more "
            f"than {LONGEST_KEY} bytes; nothing was opened there, write what names it anew"
        )
    return key
