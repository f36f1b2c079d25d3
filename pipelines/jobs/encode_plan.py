"""The plan of an encoding call, held against the store: shards, components, estimate."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import zarr

from latent_store.catalogue import codecs
from latent_store.codec import Codec, image_to_tensor, load_codec, pad_image
from latent_store.components import base as component
from latent_store.errors import (
    DatasetError,
    IdentityError,
    LatentStoreError,
    MissingComponentError,
    PlanMismatchError,
)
from latent_store.format import layout, schema
from latent_store.format.feature_encoding import UINT8, FeatureEncoding
from latent_store.format.plan import Sample, ShardPlan, make_plan, plan_key, read_plan
from latent_store.shards import receipts
from latent_store.shards.receipts import FAILED, RowRecord
from latent_store.storage.location import Location
from pipelines.datasets.base import DatasetReader, read_picture
from pipelines.datasets.registry import DatasetFlags, open_dataset
from pipelines.jobs.component_job import finished_receipts
from pipelines.jobs.encoders import (
    PSNR_ROWS,
    Encoder,
    encode_boxes,
    encode_features,
    encode_labels,
    encode_picture,
)
from pipelines.jobs.encoding import newly_listed
from training.flags import read_flags
from training.tasks.registry import find_task
from training.trainer.checkpoints import LoadedNetwork, load_network

DEFAULT_SAMPLES_PER_SHARD = 16
_CALIBRATION_SAMPLES = 4
_INT8_HEADROOM = 2
"""int8 is chosen if twice the range of a few pictures fits: the other pictures are unseen."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The files and objects that a call names, opened and checked before anything is written."""

    reader: DatasetReader
    manifest: list[Sample]
    codec: Codec | None
    teacher: LoadedNetwork | None
    teacher_bytes: bytes

    def register(self, location: Location) -> None:
        """Puts codec and teacher into the store, where the workers find them."""
        if self.codec is not None:
            tables = self.codec.tables.to_arrays()
            codecs.register_codec(location, self.codec.spec, tables, self.codec.checkpoint_bytes)
        if self.teacher is not None:
            codecs.register_teacher(location, self.teacher.teacher_id, self.teacher_bytes)


def open_inputs(flags: argparse.Namespace) -> Inputs:
    """Opens the data root, the codec and the teacher that a call's flags name.

    Raises:
        LatentStoreError: Something is missing or damaged, or there is nothing to encode with.
    """
    wants_codec = flags.codec_checkpoint or flags.quality is not None or flags.demo_codec
    if not (wants_codec or flags.teacher_checkpoint):
        raise LatentStoreError(
            "nothing to encode with: give --codec_checkpoint FILE, --quality Q or --demo_codec, "
            "or --teacher_checkpoint FILE to add features"
        )
    if flags.max_samples is not None and flags.max_samples < 1:
        raise LatentStoreError(f"--max_samples must be at least 1, got {flags.max_samples}")
    reader = open_dataset(read_flags(flags, DatasetFlags))
    manifest = reader.manifest(flags.split)
    codec = teacher = None
    teacher_bytes = b""
    if wants_codec:
        codec = load_codec(
            checkpoint=flags.codec_checkpoint,
            quality=flags.quality,
            metric=flags.metric,
            demo=flags.demo_codec,
        )
    if flags.teacher_checkpoint:
        teacher = load_network(flags.teacher_checkpoint, kind="teacher")
        teacher_bytes = flags.teacher_checkpoint.read_bytes()
    return Inputs(
        reader=reader, manifest=manifest, codec=codec, teacher=teacher, teacher_bytes=teacher_bytes
    )


def settle_plan(
    location: Location, dataset: str, flags: argparse.Namespace, inputs: Inputs
) -> ShardPlan:
    """Reads the store's plan and extends it by the samples and views it lacks, or makes one.

    Raises:
        PlanMismatchError: The data root, `--samples_per_shard` or `--canvas` differs.
        DatasetError: A picture has a size that the plan does not allow.
    """
    size = flags.samples_per_shard
    canvas = tuple(flags.canvas) if flags.canvas else None
    if location.exists(plan_key(dataset, flags.split)):
        plan = _agreeing(read_plan(location, dataset, flags.split), size, canvas)
        known = {sample.sample_id for sample in plan.originals}
        there = [sample for sample in inputs.manifest if sample.sample_id in known]
        fresh = [sample for sample in inputs.manifest if sample.sample_id not in known]
        if flags.max_samples is not None:
            fresh = fresh[: max(0, flags.max_samples - len(there))]
        plan = plan.extended([*there, *fresh], mended=_failed_ids(location, plan))
    else:
        wanted = inputs.manifest[: flags.max_samples]
        size = DEFAULT_SAMPLES_PER_SHARD if size is None else size
        plan = make_plan(dataset, flags.split, wanted, size, canvas or inputs.reader.canvas)
    return plan.with_views(flags.views)


def ask_encoders(
    location: Location, plan: ShardPlan, inputs: Inputs, flags: argparse.Namespace
) -> list[Encoder]:
    """Returns what a call asks for, in the order in which it is written."""
    annotations = find_task(inputs.reader.task).annotations
    encoders = [_ANNOTATIONS[annotations.component](location, plan, inputs)]
    if inputs.codec is not None:
        codec = inputs.codec.spec
        dtype = _latent_dtype(location, plan, inputs, flags)
        make = partial(encode_picture, location, codec.codec_id, PSNR_ROWS[flags.psnr])
        encoders.append(Encoder(spec=schema.latents_spec(codec, *plan.canvas, dtype), make=make))
    if inputs.teacher is not None:
        teacher_id = inputs.teacher.teacher_id
        encoding = _feature_encoding(location, plan, teacher_id, flags.teacher_dtype)
        channels = inputs.teacher.config.feature_channels
        spec = schema.teacher_spec(teacher_id, *plan.canvas, channels, encoding)
        make = partial(encode_features, location, teacher_id, encoding)
        encoders.append(Encoder(spec=spec, make=make))
    return encoders


def is_complete(
    location: Location, plan: ShardPlan, encoder: Encoder, max_failures: int | None
) -> bool:
    """Tells whether a component is whole for the whole plan.

    One of which more than `max_failures` rows failed is not, whatever its job tolerated; None keeps
    to what that job tolerated.
    """
    key = encoder.spec.key
    try:
        group = component.open_component(location, plan.name, key)
        component.require_intact(location, group)
    except LatentStoreError:
        return False
    if not group.attrs.get("complete") or group.attrs.get("num_rows") != plan.num_rows:
        return False
    if max_failures is not None and count_failed(location, plan, key) > max_failures:
        return False
    if not encoder.annotation:
        return True
    missed = map(newly_listed(plan, encoder.spec), _rows(location, plan, key))
    return not (outgrown(group, encoder) or any(missed))


def outgrown(group: zarr.Group, encoder: Encoder) -> bool:
    """Tells whether stored annotations have other arrays than the plan needs: they are made anew.

    A shard of an array is one object, so that arrays grow along the samples alone.
    """
    arrays = (array for array in encoder.spec.arrays if array.name in group)
    return encoder.annotation and any(group[a.name].shape[1:] != a.shape for a in arrays)


def count_failed(location: Location, plan: ShardPlan, key: str) -> int:
    """Returns how many rows of a component failed."""
    return sum(record.status == FAILED for record in _rows(location, plan, key))


def describe(
    location: Location,
    plan: ShardPlan,
    encoders: Sequence[Encoder],
    max_failures: int | None,
) -> str:
    """Returns what a call would do: rows, shards, components and raw sizes. Writes nothing."""
    sizes = sorted({(sample.height, sample.width) for sample in plan.samples})
    size = f"{sizes[0][0]}x{sizes[0][1]}" if len(sizes) == 1 else f"{len(sizes)} sizes"
    place = "on a canvas of" if plan.mixed_sizes else "coded at"
    size += f", {place} {plan.canvas[0]}x{plan.canvas[1]}"
    shards = f"{plan.num_shards} shards of {plan.samples_per_shard}"
    lines = [f"{plan.name}: {plan.describe_samples()} of {size}, in {shards}"]
    for encoder in encoders:
        raw = sum(np.dtype(a.dtype).itemsize * math.prod(a.shape) for a in encoder.spec.arrays)
        total = raw * len(plan.samples) / 2**20
        state = "complete" if is_complete(location, plan, encoder, max_failures) else "to write"
        lines.append(f"  {encoder.spec.key:<48} {total:10.1f} MiB before compression   {state}")
    return "\n".join(lines)


def _agreeing(
    plan: ShardPlan, samples_per_shard: int | None, canvas: tuple[int, int] | None
) -> ShardPlan:
    """Returns the store's plan if a call's flags agree with it; `--canvas` allows mixed sizes."""
    if samples_per_shard not in (None, plan.samples_per_shard):
        raise PlanMismatchError(
            f"the store's plan has {plan.samples_per_shard} samples a shard, --samples_per_shard "
            f"is {samples_per_shard}; leave the flag out, or encode into a new store"
        )
    if canvas not in (None, plan.canvas):
        raise PlanMismatchError(
            f"the store's plan has a canvas of {plan.canvas[0]}x{plan.canvas[1]} (height x width), "
            f"--canvas is {canvas[0]} {canvas[1]}; leave the flag out, or encode into a new store"
        )
    return plan if canvas is None else dataclasses.replace(plan, mixed_sizes=True)


def _labels_encoder(location: Location, plan: ShardPlan, inputs: Inputs) -> Encoder:
    reader = inputs.reader
    spec = schema.labels_spec(*plan.canvas, reader.class_names, reader.label_ids)
    return Encoder(spec=spec, make=partial(encode_labels, reader, plan.canvas), annotation=True)


def _boxes_encoder(location: Location, plan: ShardPlan, inputs: Inputs) -> Encoder:
    # Of the whole manifest: with --max_samples, the rest can follow later.
    most = max((sample.num_boxes for sample in (*plan.samples, *inputs.manifest)), default=0)
    room = layout.round_up(max(most, 1), schema.BOX_MULTIPLE)
    with contextlib.suppress(LatentStoreError, KeyError):
        stored = component.open_component(location, plan.name, "boxes")
        room = max(room, stored["boxes"].shape[1])
    spec = schema.boxes_spec(room, inputs.reader.class_names)
    return Encoder(spec=spec, make=partial(encode_boxes, inputs.reader, room), annotation=True)


_ANNOTATIONS = {"labels": _labels_encoder, "boxes": _boxes_encoder}


def _failed_ids(location: Location, plan: ShardPlan) -> frozenset[str]:
    keys = receipts.components_with_receipts(location, plan.name)
    records = (record for key in keys for record in _rows(location, plan, key))
    return frozenset(record.sample_id for record in records if record.status == FAILED)


def _rows(location: Location, plan: ShardPlan, key: str) -> Iterator[RowRecord]:
    done = finished_receipts(location, plan.name, key).values()
    return (record for receipt in done for record in receipt.rows)


def _latent_dtype(
    location: Location, plan: ShardPlan, inputs: Inputs, flags: argparse.Namespace
) -> str:
    codec: Any = inputs.codec
    key = f"latents/{codec.spec.codec_id}"
    try:
        return str(component.open_component(location, plan.name, key)["y_hat"].dtype)
    except (LatentStoreError, KeyError):
        pass
    if flags.y_hat_dtype != "auto":
        return str(flags.y_hat_dtype)
    return "int16" if flags.dry_run else _calibrated_dtype(plan, inputs.reader, codec)


def _feature_encoding(
    location: Location, plan: ShardPlan, teacher_id: str, asked: str | None
) -> FeatureEncoding:
    """Returns the encoding that is asked for, or else the stored one; they must not differ."""
    try:
        group = component.open_component(location, plan.name, f"teacher/{teacher_id}")
        stored = FeatureEncoding.from_attrs(group.attrs, str(group["features"].dtype))
    except (MissingComponentError, KeyError):
        return FeatureEncoding.named(asked or UINT8)
    if asked not in (None, stored.name):
        raise IdentityError(
            f"{plan.name}/teacher/{teacher_id} holds features as {stored}, --teacher_dtype is "
            f"{asked}: one component has one encoding; leave the flag out, or encode into another "
            "store"
        )
    return stored


def _calibrated_dtype(plan: ShardPlan, reader: DatasetReader, codec: Codec) -> str:
    picks = np.linspace(0, len(plan.samples) - 1, _CALIBRATION_SAMPLES).astype(int)
    highest = 0
    for sample in {plan.samples[i].sample_id: plan.samples[i] for i in picks}.values():
        try:
            image_HWC, _ = read_picture(reader, sample)
        except DatasetError:
            continue  # The job itself reports it, with its row.
        y_hat = codec.encode(image_to_tensor(pad_image(image_HWC))).y_hat_BCHW
        highest = max(highest, int(y_hat.abs().max()))
    return "int8" if _INT8_HEADROOM * highest <= np.iinfo(np.int8).max else "int16"
