"""What was tried for ŷ: compressors, integer types and inner chunks, by bytes and time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

from latent_store.console import progress
from latent_store.format.schema import CHANNEL_GROUP
from tests.benchmarks.bench import Bench

HEADER = (
    *("channels", "dtype", "codec", "inner chunk", "× bitstream"),
    *("write [ms]", "read 16 [ms]", "read all [ms]"),
)
BATCH = 8
"""Images read at once; times are of one image."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One way to store ŷ.

    Attributes:
        ranked: Channels in order of importance, else in the codec's.
        group: Channels in an inner chunk.
        channels_last: Chunks are transposed to `[y, x, channel]` before they are compressed.
    """

    name: str
    dtype: str
    codec: Any
    ranked: bool = True
    group: int = CHANNEL_GROUP
    channels_last: bool = False

    def create(self, path: Path, images: int, plane: tuple[int, int], channels: int) -> zarr.Array:
        """Returns an empty array whose one shard holds every image."""
        transpose = [TransposeCodec(order=(0, 2, 3, 1))] if self.channels_last else []
        return zarr.create_array(
            path,
            shape=(images, channels, *plane),
            dtype=self.dtype,
            chunks=(1, min(self.group, channels), *plane),
            shards=(images, channels, *plane),
            filters=transpose,
            compressors=(self.codec, Crc32cCodec()),
            fill_value=0,
        )


@dataclass(frozen=True, kw_only=True)
class TrialCost:
    """What one trial took; times in milliseconds an image."""

    trial: Trial
    ratio: float
    write_ms: float
    read_few_ms: float
    read_all_ms: float

    def cells(self) -> tuple[str, ...]:
        """Returns the table's row."""
        chunk = f"{self.trial.group} channels" + (", last" if self.trial.channels_last else "")
        times = (self.write_ms, self.read_few_ms, self.read_all_ms)
        numbers = (f"{self.ratio:.3f}", *(f"{ms:.2f}" for ms in times))
        order = "ranked" if self.trial.ranked else "natural"
        return order, self.trial.dtype, self.trial.name, chunk, *numbers


def trials(channels: int) -> list[Trial]:
    """Returns every codec with both types, and other chunks for the two that are in use.

    The first 16 channels are those that a network reads only where channels are ranked.
    """
    tried = {
        "zstd-3": ZstdCodec(level=3),
        "zstd-9": ZstdCodec(level=9),
        "zstd-19": ZstdCodec(level=19),
        "zstd-22": ZstdCodec(level=22),
        "blosc-zstd-bitshuffle-9": _blosc("zstd", "bitshuffle"),
        "blosc-zstd-noshuffle-9": _blosc("zstd", "noshuffle"),
        "blosc-lz4-bitshuffle-9": _blosc("lz4", "bitshuffle"),
        "gzip-6": GzipCodec(level=6),
    }
    every = [
        Trial(name=name, dtype=dtype, codec=codec)
        for dtype in ("int8", "int16")
        for name, codec in tried.items()
    ]
    used = (("int8", "zstd-19"), ("int16", "blosc-zstd-bitshuffle-9"))
    others = [
        Trial(name=name, dtype=dtype, codec=tried[name], group=group, channels_last=last)
        for dtype, name in used
        for group, last in ((CHANNEL_GROUP, True), (4 * CHANNEL_GROUP, False), (channels, False))
    ]
    natural = [
        Trial(name=name, dtype=dtype, codec=tried[name], ranked=False, channels_last=last)
        for dtype, name in used
        for last in (False, True)
    ]
    return [*every, *others, *natural]


def measure_trials(bench: Bench, work: Path, images: int) -> list[TrialCost]:
    """Writes and reads the first images of every codec in every way."""
    blocks = {
        ranked: [_block(bench, codec_id, images, ranked=ranked) for codec_id in bench.codec_ids]
        for ranked in (True, False)
    }
    tried = trials(blocks[True][0][0].shape[1])
    return [
        _cost(trial, blocks[trial.ranked], work / str(number))
        for number, trial in enumerate(progress(tried, desc="compressors", unit="trial"))
    ]


def _block(bench: Bench, codec_id: str, images: int, *, ranked: bool) -> tuple[np.ndarray, int]:
    """Returns ŷ `[n, M, h, w]` of one codec, and the bytes of its bitstreams."""
    latents, rows = next(bench.latents(codec_id))
    rows = rows[:images]
    reader = (
        bench.store[latents.plan.name].ranked(bench.ranking_id, codec_id) if ranked else latents
    )
    streams = sum(int(part.sum()) for part in latents.stream_bytes(rows).values())
    return reader.read(rows), streams


def _cost(trial: Trial, blocks: Sequence[tuple[np.ndarray, int]], folder: Path) -> TrialCost:
    stored = streams = images = 0
    write = few = everything = 0.0
    for number, (block, stream_bytes) in enumerate(blocks):
        path = folder / str(number)
        array = trial.create(path, len(block), block.shape[2:], block.shape[1])
        write += _seconds(lambda a=array, b=block: a.__setitem__(slice(None), b))
        few += _read(array, CHANNEL_GROUP)
        everything += _read(array, block.shape[1])
        assert np.array_equal(array[:], block)
        stored += sum(file.stat().st_size for file in (path / "c").rglob("*") if file.is_file())
        streams += stream_bytes
        images += len(block)
    return TrialCost(
        trial=trial,
        ratio=stored / streams,
        write_ms=1000 * write / images,
        read_few_ms=1000 * few / images,
        read_all_ms=1000 * everything / images,
    )


def _read(array: zarr.Array, channels: int) -> float:
    starts = range(0, array.shape[0], BATCH)
    return sum(_seconds(lambda s=start: array[s : s + BATCH, :channels]) for start in starts)


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _blosc(cname: str, shuffle: str) -> BloscCodec:
    return BloscCodec(cname=cname, clevel=9, shuffle=shuffle)
