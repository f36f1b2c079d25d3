"""Rates are lengths of strings that really decode, and what is decoded is what networks get."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latent_store.codec import decode_y, decode_z, pack_stream
from latent_store.components.latents import LatentsReader
from latent_store.components.ranked import RankedReader
from latent_store.errors import IntegrityError, RankingError
from latent_store.store import Split
from tests.conftest import HEIGHT, RANKING, WIDTH
from training.selection.all_channels import WholeStreams
from training.selection.gated import ChosenStreams, pack_mask, unpack_mask
from training.selection.ranked import ScalableStreams
from training.selection.rates import DECODE_MODES, StoredStreams

SIZE = (128, 192)
ROWS = [0, 1, 3]
CHANNELS = 192
CUTS = (16, 32, 64, CHANNELS)


@pytest.fixture
def latents(split: Split) -> LatentsReader:
    return split.latents()


@pytest.fixture
def ranked(split: Split) -> RankedReader:
    return split.ranked(RANKING)


def stored(codec, latents, ranked=None, decode: str = "all") -> StoredStreams:
    return StoredStreams(codec=codec, latents=latents, ranked=ranked, decode=decode)


def _ledger(latents, row, channels) -> float:
    bits = latents.column("channel_bits", [row])[0].astype(np.float64)[list(channels)].sum()
    return float(bits + latents.column("hyper_bits", [row])[0])


def _z_symbols(codec, latents, row) -> np.ndarray:
    return decode_z(codec.tables, latents.z_string(row), SIZE[0] // 64, SIZE[1] // 64)


@pytest.mark.parametrize("decode", DECODE_MODES)
def test_whole_streams_weigh_their_real_strings(codec, latents, decode):
    y_hat_BKHW, rates = WholeStreams(stored(codec, latents, decode=decode)).receive(ROWS, SIZE)
    np.testing.assert_array_equal(y_hat_BKHW, latents.read(ROWS))
    for row, rate in zip(ROWS, rates, strict=True):
        assert rate.hyper_bytes == len(latents.z_string(row))
        assert rate.y_bytes == len(latents.y_string(row))
        assert rate.mask_bytes == 0
        assert rate.channels == CHANNELS
        assert rate.decoded == (decode == "all" or (decode == "sample" and row == 0))
        total = 8 * rate.total_bytes - _ledger(latents, row, range(CHANNELS))
        assert rate.flush_bits == pytest.approx(total)
        # Two strings, each with a flush of 32 to 64 bits.
        assert 64 <= rate.flush_bits <= 128


@pytest.mark.parametrize("keep", CUTS)
def test_scalable_streams_weigh_the_prefix_that_decodes(codec, latents, ranked, keep):
    channels = ranked.ranking.channels(keep)
    y_hat_BKHW, rates = ScalableStreams(stored(codec, latents, ranked), channels).receive(
        ROWS, SIZE
    )
    np.testing.assert_array_equal(y_hat_BKHW, latents.read(ROWS, channels))
    for row, rate in zip(ROWS, rates, strict=True):
        prefix = ranked.scalable_string(row, keep)
        assert rate.y_bytes == len(prefix)
        z_NHW = _z_symbols(codec, latents, row)
        gaussians = codec.gaussians(z_NHW)
        symbols_KHW = decode_y(codec.tables, prefix, gaussians.indexes_CHW, channels)
        y_hat_KHW = gaussians.y_hat(symbols_KHW, channels)
        np.testing.assert_array_equal(y_hat_KHW, latents.read([row], channels)[0])
        assert rate.channels == keep
        assert 64 <= rate.flush_bits <= 160


def test_chosen_streams_code_exactly_the_chosen_channels(codec, latents):
    random = np.random.default_rng(0)
    masks = dict(zip(ROWS, random.random((len(ROWS), CHANNELS)) < 0.4, strict=True))
    receiver = ChosenStreams(
        stored(codec, latents), lambda rows: np.stack([masks[r] for r in rows])
    )
    y_hat_BKHW, rates = receiver.receive(ROWS, SIZE)
    for item, row in enumerate(ROWS):
        expected_CHW = latents.read([row])[0] * masks[row][:, None, None]
        np.testing.assert_array_equal(y_hat_BKHW[item], expected_CHW)
        rate = rates[item]
        assert rate.channels == masks[row].sum()
        assert rate.mask_bytes == CHANNELS // 8
        kept = np.flatnonzero(masks[row])
        bits = 8 * (rate.hyper_bytes + rate.y_bytes) - _ledger(latents, row, kept)
        assert 64 <= bits <= 128
        assert rate.decoded


def test_an_empty_choice_costs_hyper_and_mask_only(codec, latents):
    nothing = np.zeros((1, CHANNELS), dtype=bool)
    y_hat_BKHW, rates = ChosenStreams(stored(codec, latents), lambda _: nothing).receive([2], SIZE)
    (rate,) = rates
    assert (rate.y_bytes, rate.mask_bytes, rate.channels) == (0, CHANNELS // 8, 0)
    assert not y_hat_BKHW.any()


def test_not_decoding_changes_no_number(codec, latents, ranked):
    channels = ranked.ranking.channels(16)
    first_BKHW, first = ScalableStreams(stored(codec, latents, ranked), channels).receive(
        ROWS, SIZE
    )
    second_BKHW, second = ScalableStreams(stored(codec, latents, ranked, "none"), channels).receive(
        ROWS, SIZE
    )
    np.testing.assert_array_equal(first_BKHW, second_BKHW)
    assert [r.total_bytes for r in first] == [r.total_bytes for r in second]
    assert not any(r.decoded for r in second)


class Altered:
    """A reader of the store that returns one symbol otherwise than it is stored."""

    def __init__(self, reader):
        self.reader = reader

    def __getattr__(self, name):
        return getattr(self.reader, name)

    def read(self, rows, channels=None):
        y_hat_BCHW = self.reader.read(rows, channels)
        y_hat_BCHW[0, 0, 0, 0] += 1
        return y_hat_BCHW


def test_latents_that_are_not_those_of_their_streams_are_refused(codec, latents, ranked):
    text = r"the stream of row 1 of .* decodes to another ŷ than the store holds \(1 of"
    with pytest.raises(IntegrityError, match=text):
        WholeStreams(stored(codec, Altered(latents))).receive([1], SIZE)
    channels = ranked.ranking.channels(16)
    with pytest.raises(IntegrityError, match=text):
        ScalableStreams(stored(codec, latents, Altered(ranked)), channels).receive([1], SIZE)


def test_a_ranking_made_again_is_refused(codec, latents, ranked):
    other = ranked.ranking.order[1:17]
    with pytest.raises(RankingError, match="the first 16 channels of ranking 'variance' are not"):
        ScalableStreams(stored(codec, latents, ranked), other)


def test_a_keep_that_is_no_cut_is_refused(codec, latents, ranked):
    text = r"have cuts at \[16, 32, 64, 192\], not at 5; derive the ranking with .* --keep 5"
    with pytest.raises(RankingError, match=text):
        ScalableStreams(stored(codec, latents, ranked), ranked.ranking.channels(5))


@given(st.lists(st.booleans(), min_size=1, max_size=400))
def test_masks_survive_packing(bits):
    mask_C = np.array(bits)
    data = pack_mask(mask_C)
    assert len(data) == -(-len(bits) // 8)
    np.testing.assert_array_equal(unpack_mask(data, len(bits)), np.flatnonzero(mask_C))


def test_a_stream_file_has_the_same_parts(codec, latents):
    mask_C = np.random.default_rng(1).random(CHANNELS) < 0.5
    z_NHW = _z_symbols(codec, latents, 0)
    gaussians = codec.gaussians(z_NHW)
    stream = pack_stream(
        codec,
        gaussians.symbols(latents.read([0])[0]),
        z_NHW,
        gaussians.indexes_CHW,
        size=(HEIGHT, WIDTH),
        selection="dynamic",
        channels=np.flatnonzero(mask_C).tolist(),
    )
    assert stream.mask == pack_mask(mask_C)
    receiver = ChosenStreams(stored(codec, latents), lambda _: mask_C[None])
    (rate,) = receiver.receive([0], SIZE)[1]
    parts = {"mask": rate.mask_bytes, "z": rate.hyper_bytes, "y": rate.y_bytes}
    assert stream.part_bytes == parts
