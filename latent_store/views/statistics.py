"""Statistics of ŷ's channels over a whole split: entropy, variance, correlation.

Everything follows from exact sums: how often each channel takes each integer, its values, and the
products of every two channels. A Dask task reads one shard and sums it; a tree of tasks adds the
sums. So every chunk is read once, memory holds a few shards whatever the size of the store, and the
result is the same in whatever order the tasks ran. (ŷ is a multiple of a power of two, and such
sums are exact in float64.)
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from operator import add

import numpy as np
import xarray as xr
from dask.delayed import Delayed, delayed

from latent_store.format.schema import LATENT_STRIDE

_ADDED_AT_ONCE = 8
"""Sums that one task of the tree adds; each is under a megabyte for 192 channels."""


@dataclass(frozen=True, kw_only=True)
class ChannelSums:
    """Exact sums over the symbols of some samples.

    Attributes:
        symbols: P, symbols of each channel.
        low: The value that the first column of `count_CV` counts.
        count_CV: Int64, how often each channel, rounded, takes the value `low + v`.
        value_C: Float64, sums of each channel.
        product_CC: Float64, sums of products of two channels at the same position.
        ledger_bits_C: Float64, bits of each channel in the real streams.
    """

    symbols: int
    low: int
    count_CV: np.ndarray
    value_C: np.ndarray
    product_CC: np.ndarray
    ledger_bits_C: np.ndarray

    def __add__(self, other: ChannelSums) -> ChannelSums:
        low = min(self.low, other.low)
        high = max(s.low + s.count_CV.shape[1] for s in (self, other))
        count_CV = np.zeros((len(self.count_CV), high - low), dtype=np.int64)
        for part in (self, other):
            first = part.low - low
            count_CV[:, first : first + part.count_CV.shape[1]] += part.count_CV
        return ChannelSums(
            symbols=self.symbols + other.symbols,
            low=low,
            count_CV=count_CV,
            value_C=self.value_C + other.value_C,
            product_CC=self.product_CC + other.product_CC,
            ledger_bits_C=self.ledger_bits_C + other.ledger_bits_C,
        )


def channel_statistics(dataset: xr.Dataset) -> xr.Dataset:
    """Computes the statistics of every channel, on the current Dask scheduler or cluster.

    Args:
        dataset: `Split.to_xarray()`, or some of its samples or channels.

    Returns:
        float64 by `channel`: `entropy` of the channel's values, rounded to integers where the
        codec has means (bits a symbol, as if coded with one table), `ledger` (bits a symbol in
        the real streams, y alone), `mean`, `variance`; by `channel` and `other_channel`:
        `correlation`, nan for a channel that never varies. The attribute `symbols` counts those
        of one channel. Canvas beyond a picture's coded size is left out.
    """
    sums, channels = channel_sums(dataset).compute(), dataset["channel"].values
    p_CV = sums.count_CV / sums.symbols
    mean_C = sums.value_C / sums.symbols
    covariance_CC = sums.product_CC / sums.symbols - np.outer(mean_C, mean_C)
    variance_C = np.where(_never_varies(sums), 0.0, covariance_CC.diagonal())
    varies_C = np.where(variance_C > 0, variance_C, np.nan)
    correlation_CC = covariance_CC / np.sqrt(np.outer(varies_C, varies_C))
    logs_CV = np.log2(p_CV, where=p_CV > 0, out=np.zeros_like(p_CV))
    return xr.Dataset(
        {
            "entropy": ("channel", 0.0 - (p_CV * logs_CV).sum(axis=1)),
            "ledger": ("channel", sums.ledger_bits_C / sums.symbols),
            "mean": ("channel", mean_C),
            "variance": ("channel", variance_C),
            "correlation": (("channel", "other_channel"), correlation_CC),
        },
        coords={"channel": channels, "other_channel": channels},
        attrs={"symbols": sums.symbols},
    )


def _never_varies(sums: ChannelSums) -> list[bool]:
    """Tells which channels have one value only: their mean square is their mean's square."""
    squares = map(Fraction, sums.product_CC.diagonal())
    return [
        sums.symbols * square == Fraction(value) ** 2
        for value, square in zip(sums.value_C, squares, strict=True)
    ]


def channel_sums(dataset: xr.Dataset) -> Delayed:
    """Returns the sums over all samples, lazily; each chunk of ŷ is read by one task, once."""
    y_hat = dataset["y_hat"].data.rechunk(dict.fromkeys((1, 2, 3), -1))
    bits = dataset["channel_bits"].data.rechunk((y_hat.chunks[0], -1))
    sides = [dataset["coded_height"].values, dataset["coded_width"].values]
    grids_N2 = np.stack(sides, axis=1) // LATENT_STRIDE
    ends = np.cumsum(y_hat.chunks[0])[:-1]
    blocks = zip(
        y_hat.to_delayed().ravel(), bits.to_delayed().ravel(), np.split(grids_N2, ends), strict=True
    )
    parts = [delayed(sum_shard)(*block) for block in blocks]
    while len(parts) > 1:
        groups = range(0, len(parts), _ADDED_AT_ONCE)
        parts = [delayed(reduce)(add, parts[g : g + _ADDED_AT_ONCE]) for g in groups]
    total: Delayed = parts[0]
    return total


def sum_shard(y_hat_BCHW: np.ndarray, bits_BC: np.ndarray, grids_B2: np.ndarray) -> ChannelSums:
    """Sums one shard, a sample at a time.

    Args:
        y_hat_BCHW: Integers, or multiples of a power of two; B at least 0.
        bits_BC: The ledger's bits.
        grids_B2: Height and width of each sample's coded grid; what lies beyond is canvas.
    """
    channels = y_hat_BCHW.shape[1]
    low, high = (int(np.rint(f(y_hat_BCHW, initial=0))) for f in (np.min, np.max))
    count_CV = np.zeros((channels, high - low + 1), dtype=np.int64)
    # Each channel has bins of its own, one channel's behind another's.
    firsts_C1 = count_CV.shape[1] * np.arange(channels)[:, None] - low
    value_C, product_CC = np.zeros(channels), np.zeros((channels, channels))
    for y_hat_CHW, (height, width) in zip(y_hat_BCHW, grids_B2, strict=True):
        values_CP = y_hat_CHW[:, :height, :width].reshape(channels, -1).astype(np.float64)
        bins_CP = np.rint(values_CP).astype(np.int64) + firsts_C1
        count_CV += np.bincount(bins_CP.ravel(), minlength=count_CV.size).reshape(count_CV.shape)
        # In float64 such sums are exact, and as fast as matrix products are.
        value_C += values_CP.sum(axis=1)
        product_CC += values_CP @ values_CP.T
    return ChannelSums(
        symbols=int(grids_B2.prod(axis=1, dtype=np.int64).sum()),
        low=low,
        count_CV=count_CV,
        value_C=value_C,
        product_CC=product_CC,
        ledger_bits_C=bits_BC.sum(axis=0, dtype=np.float64),
    )
