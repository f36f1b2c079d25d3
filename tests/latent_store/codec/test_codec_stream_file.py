"""Stream files: what goes in comes out, and no damage goes unnoticed."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from latent_store.codec import (
    Codec,
    StreamFile,
    codec_from_bytes,
    crc32c,
    cut_stream,
    encode_y,
    load_codec,
    pack_stream,
    read_stream_file,
    unpack_stream,
    write_stream_file,
)
from latent_store.codec.stream_file import MAGIC, PREAMBLE
from latent_store.errors import (
    FormatVersionError,
    IdentityError,
    IntegrityError,
    LatentStoreError,
)
from tests.latent_store.codec.made_codec import random_latents

Pack = Callable[..., StreamFile]
SIZE = (60, 100)
OLD_STREAMS = Path(__file__).parents[1] / "archives/streams_v1"
ORDER = tuple(int(c) for c in np.random.default_rng(2).permutation(192))


@pytest.fixture(scope="module")
def latents(codec: Codec, hyper_symbols: Callable) -> dict[str, np.ndarray]:
    z_symbols = hyper_symbols(1)
    indexes = codec.indexes(z_symbols)[0].numpy()
    y_hat, _ = random_latents(3, *indexes.shape, outliers=0.001)
    return {"y_hat": y_hat, "z_symbols": z_symbols[0].numpy(), "indexes": indexes}


@pytest.fixture(scope="module")
def pack(codec: Codec, latents: dict[str, np.ndarray]) -> Pack:
    def make(selection: str, **options: Any) -> StreamFile:
        values = latents.values()
        return pack_stream(codec, *values, size=SIZE, selection=selection, **options)

    return make


@pytest.mark.parametrize(
    ("selection", "options"),
    [
        ("all", {}),
        ("static", {"channels": ORDER[:16]}),
        ("dynamic", {"channels": sorted(ORDER[:80])}),
        ("dynamic", {"channels": []}),
        ("scalable", {"channels": ORDER, "cuts": (16, 64)}),
    ],
)
def test_round_trip(
    codec: Codec, latents: dict, pack: Pack, tmp_path: Path, selection: str, options: dict
) -> None:
    stream = pack(selection, **options)
    size = write_stream_file(tmp_path / "a.stream", stream)
    assert size == (tmp_path / "a.stream").stat().st_size
    again = read_stream_file(tmp_path / "a.stream")
    assert again == stream
    assert (again.codec_digest, again.num_channels) == (codec.spec.digest, 192)
    decoded = unpack_stream(codec, again)
    channels = list(options.get("channels", range(192)))
    assert list(decoded.channels) == channels
    np.testing.assert_array_equal(decoded.y_hat_KHW, latents["y_hat"][channels])
    full = decoded.full()
    np.testing.assert_array_equal(full[channels], latents["y_hat"][channels])
    assert not np.delete(full, channels, axis=0).any()


def test_bytes_are_counted_by_part(pack: Pack, codec: Codec, latents: dict) -> None:
    chosen = sorted(ORDER[:80])
    stream = pack("dynamic", channels=chosen)
    y = encode_y(codec.tables, latents["y_hat"], latents["indexes"], chosen)
    assert stream.part_bytes == {"mask": 24, "z": len(stream.z), "y": len(y)}
    assert stream.bpp == 8 * (24 + len(stream.z) + len(y)) / (60 * 100)
    assert pack("static", channels=ORDER[:16]).part_bytes["mask"] == 0


def test_a_header_is_tens_of_bytes(pack: Pack) -> None:
    preamble_and_fixed, a_cut, listed = 18 + 31, 16, 1
    for selection, options, expected in (
        ("all", {}, a_cut),
        # The mask replaces the list: nothing else in the file says which channels there are.
        ("dynamic", {"channels": sorted(ORDER[:80])}, a_cut),
        ("static", {"channels": ORDER[:16]}, a_cut + 16 * listed),
        ("scalable", {"channels": ORDER, "cuts": (16, 64)}, 3 * a_cut + 192 * listed),
    ):
        stream = pack(selection, **options)
        header = len(stream.to_bytes()) - sum(stream.part_bytes.values())
        assert header == preamble_and_fixed + expected


@pytest.mark.parametrize("selection", ["all", "static", "dynamic", "scalable"])
def test_files_of_version_1_open_for_ever(selection: str) -> None:
    stream = read_stream_file(OLD_STREAMS / f"{selection}.stream")
    order = tuple((7 * c + 3) % 192 for c in range(192))
    expected = {"all": tuple(range(192)), "static": order[:16], "scalable": order}
    assert stream.channels == expected.get(selection, tuple(sorted(order[:40])))
    assert (stream.height, stream.width, stream.selection) == (40, 70, selection)
    codec = load_codec(demo=True)
    # Checksums of symbols and scale indexes stand in the file.
    assert unpack_stream(codec, stream).y_hat_KHW.any()
    again = stream.to_bytes()
    assert StreamFile.from_bytes(again) == stream
    assert len(again) < (OLD_STREAMS / f"{selection}.stream").stat().st_size - 500


def test_a_scalable_file_is_cut_without_coding_again(
    codec: Codec, latents: dict, pack: Pack
) -> None:
    stream = pack("scalable", channels=ORDER, cuts=(16, 64))
    assert stream.cuts == (16, 64, 192)
    cut = cut_stream(stream, 64)
    assert StreamFile.from_bytes(cut.to_bytes()) == cut
    assert cut.y == stream.y[: stream.cut_bytes[1]]
    for file, keep in ((stream, 16), (stream, 64), (stream, None), (cut, 16), (cut, None)):
        decoded = unpack_stream(codec, file, keep)
        expected = ORDER[: keep or len(file.channels)]
        assert decoded.channels == expected
        np.testing.assert_array_equal(decoded.y_hat_KHW, latents["y_hat"][list(expected)])
    with pytest.raises(LatentStoreError, match=r"has cuts at \[16, 64\], not at 192; choose one"):
        cut_stream(cut, 192)
    with pytest.raises(LatentStoreError, match=r"has cuts at \[16, 64, 192\], not at 32"):
        unpack_stream(codec, stream, 32)


@pytest.fixture(scope="module")
def small_file(small_checkpoint: bytes) -> bytes:
    """A whole file of a small codec, small enough to damage it everywhere."""
    codec = codec_from_bytes(small_checkpoint)
    y_hat, indexes = random_latents(1, 12, 4, 4, outliers=0)
    z_symbols = np.arange(8).reshape(8, 1, 1)
    size, channels = (33, 64), [0, 5, 7]
    stream = pack_stream(
        codec, y_hat, z_symbols, indexes, size=size, selection="dynamic", channels=channels
    )
    return stream.to_bytes()


def test_every_flipped_byte_is_noticed(small_file: bytes) -> None:
    for at in range(len(small_file)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(small_file)
            damaged[at] ^= flip
            with pytest.raises(IntegrityError):
                StreamFile.from_bytes(bytes(damaged))


def test_every_truncation_is_noticed(small_file: bytes) -> None:
    for end in range(len(small_file)):
        with pytest.raises(IntegrityError, match=r"was truncated|is no stream file"):
            StreamFile.from_bytes(small_file[:end])


@settings(deadline=None)
@given(tail=st.binary(min_size=1, max_size=40))
def test_bytes_behind_the_end_are_noticed(small_file: bytes, tail: bytes) -> None:
    message = f"the stream file has {len(tail)} bytes behind its end; copy the file again"
    with pytest.raises(IntegrityError, match=message):
        StreamFile.from_bytes(small_file + tail)


@settings(deadline=None)
@given(data=st.binary(max_size=200))
def test_foreign_files_are_told(data: bytes) -> None:
    assume(not data.startswith(MAGIC))
    with pytest.raises(IntegrityError, match="the stream file is no stream file: it starts with"):
        StreamFile.from_bytes(data)


def test_messages_name_the_file_and_the_part(tmp_path: Path, small_file: bytes) -> None:
    path = tmp_path / "a.stream"
    path.write_bytes(small_file[:-1] + bytes([small_file[-1] ^ 1]))
    with pytest.raises(
        IntegrityError, match=r"behind the header of .*a\.stream has crc32c .* written"
    ):
        read_stream_file(path)
    path.write_bytes(small_file[:40])
    with pytest.raises(IntegrityError, match=r"a\.stream was truncated: 40 bytes where \d+ belong"):
        read_stream_file(path)
    with pytest.raises(LatentStoreError, match=r"there is no stream file .*none"):
        read_stream_file(tmp_path / "none")


def forge(version: int, header: bytes, body: bytes = b"") -> bytes:
    """A file whose header's checksum is right."""
    checksum = crc32c(struct.pack("<HI", version, len(header)) + header)
    return PREAMBLE.pack(MAGIC, version, len(header), checksum) + header + body


def test_a_header_that_is_no_json_although_its_checksum_is_right() -> None:
    with pytest.raises(IntegrityError, match="has a header that cannot be right"):
        StreamFile.from_bytes(forge(1, b"{channels"))


def test_a_newer_version_is_told_from_damage(small_file: bytes) -> None:
    with pytest.raises(FormatVersionError, match="version 3, this library reads 1 to 2; install"):
        StreamFile.from_bytes(forge(3, b"{}"))


@pytest.mark.parametrize(
    "change",
    [
        {"height": 0},
        {"width": "wide"},
        {"selection": "some"},
        {"cuts": [2]},
        {"cut_bytes": []},
        {"symbols_crc32c": []},
        {"codec": {}},
        {"channels": [*range(15), 192]},
        {"channels": [*range(15), 5]},
        {"channels": [*range(15)]},
        {"parts": [[0, 0]]},
    ],
)
def test_headers_that_contradict_themselves(change: dict) -> None:
    old_file = (OLD_STREAMS / "static.stream").read_bytes()
    length = PREAMBLE.unpack_from(old_file)[2]
    start, end = PREAMBLE.size, PREAMBLE.size + length
    header = {**json.loads(old_file[start:end]), **change}
    data = forge(1, json.dumps(header).encode(), old_file[end:])
    with pytest.raises(IntegrityError) as caught:
        StreamFile.from_bytes(data)
    assert "\n" not in str(caught.value)
    with pytest.raises(IntegrityError, match="has a header that cannot be right"):
        StreamFile.from_bytes(forge(1, b"[1]"))


def test_another_codec_another_hyper_stream(
    codec: Codec, small_checkpoint: bytes, pack: Pack
) -> None:
    stream = pack("all")
    with pytest.raises(IdentityError, match="the stream file is of the codec with digest"):
        unpack_stream(codec_from_bytes(small_checkpoint), stream)
    other = dataclasses.replace(stream, indexes_crc32c=(1,))
    with pytest.raises(IntegrityError, match="the scale indexes of the stream file have crc32c"):
        unpack_stream(codec, other)
    other = dataclasses.replace(stream, symbols_crc32c=(1,))
    with pytest.raises(IntegrityError, match="the decoded symbols of the stream file have crc32c"):
        unpack_stream(codec, other)


@pytest.mark.parametrize(
    ("selection", "options"),
    [
        ("all", {"channels": [1]}),
        ("static", {}),
        ("scalable", {"channels": ORDER}),
        ("static", {"channels": [1], "cuts": (1,)}),
    ],
)
def test_arguments_that_contradict_the_selection(pack: Pack, selection: str, options: dict) -> None:
    with pytest.raises(LatentStoreError, match="give channels for all but 'all', cuts for 'scal"):
        pack(selection, **options)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, pack: Pack) -> None:
    with pytest.raises(FileNotFoundError):
        write_stream_file(tmp_path / "none" / "a.stream", pack("all"))
    assert list(tmp_path.iterdir()) == []
