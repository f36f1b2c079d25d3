"""The kinds of components that there are, each an object in a file of its own."""

from __future__ import annotations

from latent_store.components.boxes import BoxesReader
from latent_store.components.features import FeaturesReader
from latent_store.components.labels import LabelsReader
from latent_store.components.latents import LatentsReader
from latent_store.components.ranked import RankedReader
from latent_store.components.reader import ComponentReader
from latent_store.errors import MissingComponentError
from latent_store.format.plan_files import list_splits
from latent_store.storage import groups
from latent_store.storage.location import CONTROL, Location

Kind = type[ComponentReader]

KINDS: dict[str, Kind] = {
    kind.kind: kind
    for kind in (LabelsReader, BoxesReader, FeaturesReader, LatentsReader, RankedReader)
}
"""By name, in the order in which components are listed and closed."""


def kind_of(key: str) -> Kind:
    """Returns the kind of the component of that key.

    Raises:
        MissingComponentError: No component has such a key; lists what keys look like.
    """
    name, *ids = key.split("/")
    if name not in KINDS or len(ids) != len(KINDS[name].parts):
        known = ", ".join(kind.key_of(*map(str.upper, kind.parts)) for kind in KINDS.values())
        raise MissingComponentError(f"{key!r} is no component's key; they are: {known}")
    return KINDS[name]


def ids_of(key: str) -> dict[str, str]:
    """Returns what the parts of a component's key are ids of; nothing for an unknown kind."""
    kind = KINDS.get(key.partition("/")[0])
    return {} if kind is None else kind.ids_of(key)


def task_kinds() -> dict[str, Kind]:
    """Returns, for each task, the kind of the annotations that it learns from."""
    return {kind.task: kind for kind in KINDS.values() if kind.task}


def component_keys(location: Location, split: str) -> list[str]:
    """Lists the components of a split, finished or not."""
    return [key for key in _folders(location, split) if groups.is_group(location, f"{split}/{key}")]


def stray_folders(location: Location, split: str) -> list[str]:
    """Lists the folders that lie where a split's components do, and are none."""
    there = _folders(location, split)
    return [key for key in there if not groups.is_group(location, f"{split}/{key}")]


def _folders(location: Location, split: str) -> list[str]:
    there = location.folders(split)
    found: list[str] = []
    for name, kind in KINDS.items():
        keys = [name] if name in there else []
        for _ in kind.parts:
            keys = [f"{key}/{part}" for key in keys for part in location.folders(f"{split}/{key}")]
        found += keys
    return found


def all_splits(location: Location) -> list[str]:
    """Lists the splits, as `dataset/split`: those that have a plan, and those that lost theirs.

    Reading the plan of a lost one says what to do about it.
    """
    planned = set(list_splits(location))
    datasets = [name for name in location.folders("") if name != CONTROL]
    found = {f"{name}/{split}" for name in datasets for split in location.folders(name)}
    lost = {name for name in found - planned if KINDS.keys() & groups.child_names(location, name)}
    return sorted(planned | lost)
