"""Encodes one shard: pictures in, whole shards of every missing component out.

Plain functions, tested without Beam; `pipelines.encode` only wires them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from latent_store.codec import (
    Codec,
    channel_bits,
    codec_from_store,
    decode_y,
    decode_z,
    encode_y,
    encode_z,
    hyper_bits,
    image_to_tensor,
    pad_image,
    psnr,
    tensor_to_image,
)
from latent_store.codec.hyperprior import torch_threads
from latent_store.components.writer import ShardWriter
from latent_store.errors import DatasetError, IntegrityError, LatentStoreError
from latent_store.format import schema
from latent_store.format.feature_encoding import FeatureEncoding
from latent_store.format.plan import Sample, ShardPlan, read_plan
from latent_store.format.schema import ComponentSpec
from latent_store.shards import receipts
from latent_store.shards.receipts import FAILED, NOT_LISTED, RowRecord
from latent_store.storage.location import Location
from latent_store.store import LatentStore
from pipelines.datasets.registry import DatasetReader, read_boxes, read_labels, read_picture
from training.networks.networks import Stem
from training.trainer.checkpoints import load_network

_LOG = logging.getLogger(__name__)

PSNR_SAMPLE = 16
"""With `--psnr sample`, every 16th row is decoded to pixels and measured."""


@dataclass(frozen=True, kw_only=True)
class EncodeTask:
    """What every worker needs to know; small and picklable.

    Attributes:
        components: Those to write; each shard of each is written whole.
        codec_id: The codec of the `latents` component, if that is among them.
        teacher_id: The teacher of the `teacher` component, if that is among them.
        psnr: `none`, `sample` or `all`.
        threads: For torch. Fixed for a component, since ŷ may differ by rounding ties elsewhere.
    """

    store: Location
    dataset: str
    """The dataset's id in the store."""
    reader: DatasetReader
    split: str
    components: tuple[ComponentSpec, ...]
    codec_id: str | None
    teacher_id: str | None
    psnr: str
    threads: int


@dataclass(kw_only=True)
class _Shard:
    """The rows of one component's shard, gathered sample by sample."""

    spec: ComponentSpec
    columns: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    streams: dict[str, dict[int, bytes]] = field(default_factory=dict)
    records: list[RowRecord] = field(default_factory=list)

    def put(self, row: int, sample: Sample, encoded: Encoded) -> None:
        for name, value in encoded.arrays.items():
            self.columns.setdefault(name, {})[row] = value
        for name, value in encoded.streams.items():
            self.streams.setdefault(name, {})[row] = value
        self.records.append(RowRecord(row=row, sample_id=sample.sample_id, stats=encoded.stats))

    def leave(self, row: int, sample: Sample) -> None:
        reason = f"not in the dataset's list for {self.spec.key}"
        record = RowRecord(row=row, sample_id=sample.sample_id, status=NOT_LISTED, reason=reason)
        self.records.append(record)

    def fail(self, row: int, sample: Sample, reason: str) -> None:
        record = RowRecord(row=row, sample_id=sample.sample_id, status=FAILED, reason=reason)
        self.records.append(record)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One sample's contribution to one component."""

    arrays: Mapping[str, np.ndarray]
    streams: Mapping[str, bytes] = field(default_factory=dict)
    stats: Mapping[str, Any] = field(default_factory=dict)


def encode_shard(task: EncodeTask, shard: int) -> int:
    """Encodes and writes one shard of every component that lacks it.

    A picture that cannot be used becomes a failed row; an error of the whole shard (a full disk,
    say) becomes a note that `finalize` reports. Neither ends the job.

    Returns:
        How many components of the shard were written.
    """
    plan = read_plan(task.store, task.dataset, task.split)
    lacking = [
        spec
        for spec in task.components
        if shard not in receipts.finished_shards(task.store, plan.name, spec.key)
    ]
    if not lacking:
        return 0
    try:
        with torch_threads(task.threads):
            shards = _encode_rows(task, plan, shard, lacking)
        for spec in lacking:
            gathered = shards[spec.key]
            writer = ShardWriter(task.store, plan, spec)
            columns = {a.name: gathered.columns.get(a.name, {}) for a in spec.arrays}
            streams = {s.name: gathered.streams.get(s.name, {}) for s in spec.streams}
            writer.write(shard, columns, streams, gathered.records)
    except (OSError, LatentStoreError) as error:
        _note_failure(task, plan, shard, lacking, error)
        return 0
    return len(lacking)


def encode_latents(codec: Codec, image_HWC: np.ndarray, *, measure_psnr: bool) -> Encoded:
    """Runs the frozen codec on one picture and proves that its strings decode.

    Args:
        codec: The frozen codec.
        image_HWC: Uint8 RGB, any size; padded right and bottom to multiples of 64.
        measure_psnr: Also decode to pixels.

    Returns:
        ŷ `[M, h, w]` at the picture's own coded size, the ledger, the pooled statistics, both
        strings.

    Raises:
        IntegrityError: A string does not decode to what was encoded.
    """
    height, width = image_HWC.shape[:2]
    latents = codec.encode(image_to_tensor(pad_image(image_HWC)))
    y_hat_CHW = latents.y_hat_BCHW[0].cpu().numpy()
    z_NHW = latents.z_symbols_BNHW[0].cpu().numpy()
    indexes_CHW = codec.indexes(latents.z_symbols_BNHW)[0].cpu().numpy()
    y_string = encode_y(codec.tables, y_hat_CHW, indexes_CHW)
    z_string = encode_z(codec.tables, z_NHW)
    _require_decodable(codec, y_string, z_string, y_hat_CHW, z_NHW, indexes_CHW)
    bits_C = channel_bits(codec.tables, y_hat_CHW, indexes_CHW)
    z_bits = hyper_bits(codec.tables, z_NHW)
    stream_bits = 8 * (len(y_string) + len(z_string))
    values = y_hat_CHW.reshape(len(y_hat_CHW), -1).astype(np.float64)
    stats: dict[str, Any] = {
        "y_bytes": len(y_string),
        "z_bytes": len(z_string),
        "bpp": stream_bits / (height * width),
        "overhead_bits": float(stream_bits - bits_C.sum() - z_bits),
        "psnr": None,
    }
    if measure_psnr:
        stats["psnr"] = _picture_psnr(codec, latents.y_hat_BCHW, image_HWC)
    return Encoded(
        arrays={
            "y_hat": y_hat_CHW,
            "channel_bits": bits_C,
            "channel_mean": values.mean(axis=1),
            "channel_rms": np.sqrt((values**2).mean(axis=1)),
            "hyper_bits": np.asarray(z_bits),
            "overhead_bits": np.asarray(stats["overhead_bits"]),
        },
        streams={"bitstream/y": y_string, "bitstream/z": z_string},
        stats=stats,
    )


def encode_labels(
    reader: DatasetReader, sample: Sample, canvas: tuple[int, int], image_bytes: bytes
) -> Encoded:
    """Reads one sample's labels and pads them right and bottom with 255 to the canvas."""
    labels_HW = read_labels(reader, sample)
    padded_HW = np.full(canvas, schema.IGNORE_LABEL, dtype=np.uint8)
    padded_HW[: sample.height, : sample.width] = labels_HW
    return Encoded(arrays={"segmentation": padded_HW}, stats=_digest(image_bytes))


def encode_boxes(
    reader: DatasetReader, sample: Sample, max_boxes: int, image_bytes: bytes
) -> Encoded:
    """Reads one sample's objects and pads them with 0 to `max_boxes`, which holds them all."""
    boxes = read_boxes(reader, sample)
    arrays = {
        "boxes": boxes.boxes_N4,
        "box_label": boxes.labels_N.astype(np.uint8),
        "box_difficult": boxes.difficult_N.astype(np.uint8),
        "box_truncated": boxes.truncated_N.astype(np.uint8),
    }
    room = max_boxes - len(boxes)
    padded = {
        name: np.pad(values, [(0, room), *[(0, 0)] * (values.ndim - 1)])
        for name, values in arrays.items()
    }
    count = np.asarray(len(boxes), dtype=np.int32)
    return Encoded(arrays={**padded, "box_count": count}, stats=_digest(image_bytes))


def encode_features(stem: Stem, image_HWC: np.ndarray, encoding: FeatureEncoding) -> Encoded:
    """Runs the teacher's stem on one picture.

    Args:
        stem: The first two layers of the teacher.
        image_HWC: Uint8 RGB, any size; padded as the codec pads it.
        encoding: How the features are stored.

    Returns:
        `features` `[64, H/4, W/4]`, and for uint8 `feature_scale` `[64]`.
    """
    with torch.inference_mode():
        features_CHW = stem(image_to_tensor(pad_image(image_HWC)))[0].numpy()
    return Encoded(arrays=encoding.encode(features_CHW))


@functools.lru_cache(maxsize=2)
def load_store_codec(store: Location, codec_id: str) -> Codec:
    """Loads a codec from the store that keeps it, once a process."""
    return codec_from_store(LatentStore(store), codec_id)


@functools.lru_cache(maxsize=2)
def load_stem(store: Location, teacher_id: str) -> Stem:
    """Loads a teacher's stem from the store that keeps it, once a process."""
    data = LatentStore(store).teacher_checkpoint(teacher_id)
    return load_network(data, kind="teacher").network.stem.eval()


def _encode_rows(
    task: EncodeTask, plan: ShardPlan, shard: int, specs: Sequence[ComponentSpec]
) -> dict[str, _Shard]:
    encoders = {spec.key: _encoder(task, plan, spec) for spec in specs}
    gathered = {spec.key: _Shard(spec=spec) for spec in specs}
    for row, sample in plan.in_shard(shard):
        wanted = [spec.key for spec in specs if not sample.lacks(spec.kind)]
        for key in gathered.keys() - wanted:
            gathered[key].leave(row, sample)
        if not wanted:
            continue
        try:
            image_HWC, data = read_picture(task.reader, sample)
            # Everything is computed before anything is kept: a row is whole or failed.
            made = {key: encoders[key](row, sample, image_HWC, data) for key in wanted}
        except (DatasetError, IntegrityError) as error:
            _LOG.warning("%s failed: %s", sample.sample_id, error)
            for key in wanted:
                gathered[key].fail(row, sample, str(error))
            continue
        for key, encoded in made.items():
            gathered[key].put(row, sample, encoded)
    return gathered


_Encoder = Callable[[int, Sample, np.ndarray, bytes], Encoded]


def _encoder(task: EncodeTask, plan: ShardPlan, spec: ComponentSpec) -> _Encoder:
    reader = task.reader
    if spec.kind == "labels":
        return lambda row, sample, image, data: encode_labels(reader, sample, plan.canvas, data)
    if spec.kind == "boxes":
        room = spec.arrays[0].shape[0]
        return lambda row, sample, image, data: encode_boxes(reader, sample, room, data)
    if spec.kind == "teacher":
        stem = load_stem(task.store, str(task.teacher_id))
        encoding = FeatureEncoding.from_attrs(spec.attrs, spec.arrays[0].dtype)
        return lambda row, sample, image, data: encode_features(stem, image, encoding)
    codec = load_store_codec(task.store, str(task.codec_id))
    every = {"none": 0, "sample": PSNR_SAMPLE, "all": 1}[task.psnr]
    return lambda row, sample, image, data: encode_latents(
        codec, image, measure_psnr=bool(every) and row % every == 0
    )


def _digest(image_bytes: bytes) -> dict[str, str]:
    # The samples table tells which picture a row was made from.
    return {"image_sha256": hashlib.sha256(image_bytes).hexdigest()}


def _require_decodable(
    codec: Codec,
    y_string: bytes,
    z_string: bytes,
    y_hat_CHW: np.ndarray,
    z_NHW: np.ndarray,
    indexes_CHW: np.ndarray,
) -> None:
    z_again = decode_z(codec.tables, z_string, *z_NHW.shape[1:])
    y_again = decode_y(codec.tables, y_string, indexes_CHW)
    if not (np.array_equal(z_again, z_NHW) and np.array_equal(y_again, y_hat_CHW)):
        raise IntegrityError(
            "its streams do not decode to what was encoded: the codec's tables are damaged"
        )


def _picture_psnr(codec: Codec, y_hat_BCHW: torch.Tensor, image_HWC: np.ndarray) -> float:
    height, width = image_HWC.shape[:2]
    decoded_HWC = tensor_to_image(codec.reconstruct(y_hat_BCHW))[0, :height, :width]
    return float(psnr(decoded_HWC, image_HWC))


def _note_failure(
    task: EncodeTask,
    plan: ShardPlan,
    shard: int,
    specs: Sequence[ComponentSpec],
    error: Exception,
) -> None:
    text = str(error) or type(error).__name__
    _LOG.error("shard %d of %s failed: %s", shard, plan.name, text)
    for spec in specs:
        # The note is a courtesy; where the disk is full it cannot be written either.
        with contextlib.suppress(OSError):
            key = receipts.failure_key(plan.name, spec.key, shard)
            task.store.write(key, text.encode())
