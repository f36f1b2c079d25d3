"""The job that encodes, pictures in and whole shards of every missing component out, and what it is
made of: plain functions, one a component, bound to what they need."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import logging
import platform
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from latent_store.catalogue import codecs
from latent_store.codec import Codec, codec_from_bytes
from latent_store.codec.ledger import channel_bits, hyper_bits
from latent_store.codec.numerics import (
    choose_device,
    describe_device,
    exact_float32,
)
from latent_store.codec.pictures import image_to_tensor, pad_image, psnr, tensor_to_image
from latent_store.codec.streams import encode_y, encode_z
from latent_store.components.features import STEM
from latent_store.components.registry import kind_of
from latent_store.errors import DatasetError, IntegrityError, LatentStoreError
from latent_store.format.feature_encoding import FeatureEncoding
from latent_store.format.plan import ShardPlan
from latent_store.format.plan_files import read_plan
from latent_store.format.samples import Sample
from latent_store.format.schema import ComponentSpec
from latent_store.shards.receipts import FAILED, NOT_LISTED, RowRecord
from latent_store.storage.location import CONTROL, Location
from pipelines.datasets.base import DatasetReader, read_boxes, read_labels, read_picture
from pipelines.jobs.component_job import ComponentJob, Encoded, ShardRows
from pipelines.jobs.job_flags import MOST_ON_CARD
from training.networks.backbones import find_backbone
from training.trainer.checkpoints import load_network

_LOG = logging.getLogger(__name__)
_loading = threading.Lock()
"""Or the pictures that are under way first would each load the same network."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One planned sample, its picture in memory: uint8 RGB `[H, W, 3]`, and its file's bytes."""

    row: int
    sample: Sample
    image_HWC: np.ndarray
    data: bytes

    @property
    def digest(self) -> dict[str, str]:
        """Tells, in the samples table, which picture a row was made from."""
        return {"image_sha256": hashlib.sha256(self.data).hexdigest()}


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Makes the rows of one component; small and picklable, since it travels to the workers.

    Attributes:
        make: Makes one row; raises `DatasetError` or `IntegrityError` where it cannot.
        annotation: It is read from the dataset, so that a task's list may leave samples out, and it
            is cheap to make again.
    """

    spec: ComponentSpec
    make: Callable[[Picture], Encoded]
    annotation: bool = False


@dataclass(frozen=True, kw_only=True)
class EncodeJob(ComponentJob):
    """Makes all that is missing of a picture while it is in memory.

    Attributes:
        device: Where codec and teacher run, as a worker is to find it; the encoders know it.
    """

    reader: DatasetReader
    encoders: tuple[Encoder, ...]
    device: str = "cpu"

    verb = "encode"

    @property
    def at_once(self) -> int:
        """Where a device's memory holds one at a time, fewer."""
        on_cpu = choose_device(self.device).type == "cpu"
        return super().at_once if on_cpu else min(super().at_once, MOST_ON_CARD)

    @property
    def components(self) -> list[ComponentSpec]:
        """Those of the encoders."""
        return [encoder.spec for encoder in self.encoders]

    def written_by(self) -> dict[str, str | int]:
        """Returns also the device that is used here, and the threads of torch a picture."""
        try:
            device = choose_device(self.device)
        except LatentStoreError as error:
            raise LatentStoreError(f"the worker on {platform.node()}: {error}") from error
        return super().written_by() | {"device": describe_device(device), "threads": 1}

    def fill(self, plan: ShardPlan, shard: int, rows: Mapping[str, ShardRows]) -> None:
        """Encodes; a picture that cannot be used becomes a failed row."""
        planned = plan.in_shard(shard)
        make = functools.partial(self._make, rows.keys())
        with self.under_way(make, planned) as each:
            for (row, sample), made in zip(planned, each, strict=True):
                for key, encoded in made.items():
                    if isinstance(encoded, Encoded):
                        rows[key].put(row, sample, encoded)
                    else:
                        rows[key].leave(row, sample, *encoded)

    def _make(
        self, keys: Collection[str], row: int, sample: Sample
    ) -> dict[str, Encoded | tuple[str, str]]:
        """Returns a sample's row of each component, or why it has none: status and reason."""
        wanted = [key for key in keys if kind_of(key).lists(sample)]
        made: dict[str, Encoded | tuple[str, str]] = {
            key: (NOT_LISTED, f"not in the dataset's list for {key}")
            for key in keys
            if key not in wanted
        }
        if not wanted:
            return made
        encoders = {encoder.spec.key: encoder for encoder in self.encoders}
        try:
            image_HWC, data = read_picture(self.reader, sample)
            picture = Picture(row=row, sample=sample, image_HWC=image_HWC, data=data)
            # Everything is computed before anything is kept: a row is whole or failed.
            return made | {key: encoders[key].make(picture) for key in wanted}
        except (DatasetError, IntegrityError) as error:
            _LOG.warning("%s failed: %s", sample.sample_id, error)
            return made | dict.fromkeys(wanted, (FAILED, str(error)))

    def again(self, plan: ShardPlan, spec: ComponentSpec) -> Callable[[RowRecord], bool]:
        """Makes failed rows again, and those that the task's list has by now."""
        is_new = newly_listed(plan, spec)
        return lambda record: record.status == FAILED or is_new(record)


def tell_of_same_pictures(location: Location, plan: ShardPlan) -> None:
    """Warns where a split that is not in the store yet has pictures that another one there has:
    names and lengths of their files are the same, as of a folder that is read whole for each.
    """
    splits = location.folders(f"{CONTROL}/{plan.dataset}")
    for split in splits if plan.split not in splits else ():
        with contextlib.suppress(LatentStoreError):
            there = read_plan(location, plan.dataset, split)
            # All of it is read only where its first is among them.
            first, listed = there.samples[0].image_uri, plan.samples.tables()
            if all(pc.index(table["image_uri"], first).as_py() < 0 for table in listed):
                continue
            own, others = (set().union(*map(_files, p.samples.tables())) for p in (plan, there))
            if not own & others:
                continue
            _LOG.warning(
                "%d of %d pictures of %s are those of %s: a network that learns from one has seen "
                "the other's; give each split pictures of its own",
                *(len(own & others), len(own), plan.name, there.name),
            )


def _files(table: pa.Table) -> set[tuple[str, int]]:
    columns = (table[name].to_pylist() for name in ("image_uri", "image_bytes"))
    return {(uri, length) for uri, length in zip(*columns, strict=True) if uri}


def newly_listed(plan: ShardPlan, spec: ComponentSpec) -> Callable[[RowRecord], bool]:
    """Returns whether a row was left since a task's list had not its sample, and has it now."""
    lists = kind_of(spec.key).lists

    def listed(row: int) -> bool:
        return plan.places_of([row])[0] >= 0 and lists(plan.sample_at(row))

    return lambda record: record.status == NOT_LISTED and listed(record.row)


def tell(make: Callable[[Picture], Encoded], picture: Picture) -> Encoded:
    """Makes a row, and tells beside its statistics which picture it was made from."""
    encoded = make(picture)
    return dataclasses.replace(encoded, stats={**encoded.stats, **picture.digest})


def encode_labels(reader: DatasetReader, canvas: tuple[int, int], picture: Picture) -> Encoded:
    """Reads a sample's labels, padded to the canvas."""
    labels_HW = read_labels(reader, picture.sample, canvas)
    return Encoded(arrays={"segmentation": labels_HW}, stats=picture.digest)


def encode_boxes(reader: DatasetReader, max_boxes: int, picture: Picture) -> Encoded:
    """Reads a sample's objects and pads them with 0 to `max_boxes`, which holds them all."""
    boxes = read_boxes(reader, picture.sample)
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
    return Encoded(arrays={**padded, "box_count": count}, stats=picture.digest)


def encode_features(
    store: Location,
    teacher_id: str,
    entry: str,
    encoding: FeatureEncoding,
    device: str,
    picture: Picture,
) -> Encoded:
    """Runs a teacher's layers, up to an entry, on a picture, padded as the codec pads it.

    Returns:
        `features`, `[D, H/4, W/4]` of the stem, and for uint8 `feature_scale` `[D]`.
    """
    stem, place = load_stem(store, teacher_id, entry, device), choose_device(device)
    x_BCHW = image_to_tensor(pad_image(picture.image_HWC)).to(place)
    with torch.inference_mode(), exact_float32(place):
        features_CHW = stem(x_BCHW)[0].cpu().numpy()
    return Encoded(arrays=encoding.encode(features_CHW))


def encode_picture(
    store: Location, codec_id: str, psnr_rows: int, device: str, picture: Picture
) -> Encoded:
    """Runs a stored codec on a picture; of every `psnr_rows` rows, one is measured (0: none)."""
    measured = bool(psnr_rows) and picture.row % psnr_rows == 0
    codec = load_store_codec(store, codec_id, device)
    return encode_latents(codec, picture.image_HWC, measure_psnr=measured)


def encode_latents(codec: Codec, image_HWC: np.ndarray, *, measure_psnr: bool) -> Encoded:
    """Runs the frozen codec on one picture and proves that its strings decode.

    Args:
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
    symbols_CHW = latents.symbols_BCHW[0].cpu().numpy()
    z_NHW = latents.z_symbols_BNHW[0].cpu().numpy()
    indexes_CHW = latents.indexes_BCHW[0].cpu().numpy()
    y_string = encode_y(codec.tables, symbols_CHW, indexes_CHW, verify=True)
    z_string = encode_z(codec.tables, z_NHW, verify=True)
    bits_C = channel_bits(codec.tables, symbols_CHW, indexes_CHW)
    z_bits = hyper_bits(codec.tables, z_NHW)
    stream_bits = 8 * (len(y_string) + len(z_string))
    values = y_hat_CHW.reshape(len(y_hat_CHW), -1).astype(np.float64)
    fidelity = None
    if measure_psnr:
        decoded_HWC = tensor_to_image(codec.reconstruct(latents.y_hat_BCHW))[0, :height, :width]
        fidelity = float(psnr(decoded_HWC, image_HWC))
    stats: dict[str, Any] = {
        "y_bytes": len(y_string),
        "z_bytes": len(z_string),
        "bpp": stream_bits / (height * width),
        "overhead_bits": float(stream_bits - bits_C.sum() - z_bits),
        "psnr": fidelity,
    }
    return Encoded(
        arrays={
            "y_hat": codec.spec.to_stored(y_hat_CHW),
            "channel_bits": bits_C,
            "channel_mean": values.mean(axis=1),
            "channel_rms": np.sqrt((values**2).mean(axis=1)),
            "hyper_bits": np.asarray(z_bits),
            "overhead_bits": np.asarray(stats["overhead_bits"]),
        },
        streams={"bitstream/y": y_string, "bitstream/z": z_string},
        stats=stats,
    )


def load_store_codec(store: Location, codec_id: str, device: str = "cpu") -> Codec:
    """Loads a codec from the store that keeps it, once a process."""
    place = str(choose_device(device))
    with _loading:
        return _codec(store, codec_id, place)


@functools.lru_cache(maxsize=2)
def _codec(store: Location, codec_id: str, device: str) -> Codec:
    spec = codecs.choose_codec(store, codec_id)
    data = codecs.read_codec_checkpoint(store, spec)
    return codec_from_bytes(data, expected=spec).to(device)


def load_stem(
    store: Location, teacher_id: str, entry: str = STEM, device: str = "cpu"
) -> nn.Sequential:
    """Loads a teacher's layers up to an entry from the store that keeps it, once a process."""
    place = str(choose_device(device))
    with _loading:
        return _stem(store, teacher_id, entry, place)


@functools.lru_cache(maxsize=2)
def _stem(store: Location, teacher_id: str, entry: str, device: str) -> nn.Sequential:
    data = codecs.read_teacher_checkpoint(store, teacher_id)
    teacher: Any = load_network(data, kind="teacher").network
    before = find_backbone(teacher.config.backbone).stages_before(entry)
    layers = [teacher.stem, *(getattr(teacher.tail, stage) for stage in before)]
    return nn.Sequential(*layers).eval().to(device)
