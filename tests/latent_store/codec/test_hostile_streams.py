"""Streams and headers with right checksums that somebody made up: bounded, and refused by name."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from latent_store.codec import (
    Codec,
    EntropyTables,
    StreamFile,
    codec_from_bytes,
    crc32c,
    decode_y,
    decode_z,
    encode_y,
    image_to_tensor,
    load_codec,
    pack_stream,
    read_stream_file,
    streams,
    unpack_stream,
    write_stream_file,
)
from latent_store.codec.stock import RansDecoder
from latent_store.codec.stream_file import MAGIC, PREAMBLE
from latent_store.codec.streams import _most_bytes, _padding
from latent_store.codec.tables import CoderTables
from latent_store.errors import CapacityError, IdentityError, IntegrityError, LatentStoreError
from tests.latent_store.codec.made_codec import (
    STOCK,
    made_tables,
    make_model,
    random_latents,
    save,
)

OLD_STREAMS = Path(__file__).parents[1] / "archives/streams_v1"
VALUES = (
    *(None, True, 0, 1, -1, 64, 12000, 2**31, 2**32, 2**63, 10**30, -(2**31), 0.5),
    *(float("nan"), float("inf"), "", "x", "static", "dynamic", "\0", "é" * 300),
    *([], [0], [[]], [[1, 2]], [1, 2, 3], {}, {"a": 1}, [None], [True], ["a"], [-1], [2**40]),
)


@contextlib.contextmanager
def counted(found: Counter[str]) -> Iterator[None]:
    """Counts what a block comes to: "read", or the kind of an error of one short line."""
    said = ""
    try:
        yield
    except LatentStoreError as error:
        found[type(error).__name__] += 1
        said = str(error)
    else:
        found["read"] += 1
    assert len(said) < 800
    assert "\n" not in said


@pytest.fixture(scope="module", params=list(STOCK))
def small(request: pytest.FixtureRequest) -> Codec:
    return codec_from_bytes(save(make_model(8, 12, request.param).state_dict()))


@pytest.fixture(scope="module")
def files(small: Codec) -> list[StreamFile]:
    z_symbols = np.arange(8).reshape(8, 1, 1)
    indexes = small.indexes(torch.from_numpy(z_symbols)[None])[0].numpy()
    y_hat = random_latents(1, *indexes.shape, outliers=0)[0] % 3
    choices: list[dict[str, Any]] = [
        {"selection": "all"},
        {"selection": "dynamic", "channels": [0, 5, 7]},
        {"selection": "scalable", "channels": range(12), "cuts": (2, 6)},
    ]
    return [
        pack_stream(small, y_hat, z_symbols, indexes, size=(33, 64), **chosen) for chosen in choices
    ]


def split(data: bytes) -> tuple[bytes, bytes]:
    """A file's header, and what stands behind it."""
    end = PREAMBLE.size + PREAMBLE.unpack_from(data)[2]
    return data[PREAMBLE.size : end], data[end:]


def forge(version: int, header: bytes, body: bytes) -> bytes:
    """A file whose header's checksum is right."""
    checksum = crc32c(struct.pack("<HI", version, len(header)) + header)
    return PREAMBLE.pack(MAGIC, version, len(header), checksum) + header + body


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Where something stands in a header."""
    inner = value if isinstance(value, dict) else range(min(len(value), 4))
    found = []
    for key in inner:
        found.append((*path, key))
        if isinstance(value[key], dict | list):
            found += places(value[key], found[-1])
    return found


def change(header: dict, rng: random.Random) -> None:
    """Drops, replaces, repeats or turns round one value."""
    *path, last = rng.choice(places(header))
    holder: Any = header
    for key in path:
        holder = holder[key]
    kind, value = rng.random(), holder[last]
    if kind < 0.15:
        del holder[last]
    elif kind < 0.4 and isinstance(value, list):
        holder[last] = rng.choice([value * 2, value[::-1], value[:-1], [*value, *value[:1]]])
    else:
        holder[last] = json.loads(json.dumps(rng.choice(VALUES)))


def test_altered_headers_of_version_1_with_right_checksums_are_read_or_refused() -> None:
    codec = load_codec(demo=True)
    old_files = [path.read_bytes() for path in sorted(OLD_STREAMS.glob("*.stream"))]
    rng = random.Random(0)
    found: Counter[str] = Counter()
    for _ in range(2000):
        text, body = split(rng.choice(old_files))
        header = json.loads(text)
        for _ in range(rng.choice([1, 1, 2])):
            change(header, rng)
        data = forge(1, json.dumps(header).encode(), body)
        with counted(found):
            stream = StreamFile.from_bytes(data)
            codec.spec.require_digest(stream.codec_digest, "the stream file")
    # What is still read had another note of origin, quality or ranking.
    assert set(found) <= {"read", "IntegrityError", "IdentityError", "CapacityError"}
    assert found["IntegrityError"] > 1000
    assert found["read"] < 800


def test_altered_headers_with_right_checksums_are_read_or_refused(
    small: Codec, files: list[StreamFile]
) -> None:
    rng = random.Random(0)
    found: Counter[str] = Counter()
    for _ in range(2000):
        file = rng.choice(files)
        header, body = bytearray(split(file.to_bytes())[0]), split(file.to_bytes())[1]
        for _ in range(rng.choice([1, 1, 2])):
            header[rng.randrange(len(header))] = rng.choice(
                [0, 1, 127, 128, 255, rng.randrange(256)]
            )
        if rng.random() < 0.2:
            header = header[: rng.randrange(len(header))] + bytes(rng.randrange(3))
        with counted(found):
            unpack_stream(small, StreamFile.from_bytes(forge(2, bytes(header), body)))
    # What is still read had the same byte there, or another size of the same latents.
    assert set(found) <= {"read", "IntegrityError", "IdentityError", "CapacityError"}
    assert found["IntegrityError"] > 1000
    assert found["read"] < 500


@pytest.mark.parametrize("order", [b"", bytes(200_000), bytes(range(12)) * 2])
@pytest.mark.parametrize("flag", [0, 128])
def test_a_made_up_order_is_refused_in_a_line(
    files: list[StreamFile], order: bytes, flag: int
) -> None:
    header, body = split(files[-1].to_bytes())
    header = bytes([header[0] | flag]) + header[1:-12] + order
    with pytest.raises(IntegrityError, match="has a header that cannot be right") as caught:
        StreamFile.from_bytes(forge(2, header, body))
    assert len(str(caught.value)) < 250


def test_a_deep_header_is_refused() -> None:
    with pytest.raises(IntegrityError, match="has a header that cannot be right"):
        StreamFile.from_bytes(forge(1, b"[" * 100_000, b""))


@pytest.mark.parametrize("size", [(12000, 12000), (64, 2**21), (4000, 4000)])
def test_a_short_stream_that_claims_a_large_picture(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = load_codec(demo=True)
    file = _coded(codec, np.full((64, 64, 3), 90, np.uint8))
    claimed = dataclasses.replace(file, height=size[0], width=size[1])
    # Nothing of it is decoded.
    monkeypatch.setattr(streams, "_decode", None)
    with pytest.raises(IntegrityError, match=r"these \d+ bytes cannot hold the symbols of such a"):
        unpack_stream(codec, StreamFile.from_bytes(claimed.to_bytes()))


def test_a_picture_has_a_limit_that_a_caller_can_raise(files: list[StreamFile], tmp_path) -> None:
    path = tmp_path / "a.stream"
    write_stream_file(path, dataclasses.replace(files[0], height=20_000, width=20_000))
    message = r"holds a picture of 20000x20000, coded at 20032x20032, and at most 268435456 pixels"
    with pytest.raises(CapacityError, match=message):
        read_stream_file(path)
    assert read_stream_file(path, max_pixels=20_032**2).height == 20_000


def test_a_constant_picture_is_no_attack() -> None:
    codec = load_codec(demo=True)
    for value in (0, 128, 255):
        file = _coded(codec, np.full((512, 512, 3), value, np.uint8))
        assert unpack_stream(codec, StreamFile.from_bytes(file.to_bytes())).y_hat_KHW.size


def test_a_million_symbols_that_cost_next_to_nothing_fit_into_twelve_bytes() -> None:
    tables = _tables([[0, 65535, 65536]] * 2)
    y_hat = np.zeros((1, 1000, 1000), dtype=np.int32)
    data = encode_y(tables, y_hat, y_hat)
    assert len(data) <= 12
    np.testing.assert_array_equal(decode_y(tables, data, y_hat), y_hat)
    with pytest.raises(IntegrityError, match=r"these \d+ bytes cannot hold the symbols of such"):
        decode_y(tables, data, np.zeros((1, 3000, 3000), dtype=np.uint8))


def test_what_ten_bytes_of_a_hyper_stream_may_claim() -> None:
    tables = made_tables()
    data = (1 << 40).to_bytes(10, "little")
    with pytest.raises(IntegrityError, match="these 10 bytes cannot hold the symbols of such a pi"):
        decode_z(tables, data, 10**9, 10**9)


def test_of_zeros_behind_the_end_the_decoder_takes_no_more_than_the_padding() -> None:
    """Tables and indexes that somebody chose so that every symbol reads as far as it can."""
    cdf = [[0, max(1, min(65535, int(1.045**i) + i)), 65536] for i in range(250)]
    tables = _tables(cdf).y_coder
    rng = random.Random(1)
    start = rng.randrange(1 << 31, 1 << 63)
    state, words, indexes = start, 0, []
    for _ in range(120):
        steps = [(*_step(state, row), index) for index, row in enumerate(tables.cdf)]
        state, read, index = max(steps, key=lambda step: _greed(step[0], step[1]))
        words += read
        indexes.append(index)
    data = (start & 0xFFFFFFFF).to_bytes(4, "little") + (start >> 32).to_bytes(4, "little")
    # More than the 8 bytes a symbol that seem enough, less than what the tables allow.
    assert 8 < 4 * words / len(indexes) < _most_bytes(tables)
    assert 4 * words <= _padding(len(data), len(indexes), tables)
    # The real decoder reads as far: another byte behind that changes nothing, one before does.
    padded = data + bytes(4 * words)
    values = RansDecoder().decode_with_indexes(padded + b"\xff" * 64, indexes, *tables)
    assert values == RansDecoder().decode_with_indexes(padded + bytes(64), indexes, *tables)


@pytest.mark.parametrize(
    ("escape", "expected"), [(1, 14), (2, 18), (32, 21), (152, 21), (2000, 25), (65535, 29)]
)
def test_padding_depends_on_how_likely_escapes_are(escape: int, expected: int) -> None:
    tables = CoderTables([[0, 65536 - escape, 65536]], [3], [0])
    assert _most_bytes(tables) == expected


def test_a_codec_of_other_sizes_is_told(small: Codec, files: list[StreamFile]) -> None:
    other = dataclasses.replace(small.spec, weights_sha256="0" * 64).digest
    with pytest.raises(IdentityError, match=f"is of the codec with digest {other.hex()}, and"):
        unpack_stream(small, dataclasses.replace(files[0], codec_digest=other))


def _coded(codec: Codec, image: np.ndarray) -> StreamFile:
    latents = codec.encode(image_to_tensor(image))
    indexes = codec.indexes(latents.z_symbols_BNHW)[0].numpy()
    symbols = (latents.y_hat_BCHW[0].numpy(), latents.z_symbols_BNHW[0].numpy(), indexes)
    return pack_stream(codec, *symbols, size=image.shape[:2], selection="all")


def _tables(rows: list[list[int]]) -> EntropyTables:
    arrays = made_tables(scales=len(rows)).to_arrays()
    count = len(rows)
    return EntropyTables.from_arrays(
        {
            **arrays,
            "y_cdf": np.array(rows, dtype=np.int32),
            "y_cdf_length": np.full(count, len(rows[0]), dtype=np.int32),
            "y_offset": np.zeros(count, dtype=np.int32),
        }
    )


def _step(state: int, cdf: list[int]) -> tuple[int, int]:
    """The state after one symbol as CompressAI's decoder counts, and the zero words it reads."""
    words = 0

    def refill(state: int) -> int:
        nonlocal words
        words += state < 1 << 31
        return state << 32 if state < 1 << 31 else state

    low = state & 0xFFFF
    symbol = max(i for i, start in enumerate(cdf[:-1]) if start <= low)
    state = refill((cdf[symbol + 1] - cdf[symbol]) * (state >> 16) + low - cdf[symbol])
    if symbol == len(cdf) - 2:
        digits, last = 0, 15
        while last == 15:
            last, state = state & 15, refill(state >> 4)
            digits += last
        for _ in range(digits):
            state = refill(state >> 4)
    return state, words


def _greed(state: int, words: int) -> float:
    """How promising a state is: words read, and not many zeros at its end, but many bits."""
    zeros = (state & -state).bit_length() - 1
    return words - 0.15 * zeros + 0.075 * (state.bit_length() - 31)
