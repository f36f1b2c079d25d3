"""The scale hyperprior: ŷ is integer, and ẑ says how widely each element of it is spread.

J. Ballé, D. Minnen, S. Singh, S. J. Hwang, N. Johnston: Variational image compression with a scale
hyperprior, ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from latent_store.codec import stock
from latent_store.codec.families.base import CodecFamily

if TYPE_CHECKING:
    from torch import Tensor


class ScaleHyperpriorFamily(CodecFamily):
    """Symbols are ŷ itself."""

    name = "bmshj2018-hyperprior"
    zoo_sha256: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "mse": (
            "7eb97409", "93677231", "6d87be32", "de1b779c",
            "f8b614e1", "1ab9c41e", "3804dcbd", "a583f0cf",
        ),
        "ms-ssim": (
            "5cf249be", "1ff60d1f", "92dd7878", "4377354e",
            "c34afc8d", "3a6d8229", "8747d3bc", "cc15b5f3",
        ),
    }  # fmt: skip

    def new_model(self, N: int, M: int) -> stock.ScaleHyperprior:
        return stock.ScaleHyperprior(N, M)

    def fits(self, state_dict: Mapping[str, Tensor]) -> bool:
        scales, latent = (state_dict.get(key) for key in ("h_s.4.weight", "g_a.6.weight"))
        if scales is None or latent is None:
            return False
        return scales.shape[:1] == latent.shape[:1]

    def hyper_input(self, y: Tensor) -> Tensor:
        return y.abs()

    def split(self, parameters: Tensor) -> tuple[Tensor, None]:
        return parameters, None
