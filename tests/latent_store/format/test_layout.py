"""Layout arithmetic holds for every size, not for the usual ones only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latent_store.components.latents import latents_spec
from latent_store.errors import CapacityError
from latent_store.format import layout, schema
from latent_store.format.schema import ArraySpec

SIDES = st.integers(1, 3000)


@given(SIDES, SIDES)
def test_coded_size_is_the_next_multiple_of_64(height: int, width: int) -> None:
    for side, coded in zip((height, width), layout.coded_size(height, width), strict=True):
        assert coded % 64 == 0
        assert 0 <= coded - side < 64


def test_coded_size_refuses_an_empty_picture() -> None:
    with pytest.raises(CapacityError, match="at least one pixel a side, got 0x5"):
        layout.coded_size(0, 5)


@given(st.lists(st.integers(0, 200), min_size=0, max_size=60))
def test_runs_give_back_the_rows_in_order(rows: list[int]) -> None:
    found = layout.runs(rows)
    assert [row for start, stop in found for row in range(start, stop)] == rows
    assert all(start < stop for start, stop in found)


@given(st.integers(0, 10_000), st.integers(1, 64))
def test_every_row_lies_in_its_shard(row: int, size: int) -> None:
    shard = layout.shard_of(row, size)
    assert shard * size <= row < (shard + 1) * size
    assert shard < layout.num_shards(row + 1, size)


@given(st.tuples(SIDES, SIDES), st.tuples(st.integers(1, 256), st.integers(1, 256)))
def test_shards_hold_whole_inner_chunks(shape: tuple[int, int], inner: tuple[int, int]) -> None:
    spec = ArraySpec(name="a", dtype="uint8", shape=shape, dims=("y", "x"), inner=inner)
    chunks, shards = layout.chunk_shapes(spec, 4)
    assert shards is not None
    assert shards[0] == 4
    assert all(s % c == 0 and s >= n for s, c, n in zip(shards[1:], chunks[1:], shape, strict=True))


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=12))
def test_packed_bytes_unpack(parts: list[bytes]) -> None:
    flat, offset, length = layout.pack_bytes(parts, 1000)
    again = [flat[o : o + n].tobytes() for o, n in zip(offset, length, strict=True)]
    assert again == parts


def test_packing_too_much_is_refused_with_both_numbers() -> None:
    with pytest.raises(CapacityError, match="take 30 bytes, more than the 20 planned"):
        layout.pack_bytes([bytes(10)] * 3, 20)


@pytest.mark.parametrize("window", [(-1, 0, 4, 4), (0, 0, 0, 4), (5, 0, 4, 4), (0, 6, 4, 4)])
def test_a_window_outside_the_plane_is_refused(window: tuple[int, int, int, int]) -> None:
    with pytest.raises(CapacityError, match="leaves the plane of 8x8"):
        layout.window_or_all(window, 8, 8)


def test_stream_capacity_covers_the_costliest_symbols() -> None:
    spec = schema.CodecSpec(
        codec_id="c",
        architecture="a",
        weights_sha256="w",
        cdf_sha256="t",
        channels=192,
        hyper_channels=128,
    )
    y, z = latents_spec(spec, 64, 64).streams
    assert y.capacity >= 6 * 192 * 16
    assert z.capacity >= 6 * 128
    assert np.dtype(latents_spec(spec, 64, 64).arrays[0].dtype) == np.int16
