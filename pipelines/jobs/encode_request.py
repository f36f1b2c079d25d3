"""A call of `encode-to-store` held against the store: its plan, the components that it lacks."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import zarr
from apache_beam.options.pipeline_options import PipelineOptions

from latent_store.catalogue import codecs
from latent_store.codec import Codec, image_to_tensor, load_codec, pad_image
from latent_store.codec.numerics import device_word
from latent_store.components import base as component
from latent_store.components import creation
from latent_store.components.boxes import BOX_MULTIPLE, BoxesReader, boxes_spec
from latent_store.components.features import (
    FeaturesReader,
    FeaturesRecord,
    features_id,
    teacher_spec,
)
from latent_store.components.labels import LabelsReader, labels_spec
from latent_store.components.latents import LatentsReader, latents_spec
from latent_store.components.reader import ComponentReader
from latent_store.components.registry import task_kinds
from latent_store.errors import (
    DatasetError,
    IdentityError,
    LatentStoreError,
    MissingComponentError,
    PlanMismatchError,
)
from latent_store.format import layout
from latent_store.format.feature_encoding import FeatureEncoding
from latent_store.format.ids import require_name
from latent_store.format.plan import ShardPlan, make_plan
from latent_store.format.plan_files import (
    read_plan,
    read_record,
    require_not_lost,
    write_plan,
)
from latent_store.shards.receipts import FAILED, OK, RowRecord
from latent_store.storage.groups import read_all_metadata, read_metadata
from latent_store.storage.lease import Lease, LeaseClaim
from latent_store.storage.location import Location
from latent_store.storage.object_stores import open_location
from latent_store.storage.remembering import RememberingLocation
from pipelines.datasets.base import choose_canvas, list_samples, read_picture
from pipelines.datasets.registry import DatasetFlags, open_dataset, try_reader
from pipelines.jobs.beam_jobs import worker_cores
from pipelines.jobs.component_job import failed_ids, finished_rows
from pipelines.jobs.encoding import (
    EncodeJob,
    Encoder,
    encode_boxes,
    encode_features,
    encode_labels,
    encode_picture,
    newly_listed,
    tell,
)
from pipelines.jobs.job_flags import DEFAULT_SAMPLES_PER_SHARD, PSNR_ROWS
from training.flags import read_flags
from training.networks.backbones import find_backbone
from training.trainer.checkpoints import load_network

_CALIBRATION_SAMPLES = 4
_INT8_HEADROOM = 2
"""int8 is chosen if twice the range of a few pictures fits: the other pictures are unseen."""


class EncodeRequest:
    """One call of `encode-to-store`: its inputs, opened and checked before anything is written, and
    what they ask of the store.

    Args:
        flags: Of the command.
        here: Whether this machine encodes, so that it must have the device that is asked for;
            elsewhere each worker finds its own.

    Attributes:
        plan: The store's, extended by the samples and views that it lacks; or a new one.
        device: Where codec and teacher run; elsewhere as it was typed.

    Raises:
        LatentStoreError: An input is missing or damaged, there is nothing to encode with, or the
            store holds something else.
    """

    def __init__(self, flags: argparse.Namespace, *, here: bool = True) -> None:
        wants_codec = flags.codec_checkpoint or flags.quality is not None or flags.demo_codec
        if not (wants_codec or flags.teacher_checkpoint):
            raise LatentStoreError(
                "nothing to encode with: give --codec_checkpoint FILE, --quality Q or "
                "--demo_codec, or --teacher_checkpoint FILE to add features"
            )
        # Before anything is opened: a job of hours must not end at its name.
        if flags.dataset_id is not None:
            require_name(flags.dataset_id, "a dataset's id")
        require_name(flags.split, "a split's name")
        self.flags = flags
        store = open_location(flags.store, free=True)
        self.location: Location = RememberingLocation.of(store)
        self.device = device_word(flags.device, here=here or flags.dry_run)
        self.reader = open_dataset(read_flags(flags, DatasetFlags))
        self.manifest = list_samples(self.reader, flags.split)
        try_reader(self.reader, self.manifest, tolerated=flags.max_failures or 0)
        self.codec = self.teacher = None
        self._seen: dict[str, dict[str, Any] | None] = {}
        if wants_codec:
            self.codec = load_codec(
                checkpoint=flags.codec_checkpoint,
                quality=flags.quality,
                metric=flags.metric,
                architecture=flags.architecture,
                demo=flags.demo_codec,
            )
        if flags.teacher_checkpoint:
            self.teacher = load_network(flags.teacher_checkpoint, kind="teacher")
            self.teacher_bytes = flags.teacher_checkpoint.read_bytes()
        self.plan = self._settled_plan()

    def write_plan(self) -> None:
        """Writes the plan; settled anew, if another job has appended meanwhile."""
        lease = Lease(
            *(self.location, self.plan.name, "plan"),
            steal=self.flags.steal_lease,
            wait_seconds=30,
            fenced=False,
        )
        with lease:
            if self._found_plan() != self._settled_from:
                self.plan = self._settled_plan()
            write_plan(self.location, self.plan, lease.claim, self._settled_from or b"")

    @property
    def codec_arrays(self) -> list[str]:
        """The paths of the codec's arrays in the store, which nobody ever changes."""
        if self.codec is None:
            return []
        path = codecs.codec_path(self.codec.spec.codec_id)
        return [f"{path}/{name}" for name in self.codec.tables.to_arrays()]

    def ask_encoders(self) -> list[Encoder]:
        """Returns what makes each component that is asked for, in the order of writing.

        Annotations that no sample has are not asked for.
        """
        kind = task_kinds().get(self.reader.task)
        listed = kind is not None and any(map(kind.lists, self.plan.samples))
        encoders = [_ANNOTATIONS[kind](self)] if kind and listed else []
        if self.codec is not None:
            codec = self.codec.spec
            spec = latents_spec(codec, *self.plan.canvas, self._latent_dtype(self.codec))
            make = partial(
                encode_picture,
                self.location,
                codec.codec_id,
                PSNR_ROWS[self.flags.psnr],
                self.device,
            )
            encoders.append(Encoder(spec=spec, make=make))
        if self.teacher is not None:
            teacher_id, entry = self.teacher.teacher_id, self.flags.entry
            backbone = find_backbone(self.teacher.config.backbone)
            signed = backbone.signed_features
            encoding = self._feature_encoding(features_id(teacher_id, entry), signed=signed)
            spec = teacher_spec(
                *(teacher_id, *self.plan.canvas, backbone.channels_at(entry), encoding),
                entry=entry,
                stride=backbone.stride_at(entry),
            )
            make = partial(encode_features, self.location, teacher_id, entry, encoding, self.device)
            encoders.append(Encoder(spec=spec, make=make))
        if not listed:
            # Annotations tell which picture a row was made from; without them the others do.
            encoders = [dataclasses.replace(e, make=partial(tell, e.make)) for e in encoders]
        return encoders

    def look_again(self) -> None:
        """Forgets what was found in the store: leases are held now, and it stays as it is."""
        self._seen.clear()

    def is_complete(self, encoder: Encoder) -> bool:
        """Tells whether a component is whole for the whole plan.

        One of which more than `--max_failures` rows failed is not, whatever its job tolerated;
        without the flag, what that job tolerated counts.
        """
        try:
            group = self._open(encoder.spec.key)
            component.require_intact(self.location, group)
            record = component.read_record(self.location, group)
        except LatentStoreError:
            return False
        if not record.complete or record.pending or record.num_rows != self.plan.num_rows:
            return False
        rows = list(self._rows(encoder.spec.key))
        usable = [row.row for row in rows if row.status == OK]
        if record.pictures_crc32c not in (None, self.plan.pictures_crc32c(usable)):
            return False
        limit = self.flags.max_failures
        if limit is not None and sum(row.status == FAILED for row in rows) > limit:
            return False
        if not encoder.annotation:
            return True
        missed = map(newly_listed(self.plan, encoder.spec), rows)
        return not (_outgrown(self.location, group, encoder) or any(missed))

    def count_failed(self, key: str) -> int:
        """Returns how many rows of a component failed."""
        return sum(record.status == FAILED for record in self._rows(key))

    def make_job(
        self,
        encoders: Sequence[Encoder],
        claims: Mapping[str, LeaseClaim],
        options: PipelineOptions,
    ) -> EncodeJob:
        """Registers codec and teacher, and forgets what is made anew; leases are held."""
        self.look_again()
        if self.codec is not None:
            spec, tables = self.codec.spec, self.codec.tables.to_arrays()
            given = (self.location, spec, tables, self.codec.checkpoint_bytes)
            if not codecs.is_registered(*given):
                # A job on another split may be adding the same codec.
                name = (codecs.codec_path(spec.codec_id), "codec")
                with Lease(self.location, *name, wait_seconds=120, fenced=False):
                    codecs.register_codec(*given)
        if self.teacher is not None:
            codecs.register_teacher(self.location, self.teacher.teacher_id, self.teacher_bytes)
        for encoder in encoders:
            with contextlib.suppress(LatentStoreError):
                stored = self._open(encoder.spec.key)
                if _outgrown(self.location, stored, encoder):
                    creation.forget_component(self.location, self.plan.name, encoder.spec.key)
        return EncodeJob(
            store=self.location,
            split=self.plan.name,
            cores=self.flags.threads or worker_cores(options),
            device=self.device,
            claims=claims,
            max_failures=self.flags.max_failures,
            reader=self.reader,
            encoders=tuple(encoders),
        )

    @property
    def dataset_id(self) -> str:
        """Name of the dataset in the store."""
        given = self.flags.dataset_id
        return self.reader.dataset_id if given is None else str(given)

    def _found_plan(self) -> bytes | None:
        return read_record(self.location, self.dataset_id, self.flags.split)

    def _settled_plan(self) -> ShardPlan:
        """Reads the store's plan and extends it by the samples and views it lacks, or makes one.

        Raises:
            PlanMismatchError: The data root, `--samples_per_shard` or `--canvas` differs.
            DatasetError: A picture has a size that the plan does not allow.
            IntegrityError: The split's groups are there, but its control folder was lost.
        """
        flags, dataset = self.flags, self.dataset_id
        self._settled_from = self._found_plan()
        size = flags.samples_per_shard
        canvas = tuple(flags.canvas) if flags.canvas else None
        if self._settled_from is not None:
            stored = read_plan(self.location, dataset, flags.split, record=self._settled_from)
            plan = _agreeing(stored.require_whole(), size, canvas)
            mended = failed_ids(self.location, plan.name)
            plan = plan.extended(self.manifest, mended=mended, most=flags.max_samples)
        else:
            require_not_lost(self.location, dataset, flags.split, plan=False)
            wanted = self.manifest.first(flags.max_samples)
            size = DEFAULT_SAMPLES_PER_SHARD if size is None else size
            canvas = canvas or choose_canvas(self.reader, self.manifest)
            plan = make_plan(dataset, flags.split, wanted, size, canvas)
        return plan.with_views(flags.views)

    def stored_latent_dtype(self) -> str | None:
        """Returns the dtype of the codec's ŷ in the store; None where it has none."""
        if self.codec is not None:
            with contextlib.suppress(LatentStoreError):
                group = self._open(LatentsReader.key_of(self.codec.spec.codec_id))
                stored = read_metadata(self.location, f"{group.path}/y_hat")
                return None if stored is None else stored.get("data_type")
        return None

    def _latent_dtype(self, codec: Codec) -> str:
        stored = self.stored_latent_dtype()
        if stored is not None or self.flags.y_hat_dtype != "auto":
            return str(stored or self.flags.y_hat_dtype)
        return "int16" if self.flags.dry_run else self._calibrated_dtype(codec)

    def _calibrated_dtype(self, codec: Codec) -> str:
        samples = self.plan.samples
        picks = np.linspace(0, len(samples) - 1, _CALIBRATION_SAMPLES).astype(int)
        highest = 0
        for sample in {samples[i].sample_id: samples[i] for i in picks}.values():
            try:
                image_HWC, _ = read_picture(self.reader, sample)
            except DatasetError:
                continue  # The job itself reports it, with its row.
            y_hat = codec.encode(image_to_tensor(pad_image(image_HWC))).y_hat_BCHW
            highest = max(highest, int(y_hat.abs().max() * codec.spec.y_hat_steps))
        return "int8" if _INT8_HEADROOM * highest <= np.iinfo(np.int8).max else "int16"

    def _feature_encoding(self, features: str, *, signed: bool) -> FeatureEncoding:
        """Returns the encoding that is asked for, or else the stored one; they must not differ."""
        key, asked = FeaturesReader.key_of(features), self.flags.teacher_dtype
        try:
            group = self._open(key)
            record = component.read_record_of(FeaturesRecord, self.location, group)
            features_array = read_metadata(self.location, f"{group.path}/features")
            stored = record.encoding(str((features_array or {})["data_type"]))
        except (MissingComponentError, KeyError):
            return FeatureEncoding.chosen(asked, signed=signed)
        if asked not in (None, stored.name):
            raise IdentityError(
                f"{self.plan.name}/{key} holds features as {stored}, --teacher_dtype is {asked}: "
                "one component has one encoding; leave the flag out, or encode into another store"
            )
        return stored

    def _open(self, key: str) -> zarr.Group:
        # Before the leases are held, what is found is only what a plan is made with.
        if key not in self._seen:
            path = f"{self.plan.name}/{key}"
            self._seen[key] = read_metadata(self.location, path)
        return component.opened_component(self.location, self.plan.name, key, self._seen[key])

    def _rows(self, key: str) -> Iterator[RowRecord]:
        return finished_rows(self.location, self.plan.name, key)


def _labels_encoder(request: EncodeRequest) -> Encoder:
    reader, canvas = request.reader, request.plan.canvas
    spec = labels_spec(*canvas, reader.class_names, reader.label_ids)
    return Encoder(spec=spec, make=partial(encode_labels, reader, canvas), annotation=True)


def _boxes_encoder(request: EncodeRequest) -> Encoder:
    # Of the whole manifest: with --max_samples, the rest can follow later.
    most = max(samples.largest("num_boxes") for samples in (request.plan.samples, request.manifest))
    room = layout.round_up(max(most, 1), BOX_MULTIPLE)
    with contextlib.suppress(LatentStoreError):
        path = f"{request.plan.name}/{BoxesReader.key_of()}"
        stored = read_metadata(request.location, f"{path}/boxes")
        room = max([room, *(stored or {}).get("shape", [])[1:2]])
    make = partial(encode_boxes, request.reader, room)
    spec = boxes_spec(room, request.reader.class_names)
    return Encoder(spec=spec, make=make, annotation=True)


_ANNOTATIONS: dict[type[ComponentReader], Callable[[EncodeRequest], Encoder]] = {
    LabelsReader: _labels_encoder,
    BoxesReader: _boxes_encoder,
}


def _outgrown(location: Location, group: zarr.Group, encoder: Encoder) -> bool:
    """Tells whether stored annotations have other arrays than the plan needs: they are made anew.

    A shard of an array is one object, so that arrays grow along the samples alone.
    """
    if not encoder.annotation:
        return False
    wanted = {f"{group.path}/{array.name}": array.shape for array in encoder.spec.arrays}
    stored = read_all_metadata(location, wanted)
    return any(
        array is not None and tuple(array.get("shape", [])[1:]) != tuple(wanted[path])
        for path, array in stored.items()
    )


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
