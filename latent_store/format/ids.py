"""Names: what the id of a sample or the name of a group may be, and how views' rows are called.

An id stands in tables, in messages and on command lines, and people make file names of it.
"""

from __future__ import annotations

import unicodedata

from latent_store.errors import DatasetError, LatentStoreError

ORIGINAL_VIEW = "original"
VIEWS = ("hflip",)
"""Views that can be stored beside the originals. `hflip`: the picture mirrored left to right."""

_RULE = "one line of text without / and \\, not blank, and not . or .."
_RESERVED = ("codecs", "zarr.json")
"""Names in a store that no dataset, split or ranking may bear."""
_MOST_BYTES = 255
"""Of a name in a file system."""

_BREAKING = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode categories of what is no line of text: controls, lone surrogates, line separators."""


def normal_id(sample_id: str) -> str:
    """Returns an id as it is stored and compared: in Unicode form NFC.

    File systems disagree about the form; "é" as one character and as two is one id here.
    """
    return unicodedata.normalize("NFC", sample_id)


def is_one_line(text: str) -> bool:
    """Tells whether a text is one line of text, in tables, in messages and in UTF-8."""
    if text.isascii():  # Most ids are; this takes a twentieth of the time.
        return text.isprintable()
    return not any(unicodedata.category(character) in _BREAKING for character in text)


def safe_id(sample_id: str, view: str = ORIGINAL_VIEW) -> str:
    """Returns an id in its normal form, if it is one.

    Args:
        sample_id: As the dataset's reader gives it, or as `view_id` makes it.
        view: What the sample shows; only a view's id may end like one.

    Raises:
        DatasetError: Names the rule.
    """
    name = normal_id(sample_id)
    if not _is_name(name):
        raise DatasetError(
            f"{sample_id!r} cannot be a sample id: an id is {_RULE}; rename that file"
        )
    taken = next((known for known in VIEWS if name.endswith(view_suffix(known))), ORIGINAL_VIEW)
    if taken != view:
        raise DatasetError(
            f"{sample_id!r} cannot be the sample id of an original picture: ids that end in "
            f"{view_suffix(taken)} are those of stored views; rename that file"
        )
    return name


def require_name(name: str, what: str) -> None:
    """Refuses a name that a group of a store cannot have.

    Args:
        name: As a flag gives it.
        what: Is named, e.g. "a dataset's id".

    Raises:
        LatentStoreError: Names the rule, which is that of sample ids and that nothing of the
            store's own is called so.
    """
    if not _is_name(name) or len(name.encode()) > _MOST_BYTES:
        raise LatentStoreError(
            f"{name!r} cannot be {what}: a name is {_RULE}, of up to {_MOST_BYTES} bytes; give "
            "another"
        )
    if name.startswith(".") or name in _RESERVED:
        raise LatentStoreError(
            f"{name!r} cannot be {what}: a store's own files are called {', '.join(_RESERVED)}, or "
            "begin with a dot; give another"
        )


def view_id(source_id: str, view: str) -> str:
    """Returns the id of a view of a sample, e.g. `ID@hflip`."""
    return source_id if view == ORIGINAL_VIEW else f"{source_id}{view_suffix(view)}"


def view_suffix(view: str) -> str:
    """Returns what the ids of a view end in; nothing for the original."""
    return "" if view == ORIGINAL_VIEW else f"@{view}"


def _is_name(text: str) -> bool:
    path = text in (".", "..") or "/" in text or "\\" in text
    return bool(text.strip()) and not path and is_one_line(text)
