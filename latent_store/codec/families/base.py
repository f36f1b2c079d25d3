"""A kind of codec as an object: all that depends on the architecture is asked of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from latent_store.codec import stock

KERNEL = 5
"""Side of the kernels of the largest layers."""
LAST_OF_H_S = 4
"""Number of h_s's last layer with weights, the one whose outputs are planes of ŷ's channels."""


class CodecFamily(ABC):
    """An architecture of CompressAI that codes every element of ŷ from ẑ alone.

    So any channels are decodable without the others, and their bits add up. An autoregressive
    codec is none: its elements wait for each other.

    Attributes:
        name: Of the architecture, in CompressAI's zoo.
        zoo_sha256: First digits of the sha256 of the zoo's checkpoints, by metric and quality.
        y_hat_steps: See `CodecSpec`; a power of two, so that ŷ is exact in float32.
    """

    name: ClassVar[str]
    zoo_sha256: ClassVar[Mapping[str, tuple[str, ...]]]
    y_hat_steps: ClassVar[int] = 1

    @abstractmethod
    def new_model(self, N: int, M: int) -> stock.ScaleHyperprior:
        """Returns a fresh model."""

    def largest_layer(self, N: int, M: int) -> int:
        """Returns the number of weights of a model's largest layer."""
        return N * max(N, M) * KERNEL**2

    @abstractmethod
    def fits(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Tells whether a checkpoint, which may be anything, looks like this kind's."""

    @abstractmethod
    def hyper_input(self, y: Tensor) -> Tensor:
        """Returns what h_a gets."""

    def planes_of(self, channels: Sequence[int], M: int) -> list[int]:
        """Returns the planes of h_s's output that say all of some channels of ŷ; `split` of them
        gives these channels' scales and means, in this order."""
        return list(channels)

    @abstractmethod
    def split(self, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns scales and means of ŷ's elements from what h_s gives; None: every mean is 0."""
