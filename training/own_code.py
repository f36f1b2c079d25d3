"""One's own code, in the place of a kind that there is: `PACKAGE.MODULE:NAME`."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator
from typing import Any

from latent_store.errors import LatentStoreError


class OrOwn(Collection[str]):
    """What a flag may choose where one's own code may stand in for a kind.

    Args:
        names: Of the kinds that there are.
        example: The last part of a place, in help.
    """

    def __init__(self, names: Collection[str], example: str) -> None:
        self._names, self._example = names, f"PACKAGE.MODULE:{example}"

    def __contains__(self, name: object) -> bool:
        return name in self._names or is_own(str(name))

    def __iter__(self) -> Iterator[str]:
        yield from (*self._names, self._example)

    def __len__(self) -> int:
        return len(self._names) + 1


def is_own(name: str) -> bool:
    """Tells whether a name is the place of one's own code, `PACKAGE.MODULE:NAME`."""
    module, colon, kind = name.partition(":")
    return bool(colon) and kind.isidentifier() and all(map(str.isidentifier, module.split(".")))


def import_own(place: str) -> Any:
    """Returns what lies at `PACKAGE.MODULE:NAME`, found as Python finds every module.

    Raises:
        LatentStoreError: The module cannot be imported, or has nothing of that name.
    """
    module, _, name = place.partition(":")
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # somebody else's module may raise anything
        remedy = "mend the module"
        if isinstance(error, ModuleNotFoundError):
            remedy = "install it, or set PYTHONPATH to the folder that holds it"
        raise LatentStoreError(
            f"{place} cannot be imported ({type(error).__name__}: {error}; {remedy})"
        ) from error
    if not hasattr(found, name):
        raise LatentStoreError(
            f"{place} cannot be imported (module {module!r} has no attribute {name!r}; check the "
            "name after the colon)"
        )
    return getattr(found, name)
