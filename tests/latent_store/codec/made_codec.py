"""A made codec: fresh weights, spread scales, random latents. Nothing here is trained."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import torch

from latent_store.codec import EntropyTables
from latent_store.codec.stock import MeanScaleHyperprior, ScaleHyperprior

CODECS = Path(__file__).parents[4] / "shared" / "codecs"
PICTURES = Path(__file__).parents[4] / "shared" / "data" / "camvid_cityscapes_layout"


STOCK = {"bmshj2018-hyperprior": ScaleHyperprior, "mbt2018-mean": MeanScaleHyperprior}
"""CompressAI's model of each architecture."""


def make_model(
    hyper_channels: int = 128, channels: int = 192, architecture: str = "bmshj2018-hyperprior"
) -> ScaleHyperprior:
    """A fresh model whose scales reach from under the bound to 50, medians and means off 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = STOCK[architecture](hyper_channels, channels)
        with torch.no_grad():
            scales = torch.logspace(math.log10(0.05), math.log10(50), channels)
            model.h_s[4].bias[:channels].copy_(scales)
            model.h_s[4].bias[channels:].uniform_(-3, 3)
            medians = torch.empty(hyper_channels, 1, 1).uniform_(-0.5, 0.5)
            model.entropy_bottleneck.quantiles += medians
        model.update(force=True)
    return model


def save(content: object) -> bytes:
    """The bytes of a checkpoint file."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def random_latents(
    seed: int, channels: int, height: int, width: int, outliers: float = 0.01, reach: int = 5000
) -> tuple[np.ndarray, np.ndarray]:
    """Symbols int32 and indexes uint8 [C, h, w]; `outliers` of the symbols need escapes."""
    rng = np.random.default_rng(seed)
    indexes = rng.integers(0, 64, (channels, height, width)).astype(np.uint8)
    scale = 0.11 * np.exp(indexes * math.log(256 / 0.11) / 63)
    symbols = np.round(rng.normal(size=indexes.shape) * scale)
    wild = rng.random(indexes.shape) < outliers
    symbols[wild] = rng.integers(-reach, reach + 1, int(wild.sum()))
    return symbols.astype(np.int32), indexes


def made_tables(seed: int = 3, scales: int = 16, hyper_channels: int = 8) -> EntropyTables:
    """Tables from integers alone: the same on every machine, and with dear and cheap escapes."""
    rng = np.random.default_rng(seed)

    def rows(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        length = rng.integers(3, 40, count)
        cdf = np.zeros((count, int(length.max())), dtype=np.int32)
        for row, n in zip(cdf, length, strict=True):
            inner = rng.choice(np.arange(1, 1 << 16), size=n - 2, replace=False)
            row[:n] = [0, *np.sort(inner), 1 << 16]
        return cdf, length, -(length // 2)

    y_cdf, y_length, y_offset = rows(scales)
    z_cdf, z_length, z_offset = rows(hyper_channels)
    return EntropyTables(
        y_cdf=y_cdf,
        y_cdf_length=y_length,
        y_offset=y_offset,
        z_cdf=z_cdf,
        z_cdf_length=z_length,
        z_offset=z_offset,
        scale_table=np.arange(1, scales + 1) / 8,
        z_median=np.arange(hyper_channels) / 4,
        scale_bound=np.array([0.125]),
    )
