"""Names of samples: what an id may be, and how the rows of a stored view are called.

An id stands in tables, in messages and on command lines, and people make file names of it.
"""

from __future__ import annotations

import unicodedata

from latent_store.errors import DatasetError

ORIGINAL_VIEW = "original"
VIEWS = ("hflip",)
"""Views that can be stored beside the originals. `hflip`: the picture mirrored left to right."""

_BREAKING = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode categories of what is no line of text: controls, lone surrogates, line separators."""


def normal_id(sample_id: str) -> str:
    """Returns an id as it is stored and compared: in Unicode form NFC.

    File systems disagree about the form; "é" as one character and as two is one id here.
    """
    return unicodedata.normalize("NFC", sample_id)


def is_one_line(text: str) -> bool:
    """Tells whether a text is one line of text, in tables, in messages and in UTF-8."""
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
    if (
        not name.strip()
        or name in (".", "..")
        or any(c in "/\\" for c in name)
        or not is_one_line(name)
    ):
        raise DatasetError(
            f"{sample_id!r} cannot be a sample id: an id is one line of text without / and \\, not "
            "blank, and not . or ..; rename that file"
        )
    taken = next((known for known in VIEWS if name.endswith(view_suffix(known))), ORIGINAL_VIEW)
    if taken != view:
        raise DatasetError(
            f"{sample_id!r} cannot be the sample id of an original picture: ids that end in "
            f"{view_suffix(taken)} are those of stored views; rename that file"
        )
    return name


def view_id(source_id: str, view: str) -> str:
    """Returns the id of a view of a sample, e.g. `ID@hflip`."""
    return source_id if view == ORIGINAL_VIEW else f"{source_id}{view_suffix(view)}"


def view_suffix(view: str) -> str:
    """Returns what the ids of a view end in; nothing for the original."""
    return "" if view == ORIGINAL_VIEW else f"@{view}"
