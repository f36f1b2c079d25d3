"""The mean and scale hyperprior: ẑ also says where each element of ŷ is centred.

Symbols are y rounded around the mean, and ŷ is symbol + mean. Means are rounded to steps of 1/32
first, so that ŷ is exact in an integer array and equal on every machine but for ties (FORMAT.md,
section 4, has how rare they are); CompressAI's own ŷ is within half a step of it, and the symbols,
so the streams, are CompressAI's.

D. Minnen, J. Ballé, G. Toderici: Joint autoregressive and hierarchical priors for learned image
compression, NeurIPS 2018; the model without its autoregressive part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from latent_store.codec import stock
from latent_store.codec.families.base import KERNEL, CodecFamily

if TYPE_CHECKING:
    from torch import Tensor

SCALES_AND_MEANS, LATENT = "h_s.4.weight", "g_a.6.weight"
"""Weights whose first axes are 2M and M."""


class MeanHyperpriorFamily(CodecFamily):
    """Steps of 1/32 add a thousandth to the squared error of ŷ, and leave int16 ±1024."""

    name = "mbt2018-mean"
    zoo_sha256: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "mse": (
            "e522738d", "e54a039d", "723404a8", "6dba02a3",
            "d504e8eb", "a19628ab", "d5d441d1", "8089ae3e",
        ),
        "ms-ssim": (
            "5bf9c0b6", "e2a1bf3f", "640ce819", "12626c13",
            "1be7f059", "b83bf379", "ddf9644c", "0cc7b94f",
        ),
    }  # fmt: skip
    y_hat_steps = 32

    def new_model(self, N: int, M: int) -> stock.ScaleHyperprior:
        return stock.MeanScaleHyperprior(N, M)

    def largest_layer(self, N: int, M: int) -> int:
        """Returns that of h_s, where it is larger than those of g_a."""
        return max(super().largest_layer(N, M), M * (M * 3 // 2) * KERNEL**2)

    def fits(self, state_dict: Mapping[str, Tensor]) -> bool:
        both, latent = (state_dict.get(key) for key in (SCALES_AND_MEANS, LATENT))
        if both is None or latent is None or not (both.ndim and latent.ndim):
            return False
        return both.shape[0] == 2 * latent.shape[0]

    def hyper_input(self, y: Tensor) -> Tensor:
        return y

    def planes_of(self, channels: Sequence[int], M: int) -> list[int]:
        return [*channels, *(M + channel for channel in channels)]

    def split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        scales, means = parameters.chunk(2, 1)
        return scales, means
