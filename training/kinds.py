"""Kinds by name: what a flag may choose, each imported when it is first asked for.

    TASKS: Kinds[Task] = Kinds(
        segmentation="training.tasks.segmentation:SEGMENTATION",
        detection="training.tasks.detection:DETECTION",
    )

Parsers need the names alone, and must not load torch to print their help.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, MutableMapping
from typing import Any, TypeVar

from latent_store.errors import LatentStoreError

Kind = TypeVar("Kind")


class Kinds(MutableMapping[str, Kind]):
    """A mapping of names to kinds, in the order in which they are given.

    Args:
        places: Where each kind lies, `module:name`. A kind set later is given itself.
    """

    def __init__(self, **places: str) -> None:
        self._places: dict[str, str | Kind] = {**places}

    def __getitem__(self, name: str) -> Kind:
        place = self._places[name]
        if not isinstance(place, str):
            return place
        module, _, kind = place.partition(":")
        found: Kind = getattr(importlib.import_module(module), kind)
        self._places[name] = found
        return found

    def __setitem__(self, name: str, kind: Kind) -> None:
        self._places[name] = kind

    def __delitem__(self, name: str) -> None:
        del self._places[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places  # The mapping's own would import the kind.


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
        return getattr(importlib.import_module(module), name)
    except AttributeError as error:
        reason = f"{error}; check the name after the colon"
    except Exception as error:  # noqa: BLE001 - somebody else's module may raise anything
        reason = (
            f"{type(error).__name__}: {error}; install it, or set PYTHONPATH to the folder that "
            "holds it"
        )
    raise LatentStoreError(f"{place} cannot be imported ({reason})")
