"""The ledger: what each channel costs, from the quantised CDFs that the coder itself uses.

A symbol costs `16 - log2(frequency)` bits. One outside its table costs the escape symbol, a
4-bit count of digits, and its distance from the table in 4-bit digits (CompressAI's bypass mode,
`rans_interface.cpp`). The sum is what the stream grows by; what is left to the stream's length
is the rANS flush of 32 to 64 bits. Likelihoods would miss the quantisation of the tables.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from latent_store.codec.symbols import check_hyper_symbols, check_symbols
from latent_store.codec.tables import EntropyTables

NIBBLE = 4
MAX_NIBBLES = 8


def channel_bits(
    tables: EntropyTables, symbols_CHW: ArrayLike, indexes_CHW: ArrayLike
) -> np.ndarray:
    """Returns the bits of each channel of ŷ.

    Given ẑ every channel is coded on its own, so the bits of any subset are a sum of these
    (design: R(mask) = R_z + Σ R_c + flush).

    Args:
        tables: The codec's tables.
        symbols_CHW: Integers [C, h, w], the symbols of ŷ.
        indexes_CHW: Scale indexes [C, h, w].

    Returns:
        float64 [C].

    Raises:
        LatentStoreError: Shapes differ, values are no integers, or an index has no table.
    """
    symbols, indexes = check_symbols(tables, symbols_CHW, indexes_CHW)
    bits_CHW = _bits(symbols, indexes, tables.y_bits, tables.y_cdf_length, tables.y_offset)
    bits_C: np.ndarray = bits_CHW.sum(axis=(1, 2))
    return bits_C


def hyper_bits(tables: EntropyTables, z_symbols_NHW: ArrayLike) -> float:
    """Returns the bits of the hyper-latent's symbols, int [N, h, w]; channel `n` uses row `n`.

    Raises:
        LatentStoreError: The channel count is not the codec's, or values are no integers.
    """
    symbols, rows = check_hyper_symbols(tables, z_symbols_NHW)
    bits = _bits(symbols, rows, tables.z_bits, tables.z_cdf_length, tables.z_offset)
    return float(bits.sum())


def _bits(
    symbols: np.ndarray, rows: np.ndarray, table: np.ndarray, length: np.ndarray, offset: np.ndarray
) -> np.ndarray:
    """Returns float64 bits of each symbol; `rows` names the table of each."""
    escape = length.astype(np.int64)[rows] - 2
    value = symbols.astype(np.int64) - offset[rows]
    outside = (value < 0) | (value >= escape)
    column = np.where(outside, escape, value)
    bits: np.ndarray = table.reshape(-1)[rows.astype(np.int64) * table.shape[1] + column]
    if outside.any():
        bits[outside] += _escape_bits(value[outside], escape[outside])
    return bits


def _escape_bits(value: np.ndarray, escape: np.ndarray) -> np.ndarray:
    """Returns the bits behind the escape symbol: one digit count, then the digits."""
    distance = np.where(value < 0, -2 * value - 1, 2 * (value - escape))
    shifts = NIBBLE * np.arange(MAX_NIBBLES)
    digits: np.ndarray = ((distance[:, None] >> shifts) != 0).sum(axis=1)
    return NIBBLE * (1.0 + digits)
