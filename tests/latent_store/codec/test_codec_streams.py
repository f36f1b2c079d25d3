"""Streams: exact round trips, the bytes that a prefix needs, and what the coder must not get."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from latent_store.codec import (
    Codec,
    EntropyTables,
    crc32c,
    decode_scalable,
    decode_y,
    decode_z,
    encode_scalable,
    encode_y,
    encode_z,
    indexes_crc32c,
    stock,
    symbols_crc32c,
)
from latent_store.codec.stock import RansDecoder
from latent_store.codec.streams import STATE_RANGE, _decode, _padding
from latent_store.errors import IntegrityError, LatentStoreError
from tests.latent_store.codec.made_codec import made_tables, random_latents

SIZES = st.tuples(st.integers(2, 12), st.integers(1, 5), st.integers(1, 5))
REACH = st.sampled_from([0, 40, 5000, 1 << 24])


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), size=SIZES, outliers=st.floats(0, 1), reach=REACH)
def test_y_round_trip(codec: Codec, seed: int, size: tuple, outliers: float, reach: int) -> None:
    channels, height, width = size
    assume(channels * height * width >= 4)
    y_hat, indexes = random_latents(seed, *size, outliers, reach)
    data = encode_y(codec.tables, y_hat, indexes)
    assert len(data) % 4 == 0
    np.testing.assert_array_equal(decode_y(codec.tables, data, indexes), y_hat)
    assert decode_y(codec.tables, data, indexes).dtype == np.int32


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 3), width=st.integers(1, 3))
def test_z_round_trip(codec: Codec, seed: int, height: int, width: int) -> None:
    symbols = np.random.default_rng(seed).integers(-40, 41, (128, height, width))
    data = encode_z(codec.tables, symbols)
    np.testing.assert_array_equal(decode_z(codec.tables, data, height, width), symbols)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.integers(2, 12),
    plane=st.sampled_from([(1, 4), (2, 2), (3, 5), (4, 4)]),
    outliers=st.sampled_from([0.0, 0.02, 0.5]),
    reach=REACH,
    data=st.data(),
)
def test_a_prefix_decodes_and_costs_at_most_four_bytes_more(
    codec: Codec,
    seed: int,
    channels: int,
    plane: tuple[int, int],
    outliers: float,
    reach: int,
    data: st.DataObject,
) -> None:
    y_hat, indexes = random_latents(seed, channels, *plane, outliers, reach)
    order = data.draw(st.permutations(range(channels)))
    cuts = tuple(sorted(data.draw(st.sets(st.integers(1, channels), min_size=1))))
    stream = encode_scalable(codec.tables, y_hat, indexes, order, cuts)
    assert stream.data == encode_y(codec.tables, y_hat, indexes, order)
    for cut, size in zip(stream.cuts, stream.cut_bytes, strict=True):
        first = order[:cut]
        prefix = stream.prefix(cut)
        decoded = decode_scalable(codec.tables, prefix, indexes, order, cut)
        np.testing.assert_array_equal(decoded, y_hat[first])
        own = encode_y(codec.tables, y_hat, indexes, first)
        assert len(prefix) == size
        assert len(own) <= size <= len(own) + 4
        tail = [c for c in order if c not in first]
        if tail:
            alone = encode_y(codec.tables, y_hat, indexes, tail)
            assert size == len(stream.data) - len(alone) + 8


@pytest.mark.parametrize("only_tails", [False, True])
def test_a_stream_of_other_symbols_is_found_when_it_is_verified(
    codec: Codec, monkeypatch: pytest.MonkeyPatch, *, only_tails: bool
) -> None:
    y_hat, indexes = random_latents(5, 8, 4, 4, reach=300)
    z_symbols = np.ones((128, 1, 2), dtype=np.int32)
    wholes = {
        "128 symbols": lambda **how: encode_y(codec.tables, y_hat, indexes, **how),
        "256 symbols": lambda **how: encode_z(codec.tables, z_symbols, **how),
    }
    order, cuts = range(8), (4, 8)
    tails = {"tail": lambda **_: encode_scalable(codec.tables, y_hat, indexes, order, cuts)}
    assert all(encode(verify=True) == encode() for encode in wholes.values())

    class Faulty(stock.RansEncoder):
        def encode_with_indexes(self, symbols: list[int], *rest: Any) -> bytes:
            sound = only_tails and len(symbols) > 64
            other = symbols if sound else [*symbols[:-1], symbols[-1] + 1]
            return bytes(super().encode_with_indexes(other, *rest))

    monkeypatch.setattr(stock, "RansEncoder", Faulty)
    for what, encode in (tails if only_tails else wholes).items():
        with pytest.raises(IntegrityError, match=rf"not decode to what was encoded \({what}"):
            encode(verify=True)


def test_a_prefix_needs_its_last_word(codec: Codec) -> None:
    y_hat, indexes = random_latents(5, 8, 4, 4)
    stream = encode_scalable(codec.tables, y_hat, indexes, range(8), (4, 8))
    short = decode_scalable(codec.tables, stream.prefix(4)[:-4], indexes, range(8), 4)
    assert (short != y_hat[:4]).any()


def test_a_scalable_stream_knows_its_checksums(codec: Codec) -> None:
    y_hat, indexes = random_latents(6, 8, 4, 4)
    order = [7, 2, 3, 1, 0, 4, 6, 5]
    stream = encode_scalable(codec.tables, y_hat, indexes, order, (2, 8))
    assert stream.symbols_crc32c == (symbols_crc32c(y_hat[order[:2]]), symbols_crc32c(y_hat[order]))
    assert stream.indexes_crc32c[0] == indexes_crc32c(indexes[order[:2]])
    assert stream.bytes_crc32c == (crc32c(stream.prefix(2)), crc32c(stream.data))
    # Independent of the type in which symbols are held.
    assert symbols_crc32c(y_hat) == symbols_crc32c(y_hat.astype(np.int64))


def test_subsets_and_no_channels(codec: Codec) -> None:
    y_hat, indexes = random_latents(8, 6, 4, 4)
    data = encode_y(codec.tables, y_hat, indexes, [5, 0])
    np.testing.assert_array_equal(decode_y(codec.tables, data, indexes, [5, 0]), y_hat[[5, 0]])
    assert encode_y(codec.tables, y_hat, indexes, []) == b""
    assert decode_y(codec.tables, b"", indexes, []).shape == (0, 4, 4)
    assert decode_scalable(codec.tables, b"", indexes, range(6), 0).shape == (0, 4, 4)


@pytest.mark.parametrize("symbols", [1, 2, 3])
def test_fewer_than_four_symbols_never_reach_the_coder(codec: Codec, symbols: int) -> None:
    few = np.zeros((1, 1, symbols), dtype=np.int32)
    message = f"a stream of {symbols} symbols is too short for the coder, which needs 4"
    with pytest.raises(LatentStoreError, match=message):
        encode_y(codec.tables, few, few)
    with pytest.raises(LatentStoreError, match=message):
        decode_y(codec.tables, bytes(16), few)
    # As a tail neither: the prefix before it is then the whole stream.
    y_hat, indexes = random_latents(1, 5, 1, 1)
    stream = encode_scalable(codec.tables, y_hat, indexes, range(5), (2, 4, 5))
    assert stream.cut_bytes == (len(stream.data),) * 3
    few_hyper = made_tables(hyper_channels=3)
    with pytest.raises(LatentStoreError, match="a stream of 3 symbols is too short"):
        encode_z(few_hyper, np.zeros((3, 1, 1), dtype=np.int32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_hat": np.zeros((2, 4, 4))}, r"ŷ must be integers \[channel, y, x\], got float64"),
        ({"y_hat": np.zeros((2, 4), np.int8)}, r"ŷ must be integers \[channel, y, x\], got int8"),
        ({"y_hat": np.zeros((3, 4, 4), np.int8)}, r"ŷ has shape \(3, 4, 4\), its scale indexes"),
        ({"y_hat": np.full((2, 4, 4), 1 << 25)}, "ŷ reaches from 33554432 to 33554432, symbols"),
        ({"indexes": np.full((2, 4, 4), 64)}, "scale indexes reach from 64 to 64, the codec has"),
        ({"indexes": np.full((2, 4, 4), -1)}, "scale indexes reach from -1 to -1"),
        ({"channels": [2]}, r"channels are numbers from 0 to 1, got \[2\]"),
        ({"channels": [0.5]}, r"channels are numbers from 0 to 1, got \[0.5\]"),
        ({"channels": [0, 0]}, r"a channel is given twice in \[0, 0\]"),
    ],
)
def test_what_the_coder_would_not_notice_is_refused(
    codec: Codec, change: dict, message: str
) -> None:
    zeros = np.zeros((2, 4, 4), dtype=np.int32)
    given_values = {"y_hat": zeros, "indexes": zeros, "channels": None, **change}
    with pytest.raises(LatentStoreError, match=message):
        encode_y(codec.tables, *given_values.values())


def test_hyper_symbols_of_another_codec_are_refused(codec: Codec) -> None:
    message = "ẑ has 64 channels, the codec 128; use its own codec"
    with pytest.raises(LatentStoreError, match=message):
        encode_z(codec.tables, np.zeros((64, 1, 1), dtype=np.int32))


@pytest.mark.parametrize(
    ("order", "cuts", "message"),
    [
        ([0, 1], (1,), "the order has 2 channels, ŷ 3; give an order of all of them"),
        ([0, 1, 2], (), r"cuts must rise within 1 to 3, got \[\]"),
        ([0, 1, 2], (0, 2), r"cuts must rise within 1 to 3, got \[0, 2\]"),
        ([0, 1, 2], (2, 2), r"cuts must rise within 1 to 3, got \[2, 2\]"),
        ([0, 1, 2], (4,), r"cuts must rise within 1 to 3, got \[4\]"),
    ],
)
def test_impossible_cuts(codec: Codec, order: list, cuts: tuple, message: str) -> None:
    y_hat, indexes = random_latents(1, 3, 4, 4)
    with pytest.raises(LatentStoreError, match=message):
        encode_scalable(codec.tables, y_hat, indexes, order, cuts)


def test_keep_beyond_the_ranking_or_off_the_cuts(codec: Codec) -> None:
    y_hat, indexes = random_latents(1, 3, 4, 4)
    stream = encode_scalable(codec.tables, y_hat, indexes, range(3), (1, 3))
    with pytest.raises(LatentStoreError, match=r"has cuts at \[1, 3\], not at 2; choose one"):
        stream.prefix(2)
    with pytest.raises(LatentStoreError, match="keep is 4, the ranking has 3 channels"):
        decode_scalable(codec.tables, stream.data, indexes, range(3), 4)


@pytest.mark.parametrize("data", [b"", b"1234567", bytes(64), b"\xff" * 64])
def test_bytes_that_cannot_start_a_stream(codec: Codec, data: bytes) -> None:
    message = f"these {len(data)} bytes are not the start of an entropy-coded stream"
    with pytest.raises(IntegrityError, match=message):
        decode_y(codec.tables, data, np.zeros((1, 4, 4), dtype=np.uint8))


def garbage(rng: np.random.Generator, kind: str, length: int) -> bytes:
    """Bytes behind a state that a stream may start with."""
    state = int(rng.integers(*STATE_RANGE)).to_bytes(8, "little")
    body = {"random": rng.bytes(length), "ones": b"\xff" * length, "zeros": bytes(length)}[kind]
    return state + body


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["random", "ones", "zeros"]),
    length=st.integers(0, 300),
    source=st.sampled_from(["codec", "made"]),
)
def test_damaged_streams_never_read_behind_the_padding(
    codec: Codec, seed: int, kind: str, length: int, source: str
) -> None:
    tables = made_tables(seed) if source == "made" else codec.tables
    rng = np.random.default_rng(seed)
    indexes = rng.integers(0, tables.num_scales, (4, 20, 20)).astype(np.uint8)
    data = garbage(rng, kind, length)
    decoded = _decode(data, indexes, tables.y_coder)  # so few bytes are not decoded otherwise
    # The same with other bytes behind the padding: had they been read, symbols would differ.
    padded = data + bytes(_padding(len(data), indexes.size, tables.y_coder)) + b"\xa5" * 100_000
    again = RansDecoder().decode_with_indexes(padded, indexes.ravel().tolist(), *tables.y_coder)
    np.testing.assert_array_equal(decoded.ravel(), np.array(again, dtype=np.int32))


def test_another_process_decodes_and_survives_damage(tmp_path: Path, codec: Codec) -> None:
    y_hat, indexes = random_latents(11, 6, 8, 8)
    data = encode_y(codec.tables, y_hat, indexes)
    job = (codec.tables, data, indexes, [garbage(np.random.default_rng(1), "random", 500)] * 5)
    (tmp_path / "job").write_bytes(pickle.dumps(job))
    program = (
        "import pickle, sys; from latent_store.codec import decode_y, symbols_crc32c\n"
        "from latent_store.codec.streams import _decode\n"
        "tables, data, indexes, damaged = pickle.load(open(sys.argv[1], 'rb'))\n"
        "[decode_y(tables, bad, indexes) for bad in damaged]\n"
        "[_decode(data[:end], indexes, tables.y_coder) for end in range(8, len(data), 4)]\n"
        "print(symbols_crc32c(decode_y(tables, data, indexes)), tables.sha256)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "job")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.split() == [str(symbols_crc32c(y_hat)), codec.tables.sha256]


def test_tables_round_trip_and_are_told_apart(codec: Codec) -> None:
    arrays = codec.tables.to_arrays()
    again = EntropyTables.from_arrays({**arrays, "something_new": np.zeros(1)})
    assert again.sha256 == codec.tables.sha256 == codec.spec.cdf_sha256
    moved = {**arrays, "z_median": arrays["z_median"] + np.float32(0.001)}
    assert EntropyTables.from_arrays(moved).sha256 != again.sha256
    with pytest.raises(ValueError, match="read-only"):
        again.y_cdf[0, 0] = 1


def test_tables_that_rans_cannot_use_are_refused() -> None:
    good = made_tables().to_arrays()
    cdf = good["y_cdf"].copy()
    cdf[3, 1] = 0
    cases = [
        ({"y_cdf": cdf}, "entropy table 3 of y does not rise from 0 to 65536"),
        ({"z_cdf_length": good["z_cdf_length"] + 1}, "entropy table 0 of z does not rise"),
        ({"y_offset": good["y_offset"][:-1]}, r"entropy tables of y have shapes .* expected"),
        ({"y_cdf": np.zeros((0, 0), dtype=np.int32)}, "entropy tables of y have shapes"),
        ({"y_cdf": good["y_cdf"] * 1.0}, "the entropy table y_cdf has numbers of type float64"),
        ({"z_offset": good["z_offset"] + 2**32}, "z_offset has numbers of type int64, or too la"),
        ({"z_median": good["z_median"] > 0}, "z_median has numbers of type bool"),
        ({"y_offset": good["y_offset"] * 0 - 2**31}, "y_offset has numbers of type int64, or too"),
        ({"z_offset": good["z_offset"] - 2**24}, r"table 2 of z is for symbols from -\d+ on, whic"),
        ({"scale_table": good["scale_table"][::-1]}, "the scale table does not rise"),
        ({"scale_bound": np.array([0.0])}, "its bound 0.0 is not positive"),
        ({"z_median": good["z_median"] * np.nan}, "all finite; restore the codec's tables"),
    ]
    for change, message in cases:
        with pytest.raises(IntegrityError, match=message):
            EntropyTables.from_arrays({**good, **change})
    del good["scale_bound"]
    with pytest.raises(IntegrityError, match="entropy tables lack scale_bound"):
        EntropyTables.from_arrays(good)
    with pytest.raises(IntegrityError, match="has 300 scales, uint8 indexes allow 256"):
        made_tables(scales=300)
