"""The ledger against the coder: what is left to the stream's length is the flush, and no more."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latent_store.codec import Codec, channel_bits, encode_y, encode_z, hyper_bits
from latent_store.errors import LatentStoreError
from tests.latent_store.codec.made_codec import made_tables, random_latents

# rANS rounds its state at each symbol; over a few thousand symbols that is far below this.
ROUNDING = 0.05


def assert_only_the_flush_is_left(data: bytes, bits: float) -> None:
    assert 32 - ROUNDING <= 8 * len(data) - bits <= 64 + ROUNDING


@settings(deadline=None, max_examples=120)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.integers(1, 12),
    side=st.integers(2, 9),
    outliers=st.sampled_from([0.0, 0.001, 0.05, 1.0]),
    reach=st.sampled_from([2, 40, 300, 5000, 1 << 24]),
)
def test_channel_bits_add_up_to_the_stream(
    codec: Codec, seed: int, channels: int, side: int, outliers: float, reach: int
) -> None:
    y_hat, indexes = random_latents(seed, channels, side, side, outliers, reach)
    bits = channel_bits(codec.tables, y_hat, indexes)
    assert bits.shape == (channels,)
    assert bits.dtype == np.float64
    assert_only_the_flush_is_left(encode_y(codec.tables, y_hat, indexes), bits.sum())
    # Any subset costs the sum of its channels.
    some = list(range(0, channels, 2))
    assert_only_the_flush_is_left(encode_y(codec.tables, y_hat, indexes, some), bits[some].sum())


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), reach=st.sampled_from([3, 30, 3000]))
def test_hyper_bits_and_other_tables(codec: Codec, seed: int, reach: int) -> None:
    rng = np.random.default_rng(seed)
    z_symbols = rng.integers(-reach, reach + 1, (128, 2, 2))
    bits = hyper_bits(codec.tables, z_symbols)
    assert_only_the_flush_is_left(encode_z(codec.tables, z_symbols), bits)
    tables = made_tables(seed)
    y_hat = rng.integers(-reach, reach + 1, (5, 4, 4))
    indexes = rng.integers(0, tables.num_scales, (5, 4, 4))
    y_bits = channel_bits(tables, y_hat, indexes).sum()
    assert_only_the_flush_is_left(encode_y(tables, y_hat, indexes), y_bits)


@pytest.mark.parametrize("value", [1, 2, 8, 9, 128, 129, -1, -2, -8, -9, -128, -129, 1 << 23])
def test_each_escape_length(codec: Codec, value: int) -> None:
    """Around every boundary of the 4-bit digits, where a count off by one would show."""
    length, offset = int(codec.tables.y_cdf_length[0]), int(codec.tables.y_offset[0])
    last = offset + length - 3
    symbol = last + value if value > 0 else offset + value
    y_hat = np.full((1, 8, 8), symbol)
    indexes = np.zeros_like(y_hat)
    bits = channel_bits(codec.tables, y_hat, indexes).sum()
    assert_only_the_flush_is_left(encode_y(codec.tables, y_hat, indexes), bits)


def test_no_channels_cost_nothing(codec: Codec) -> None:
    nothing = np.zeros((0, 4, 4), dtype=np.int32)
    assert channel_bits(codec.tables, nothing, nothing).shape == (0,)


def test_the_ledger_checks_what_it_counts(codec: Codec) -> None:
    with pytest.raises(LatentStoreError, match="scale indexes reach from 64 to 64"):
        channel_bits(codec.tables, np.zeros((1, 2, 2), int), np.full((1, 2, 2), 64))
    with pytest.raises(LatentStoreError, match="ẑ has 3 channels, the codec 128"):
        hyper_bits(codec.tables, np.zeros((3, 2, 2), int))
