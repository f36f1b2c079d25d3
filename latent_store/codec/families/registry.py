"""The kinds of codec, by the names of their architectures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from latent_store.codec.families.base import CodecFamily
from latent_store.codec.families.mean_hyperprior import MeanHyperpriorFamily
from latent_store.codec.families.scale_hyperprior import ScaleHyperpriorFamily
from latent_store.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

FAMILIES: Mapping[str, CodecFamily] = {
    family.name: family for family in (ScaleHyperpriorFamily(), MeanHyperpriorFamily())
}
DEFAULT_ARCHITECTURE = ScaleHyperpriorFamily.name
CONTEXT = "context_prediction."
"""What keys of autoregressive codecs begin with."""


def find_family(architecture: str, what: str) -> CodecFamily:
    """Returns the kind of codec of that architecture.

    Args:
        architecture: Its name.
        what: Has it; for the message.

    Raises:
        CheckpointError: This release has no such kind; names those that it has.
    """
    if architecture not in FAMILIES:
        raise CheckpointError(
            f"{what} is of architecture {architecture}, this release has {', '.join(FAMILIES)}; "
            "install one that has it"
        )
    return FAMILIES[architecture]


def family_of(state_dict: Mapping[str, Tensor], name: str) -> CodecFamily:
    """Returns the kind of codec that a checkpoint looks like: the default where it is like none.

    Raises:
        CheckpointError: It is an autoregressive codec's.
    """
    if any(key.startswith(CONTEXT) for key in state_dict):
        raise CheckpointError(
            f"{name} holds an autoregressive codec (mbt2018 or cheng2020), whose elements are "
            "decoded one after the other, so that no channel has bits of its own; give a "
            f"checkpoint of {' or '.join(FAMILIES)}"
        )
    fitting = (family for family in FAMILIES.values() if family.fits(state_dict))
    return next(fitting, FAMILIES[DEFAULT_ARCHITECTURE])
