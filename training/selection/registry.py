"""The ways of choosing channels, by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from latent_store.errors import LatentStoreError
from training.flags import asked_for
from training.kinds import Kinds

if TYPE_CHECKING:
    from training.selection.base import Selection

SELECTIONS: Kinds[type[Selection]] = Kinds(
    none="training.selection.all_channels:AllChannels",
    dynamic="training.selection.gated:Gated",
    static="training.selection.ranked:Ranked",
    any="training.selection.ranked:AnyN",
)

_VALUES = {"mask": "--mask RANKING", "keep": "--keep N"}


def find_selection(name: str) -> type[Selection]:
    """Returns the way of choosing channels that a flag, a checkpoint or a point names.

    Raises:
        LatentStoreError: There is none of that name.
    """
    if name not in SELECTIONS:
        raise LatentStoreError(f"selection must be one of {', '.join(SELECTIONS)}, got {name!r}")
    return SELECTIONS[name]


def check_flags(flags: Any) -> None:
    """Refuses flags of `train-from-store` that do not go with their `selection`.

    Raises:
        LatentStoreError: One is missing, or another selection's.
    """
    chosen, kinds = find_selection(flags.selection), SELECTIONS.values()
    given = [name for name in _VALUES if getattr(flags, name) is not None]
    if given != list(chosen.required):
        rules = [
            f"--selection {kind.name} goes with {' and '.join(_VALUES[n] for n in kind.required)}"
            for kind in kinds
            if kind.required
        ]
        raise LatentStoreError(
            f"{', '.join(rules)}, other selections with neither; got --selection {chosen.name}, "
            f"--mask {flags.mask}, --keep {flags.keep}"
        )
    for kind in kinds:
        others = [name for name in kind.optional if name not in chosen.optional]
        for name in asked_for(flags, others):
            raise LatentStoreError(
                f"--{name} goes with --selection {kind.name}, got --selection {chosen.name}"
            )
