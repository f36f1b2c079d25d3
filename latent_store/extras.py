"""Imports what only an extra installs, or says which one."""

from __future__ import annotations

import importlib
from types import ModuleType

from latent_store.errors import MissingExtraError


def import_with_extra(module: str, extra: str) -> ModuleType:
    """Imports one of this package's modules whose own imports come with an extra.

    Raises:
        MissingExtraError: Something it imports is not installed; names the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        raise MissingExtraError(
            f"{missing} is not installed: pip install 'latent-store[{extra}]'"
        ) from error
