"""Made latents, written by the real writer: any size and dtype, in seconds, without a codec."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from latent_store.catalogue import codecs
from latent_store.components import creation, finalize
from latent_store.components.latents import latents_spec
from latent_store.components.writer import ShardWriter
from latent_store.format.plan import ShardPlan, make_plan
from latent_store.format.plan_files import write_plan
from latent_store.format.schema import CodecSpec
from latent_store.shards.receipts import FAILED, RowRecord
from latent_store.storage.location import Location
from tests.latent_store.format.test_plan import samples

MakeRow = Callable[[int], np.ndarray | None]
"""Row number -> ŷ `[C, h, w]`, or None for a row that failed."""
SPLIT = "cityscapes/train"


def write_latents(
    url: Path,
    make_row: MakeRow,
    *,
    channels: int,
    counts: tuple[int, ...],
    samples_per_shard: int,
    size: tuple[int, int],
    dtype: str,
) -> None:
    """Writes a store whose only component is latents.

    Args:
        url: Where.
        make_row: Makes ŷ. Its stream, which nothing decodes, has one byte a channel.
        channels: M.
        counts: Samples of the first job and of each append, which starts at a new shard.
        samples_per_shard: Rows of a shard.
        size: Of the pictures, in pixels.
        dtype: Of ŷ.
    """
    location = Location(url)
    creation.create_store(location)
    codec = CodecSpec(
        codec_id="made",
        architecture="made",
        weights_sha256=hashlib.sha256(b"").hexdigest(),
        cdf_sha256="0" * 64,
        channels=channels,
        hyper_channels=1,
    )
    codecs.register_codec(location, codec, {}, b"")
    plan = _plan(counts, samples_per_shard, size)
    write_plan(location, plan)
    spec = latents_spec(codec, *plan.canvas, dtype)
    creation.create_component(location, plan, spec)
    writer = ShardWriter(location, plan, spec)
    for shard in range(plan.num_shards):
        _write_shard(writer, shard, make_row)
    finalize.finalize(location, SPLIT, spec.key, max_failures=len(plan.rows))


def _plan(counts: tuple[int, ...], samples_per_shard: int, size: tuple[int, int]) -> ShardPlan:
    first, *appended = np.cumsum(counts).tolist()
    plan = make_plan("cityscapes", "train", samples(first, size=size), samples_per_shard)
    for total in appended:
        plan = plan.extended(samples(total, size=size))
    return plan


def _write_shard(writer: ShardWriter, shard: int, make_row: MakeRow) -> None:
    planned = writer.plan.in_shard(shard)
    made = {row: make_row(row) for row, _ in planned}
    y_hat = {row: value for row, value in made.items() if value is not None}
    columns = {
        "y_hat": y_hat,
        "channel_bits": {row: np.full(len(value), 8.0) for row, value in y_hat.items()},
        "channel_mean": {row: value.mean((1, 2)) for row, value in y_hat.items()},
        "channel_rms": {
            row: np.sqrt(np.square(value, dtype=np.float64).mean((1, 2)))
            for row, value in y_hat.items()
        },
        "hyper_bits": {row: np.float32(0) for row in y_hat},
        "overhead_bits": {row: np.float32(0) for row in y_hat},
    }
    streams = {
        "bitstream/y": {row: bytes(range(len(value))) for row, value in y_hat.items()},
        "bitstream/z": dict.fromkeys(y_hat, b""),
    }
    # A digest of the picture is what the samples table is made of; labels bring it otherwise.
    stats = {"image_sha256": "0" * 64}
    records = [
        RowRecord(row=row, sample_id=sample.sample_id, stats=stats)
        if row in y_hat
        else RowRecord(
            row=row,
            sample_id=sample.sample_id,
            status=FAILED,
            reason="made to fail",
            stats=stats,
        )
        for row, sample in planned
    ]
    writer.write(shard, columns, streams, records)
