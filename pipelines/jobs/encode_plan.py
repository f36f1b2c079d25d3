"""What an encoding call asks for, held against what the store has: plan, components, estimate."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
from latent_store.format.schema import SEGMENTATION, TASK_COMPONENTS, ComponentSpec
from latent_store.shards import receipts
from latent_store.shards.receipts import FAILED, NOT_LISTED, Receipt, RowRecord
from latent_store.storage.location import Location
from pipelines.datasets.registry import DatasetReader, open_dataset, read_picture
from training.networks.networks import FEATURE_CHANNELS
from training.trainer.checkpoints import LoadedNetwork, load_network

DEFAULT_SAMPLES_PER_SHARD = 16
_CALIBRATION_SAMPLES = 4
_INT8_HEADROOM = 2
"""int8 is chosen if twice the range of a few pictures fits: the other pictures are unseen."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a call names, opened and checked before anything is written."""

    reader: DatasetReader
    manifest: list[Sample]
    codec: Codec | None
    teacher: LoadedNetwork | None
    teacher_bytes: bytes


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
    reader = open_dataset(flags.dataset, flags.data_root, voc_task=flags.voc_task, years=flags.year)
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


def asked_components(
    location: Location, plan: ShardPlan, inputs: Inputs, flags: argparse.Namespace
) -> list[ComponentSpec]:
    """Returns the components that a call asks for, in the order in which they are written."""
    specs = [_annotation_spec(location, plan, inputs)]
    if inputs.codec is not None:
        dtype = _latent_dtype(location, plan, inputs, flags)
        specs.append(schema.latents_spec(inputs.codec.spec, *plan.canvas, dtype))
    if inputs.teacher is not None:
        teacher_id = inputs.teacher.teacher_id
        encoding = _feature_encoding(location, plan, teacher_id, flags.teacher_dtype)
        specs.append(schema.teacher_spec(teacher_id, *plan.canvas, FEATURE_CHANNELS, encoding))
    return specs


def missing_components(
    location: Location,
    plan: ShardPlan,
    specs: Sequence[ComponentSpec],
    max_failures: int | None = None,
) -> list[ComponentSpec]:
    """Leaves out the components that are complete for the whole plan.

    A component of which more than `max_failures` rows failed is not complete, whatever its job
    tolerated; None keeps to what that job tolerated.
    """
    return [spec for spec in specs if not _is_complete(location, plan, spec, max_failures)]


def forget_narrow_boxes(
    location: Location, plan: ShardPlan, specs: Sequence[ComponentSpec]
) -> None:
    """Removes boxes whose arrays have not the room that the plan needs: they are written anew.

    A shard of an array is one object, so that arrays grow along the samples alone; and boxes are
    cheap to read again from the data root.
    """
    for spec in specs:
        stored = _stored_room(location, plan) if spec.kind == "boxes" else None
        if stored is not None and stored != spec.arrays[0].shape[0]:
            component.forget_component(location, plan.name, spec.key)


def shards_to_write(
    location: Location, plan: ShardPlan, specs: Sequence[ComponentSpec]
) -> dict[str, list[int]]:
    """Returns, for each component, the shards without a receipt."""
    todo = {}
    for spec in specs:
        done = receipts.finished_shards(location, plan.name, spec.key)
        todo[spec.key] = [shard for shard in range(plan.num_shards) if shard not in done]
    return todo


def forget_failures(location: Location, plan: ShardPlan, specs: Sequence[ComponentSpec]) -> None:
    """Removes the receipts of shards with failed rows, so that this run tries them again.

    Likewise those of rows that the task's list did not have, and has now.
    """
    for spec in specs:
        listed = _listed_rows(plan, spec)
        for shard, receipt in _receipts(location, plan, spec.key).items():
            again = (r.status == FAILED or _newly_listed(r, listed) for r in receipt.rows)
            if any(again):
                location.delete(receipts.receipt_key(plan.name, spec.key, shard))


def count_failed(location: Location, plan: ShardPlan, spec: ComponentSpec) -> int:
    """Returns how many rows of a component failed."""
    done = _receipts(location, plan, spec.key).values()
    return sum(record.status == FAILED for receipt in done for record in receipt.rows)


def describe(
    location: Location,
    plan: ShardPlan,
    specs: Sequence[ComponentSpec],
    max_failures: int | None = None,
) -> str:
    """Returns what a call would do: rows, shards, components and raw sizes. Writes nothing."""
    missing = {spec.key for spec in missing_components(location, plan, specs, max_failures)}
    sizes = sorted({(sample.height, sample.width) for sample in plan.samples})
    size = f"{sizes[0][0]}x{sizes[0][1]}" if len(sizes) == 1 else f"{len(sizes)} sizes"
    place = "on a canvas of" if plan.mixed_sizes else "coded at"
    size += f", {place} {plan.canvas[0]}x{plan.canvas[1]}"
    shards = f"{plan.num_shards} shards of {plan.samples_per_shard}"
    lines = [f"{plan.name}: {plan.describe_samples()} of {size}, in {shards}"]
    for spec in specs:
        raw = sum(
            np.dtype(a.dtype).itemsize * int(np.prod(a.shape, dtype=np.int64)) for a in spec.arrays
        )
        total = raw * len(plan.samples) / 2**20
        state = "to write" if spec.key in missing else "complete"
        lines.append(f"  {spec.key:<48} {total:10.1f} MiB before compression   {state}")
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


def _is_complete(
    location: Location, plan: ShardPlan, spec: ComponentSpec, max_failures: int | None
) -> bool:
    try:
        group = component.open_component(location, plan.name, spec.key)
        component.require_intact(location, group)
    except LatentStoreError:
        return False
    if not group.attrs.get("complete") or group.attrs.get("num_rows") != plan.num_rows:
        return False
    if max_failures is not None and count_failed(location, plan, spec) > max_failures:
        return False
    if spec.kind not in TASK_COMPONENTS.values():
        return True
    if spec.kind == "boxes" and spec.arrays[0].shape[0] != _stored_room(location, plan):
        return False
    listed = _listed_rows(plan, spec)
    records = (r for receipt in _receipts(location, plan, spec.key).values() for r in receipt.rows)
    return not any(_newly_listed(record, listed) for record in records)


def _listed_rows(plan: ShardPlan, spec: ComponentSpec) -> set[int]:
    pairs = zip(plan.rows, plan.samples, strict=True)
    return {row for row, sample in pairs if not sample.lacks(spec.kind)}


def _newly_listed(record: RowRecord, listed: set[int]) -> bool:
    return record.status == NOT_LISTED and record.row in listed


def _annotation_spec(location: Location, plan: ShardPlan, inputs: Inputs) -> ComponentSpec:
    reader = inputs.reader
    if reader.task == SEGMENTATION:
        return schema.labels_spec(*plan.canvas, reader.class_names, reader.label_ids)
    # Of the whole manifest: with --max_samples, the rest can follow later.
    most = max((sample.num_boxes for sample in (*plan.samples, *inputs.manifest)), default=0)
    room = layout.round_up(max(most, 1), schema.BOX_MULTIPLE)
    return schema.boxes_spec(max(room, _stored_room(location, plan) or 0), reader.class_names)


def _stored_room(location: Location, plan: ShardPlan) -> int | None:
    """Returns the boxes that a row of the stored arrays has room for; None without arrays."""
    try:
        return int(component.open_component(location, plan.name, "boxes")["boxes"].shape[1])
    except (LatentStoreError, KeyError):
        return None


def _failed_ids(location: Location, plan: ShardPlan) -> frozenset[str]:
    prefix = receipts.receipt_prefix(plan.name, "")
    keys = {key.removeprefix(prefix).rsplit("/", 1)[0] for key in location.sizes(prefix)}
    records = (
        record
        for key in keys
        for receipt in _receipts(location, plan, key).values()
        for record in receipt.rows
    )
    return frozenset(record.sample_id for record in records if record.status == FAILED)


def _receipts(location: Location, plan: ShardPlan, key: str) -> dict[int, Receipt]:
    done = receipts.finished_shards(location, plan.name, key)
    return receipts.read_receipts(location, plan.name, key, sorted(done))


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
