"""The ways of choosing channels, by their names."""

from __future__ import annotations

from latent_store.errors import LatentStoreError
from training.selection.all_channels import AllChannels
from training.selection.base import Selection
from training.selection.gated import Gated
from training.selection.ranked import AnyN, Ranked

SELECTIONS: dict[str, type[Selection]] = {
    kind.name: kind for kind in (AllChannels, Gated, Ranked, AnyN)
}


def find_selection(name: str) -> type[Selection]:
    """Returns the way of choosing channels that a flag, a checkpoint or a point names.

    Raises:
        LatentStoreError: There is none of that name.
    """
    if name not in SELECTIONS:
        raise LatentStoreError(f"selection must be one of {', '.join(SELECTIONS)}, got {name!r}")
    return SELECTIONS[name]
