"""Makes a small complete store with a past, in seconds: two made codecs, labels, features,
latents, one ranked copy. Pictures, labels and features are made numbers; the codec and every
function that writes are the real ones.

The past is what stale copies come from: the store began with three samples of which one failed,
was mended and appended to, and its ranking was made again. Row 3 is void.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

import latent_store
from latent_store.catalogue import codecs
from latent_store.catalogue.rankings import Ranking, make_cuts, write_ranking
from latent_store.codec import (
    Codec,
    codec_from_bytes,
    decode_z,
    pack_stream,
    write_stream_file,
)
from latent_store.components import creation
from latent_store.components.features import teacher_spec
from latent_store.components.finalize import finalize
from latent_store.components.labels import labels_spec
from latent_store.components.latents import latents_spec
from latent_store.components.ranked import ranked_spec
from latent_store.components.writer import ShardWriter
from latent_store.format import schema
from latent_store.format.plan import ShardPlan, make_plan
from latent_store.format.plan_files import write_plan
from latent_store.format.samples import Sample
from latent_store.format.schema import ComponentSpec
from latent_store.shards.receipts import FAILED, RowRecord
from latent_store.storage.location import Location
from latent_store.tools.decode import decode_gaussians
from pipelines.jobs.component_job import Encoded
from pipelines.jobs.encoding import encode_latents
from pipelines.jobs.reordering import reorder_row
from tests.latent_store.codec.made_codec import make_model, save

DATASET, RANKING = "made", "importance"
HEIGHT, WIDTH = 100, 150
CANVAS = (128, 192)
SAMPLES_PER_SHARD = 2
FEATURES = 6
CODECS = ((8, 40), (8, 24))
"""N and M of the codecs; the first one's latents are ranked."""
LOUDER = 30
BAD = 1
"""The sample of `train` that failed at first; mended, it has another height."""

Rows = Callable[[int, Sample], Encoded | None]
"""Row and sample -> what is written; None: it failed."""


def make_store(
    root: Path,
    past: Path | None = None,
    sizes: Sequence[tuple[int, int]] = CODECS,
    architecture: str = "bmshj2018-hyperprior",
) -> Path:
    """Makes the store `root/made.zarr` and stream files in `root/streams`.

    Args:
        root: An existing folder.
        past: Where a copy of the store is put as it was before it was mended and appended to.
        sizes: N and M of the codecs.
        architecture: Of the codecs.

    Returns:
        The store's path.
    """
    url = root / "made.zarr"
    location = Location(url)
    creation.create_store(location)
    made = [_make_codec(*size, architecture) for size in sizes]
    _write_split(location, make_plan(DATASET, "val", _samples(2), SAMPLES_PER_SHARD), made[:1], 50)
    plan = make_plan(DATASET, "train", _samples(3, mended=False), SAMPLES_PER_SHARD)
    _write_split(location, plan, made, 0, bad={BAD})
    _write_ranked(location, plan, made[0], seed=1)
    if past is not None:
        shutil.copytree(url, past)
    plan = plan.extended(_samples(5), mended={f"s{BAD}"})
    _write_split(location, plan, made, 0)
    _write_ranked(location, plan, made[0], seed=2)
    (root / "streams").mkdir()
    _export(url, made[0], root / "streams")
    return url


def made_picture(seed: int, height: int, width: int) -> np.ndarray:
    """Returns a smooth picture with some noise, uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 90 * np.sin(x / (5 + c) + seed) * np.cos(y / (7 + c)) for c in range(3)]
    noisy = np.stack(waves, axis=2) + rng.normal(scale=20, size=(height, width, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _make_codec(hyper_channels: int, channels: int, architecture: str) -> Codec:
    """Returns a made codec with louder analysis: fresh weights alone round everything to 0."""
    model = make_model(hyper_channels, channels, architecture)
    with torch.no_grad():
        model.g_a[-1].weight.mul_(LOUDER)
        model.h_a[-1].weight.mul_(LOUDER)
    return codec_from_bytes(save(model.state_dict()))


def _samples(count: int, *, mended: bool = True) -> list[Sample]:
    samples = [
        Sample(
            sample_id=f"s{i}",
            image_uri=f"{i}.png",
            label_uri=f"{i}_labels.png",
            height=HEIGHT,
            width=WIDTH,
            image_bytes=1000 + i,
        )
        for i in range(count)
    ]
    if not mended:
        samples[BAD] = dataclasses.replace(samples[BAD], height=HEIGHT - 5, image_bytes=7)
    return samples


def _write_split(
    location: Location,
    plan: ShardPlan,
    made: list[Codec],
    first_seed: int,
    bad: frozenset[int] | set[int] = frozenset(),
) -> None:
    write_plan(location, plan)

    def seed(sample: Sample) -> int:
        return first_seed + int(sample.sample_id[1:])

    def whole(make: Rows) -> Rows:
        return lambda row, sample: None if row in bad else make(row, sample)

    labels = labels_spec(*CANVAS)
    _write(location, plan, labels, whole(lambda _, s: _labels(s, seed(s))))
    checkpoint = f"teacher {first_seed}".encode() * 50
    teacher_id = f"made-{hashlib.sha256(checkpoint).hexdigest()[:8]}"
    codecs.register_teacher(location, teacher_id, checkpoint)
    teacher = teacher_spec(teacher_id, *CANVAS, FEATURES)
    _write(location, plan, teacher, whole(lambda _, s: _features(seed(s))))
    for codec in made:
        tables = codec.tables.to_arrays()
        codecs.register_codec(location, codec.spec, tables, codec.checkpoint_bytes)
        latents = latents_spec(codec.spec, *CANVAS, "int16")

        def encode(_: int, sample: Sample, codec: Codec = codec) -> Encoded:
            picture = made_picture(seed(sample), sample.height, sample.width)
            return encode_latents(codec, picture, measure_psnr=True)

        _write(location, plan, latents, whole(encode))


def _write_ranked(location: Location, plan: ShardPlan, codec: Codec, seed: int) -> None:
    channels = codec.spec.channels
    rng = np.random.default_rng(seed)
    ranking = Ranking(
        ranking_id=RANKING,
        codec_id=codec.spec.codec_id,
        method="random",
        order=tuple(rng.permutation(channels).tolist()),
        cuts=make_cuts([8, 20], channels),
        score=tuple(rng.random(channels).tolist()),
        tied_at_cut={8: 0, 20: 0, channels: 0},
        num_samples=3,
        dataset=DATASET,
        split="train",
        seed=seed,
    )
    write_ranking(location, ranking, overwrite=True)
    spec = ranked_spec(codec.spec, RANKING, ranking.order, ranking.cuts, CANVAS, dtype="int16")
    location.delete_tree(f"{plan.name}/{spec.key}")
    latents = latent_store.open(location.url)[plan.name].latents(codec.spec.codec_id)
    usable = set(latents.rows.tolist())

    def reorder(row: int, _: Sample) -> Encoded | None:
        if row not in usable:
            return None
        return reorder_row(codec, latents, row, latents.read([row])[0], ranking)

    _write(location, plan, spec, reorder)


def _write(location: Location, plan: ShardPlan, spec: ComponentSpec, rows: Rows) -> None:
    creation.create_component(location, plan, spec)
    writer = ShardWriter(location, plan, spec)
    for shard in range(plan.num_shards):
        made = {row: (sample, rows(row, sample)) for row, sample in plan.in_shard(shard)}
        good = {row: encoded for row, (_, encoded) in made.items() if encoded is not None}
        columns: Mapping[str, dict[int, np.ndarray]] = {
            array.name: {row: encoded.arrays[array.name] for row, encoded in good.items()}
            for array in spec.arrays
        }
        streams = {
            stream.name: {row: encoded.streams[stream.name] for row, encoded in good.items()}
            for stream in spec.streams
        }
        records = [_record(row, sample, encoded) for row, (sample, encoded) in made.items()]
        writer.write(shard, columns, streams, records)
    finalize(location, plan.name, spec.key, max_failures=1)


def _record(row: int, sample: Sample, encoded: Encoded | None) -> RowRecord:
    if encoded is None:
        return RowRecord(row=row, sample_id=sample.sample_id, status=FAILED, reason="truncated")
    return RowRecord(row=row, sample_id=sample.sample_id, stats=encoded.stats)


def _labels(sample: Sample, seed: int) -> Encoded:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 19, (CANVAS[0] // 8, CANVAS[1] // 8)).astype(np.uint8)
    labels_HW = np.kron(blocks, np.ones((8, 8), dtype=np.uint8))
    labels_HW[sample.height :] = schema.IGNORE_LABEL
    labels_HW[:, sample.width :] = schema.IGNORE_LABEL
    digest = hashlib.sha256(f"picture {seed}".encode()).hexdigest()
    return Encoded(arrays={"segmentation": labels_HW}, stats={"image_sha256": digest})


def _features(seed: int) -> Encoded:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (FEATURES, CANVAS[0] // 4, CANVAS[1] // 4))
    scale = rng.random(FEATURES).astype(np.float32)
    return Encoded(arrays={"features": values.astype(np.uint8), "feature_scale": scale})


def _export(url: Path, codec: Codec, folder: Path) -> None:
    split = latent_store.open(url)[f"{DATASET}/train"]
    latents = split.latents(codec.spec.codec_id)
    ranking = split.store.ranking(codec.spec.codec_id, RANKING)
    hyper = (CANVAS[0] // schema.HYPER_STRIDE, CANVAS[1] // schema.HYPER_STRIDE)
    for row, selection in ((0, "scalable"), (4, "all")):
        options = {"channels": ranking.order, "cuts": ranking.cuts[:-1]}
        gaussians = decode_gaussians(codec, latents, row)
        stream = pack_stream(
            codec,
            gaussians.symbols(latents.read([row])[0]),
            decode_z(codec.tables, latents.z_string(row), *hyper),
            gaussians.indexes_CHW,
            size=(HEIGHT, WIDTH),
            selection=selection,
            **(options if selection == "scalable" else {}),
        )
        write_stream_file(folder / f"{row}.stream", stream)
