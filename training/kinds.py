"""Kinds by name: what a flag may choose, each imported when it is first asked for.

    TASKS: Kinds[Task] = Kinds(
        segmentation="training.tasks.segmentation:SEGMENTATION",
        detection="training.tasks.detection:DETECTION",
    )

Parsers need the names alone, and must not load torch to print their help.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, MutableMapping
from typing import TypeVar

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
