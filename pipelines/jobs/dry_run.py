"""What a call of `encode-to-store` would do, and what it would take, measured on one picture.

The picture of the middle size is encoded for real, into a store of its own in a temporary folder;
nothing is written where `--store` says.
"""

from __future__ import annotations

import argparse
import copy
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from latent_store.components import creation
from latent_store.format.plan import ShardPlan, make_plan
from latent_store.format.plan_files import write_plan
from latent_store.format.samples import Sample
from latent_store.line_progress import in_words
from latent_store.shards import receipts
from latent_store.shards.receipts import OK
from latent_store.storage.location import Location
from latent_store.storage.object_stores import open_location
from pipelines.jobs.component_job import finished_rows
from pipelines.jobs.encode_request import EncodeRequest
from pipelines.jobs.encoding import Encoder, load_stem, load_store_codec

_TRIES = 4
"""Pictures that are tried, where the first ones cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One picture, encoded for real.

    Attributes:
        seconds: For all components together, from the picture's file to their objects.
        at_once: Pictures that a process of the job has under way.
        bytes_of: Component -> bytes of its objects.
    """

    sample: Sample
    seconds: float
    at_once: int
    bytes_of: Mapping[str, int]


def describe_request(request: EncodeRequest, options: PipelineOptions) -> str:
    """Returns rows, shards, components, sizes and hours of a call, in words."""
    plan, encoders = request.plan, request.ask_encoders()
    lacking = {e.spec.key: _lacking(request, e) for e in encoders if not request.is_complete(e)}
    missing = [encoder for encoder in encoders if encoder.spec.key in lacking]
    trial = _try_one(request, missing, options) if missing else None
    lines = _describe_plan(plan)
    for encoder in encoders:
        spec, samples = encoder.spec, lacking.get(encoder.spec.key)
        raw = sum(np.dtype(a.dtype).itemsize * math.prod(a.shape) for a in spec.arrays)
        total = raw * len(plan.samples) / 2**20
        line = f"  {spec.key:<48} {total:10.1f} MiB before compression   "
        if samples is None:
            line += "complete"
        elif trial is None:
            line += "to write"
        else:
            bytes_after = trial.bytes_of[spec.key] * _pictures_of_it(trial.sample, samples)
            line += f"to write, about {bytes_after / 2**20:.2f} MiB after it"
        lines.append(line)
    if trial is not None:
        lines += _describe_trial(request, trial, max(lacking.values(), key=len))
    elif missing:
        lines.append("  no picture could be used to measure time and compression")
    return "\n".join(lines)


def _describe_plan(plan: ShardPlan) -> list[str]:
    sizes = sorted({(s.height, s.width) for s in plan.samples if s.has_size})
    size = f"{sizes[0][0]}x{sizes[0][1]}" if len(sizes) == 1 else f"{len(sizes)} sizes"
    place = "on a canvas of" if plan.mixed_sizes else "coded at"
    size += f", {place} {plan.canvas[0]}x{plan.canvas[1]}"
    shards = f"{plan.num_shards} shards of {plan.samples_per_shard}"
    lines = [f"{plan.name}: {plan.describe_samples()} of {size}, in {shards}"]
    unread = sum(not sample.has_size for sample in plan.originals)
    if unread:
        lines.append(f"  {unread} of the pictures have no readable header: their rows will fail")
    return lines


def _describe_trial(request: EncodeRequest, trial: Trial, samples: Sequence[Sample]) -> list[str]:
    sample, one = trial.sample, sum(trial.bytes_of.values())
    seconds = trial.seconds * _pictures_of_it(sample, samples) / trial.at_once
    process = f"one process, {trial.at_once} picture{'s' * (trial.at_once > 1)} at a time"
    picture = f"{sample.sample_id}, {sample.height}x{sample.width}"
    measured = f"{picture}, {trial.seconds:.2f} s, {one / 2**10:.1f} KiB"
    where = f"take about {in_words(seconds)} in {process}, on {request.device}"
    return [
        f"  measured on one picture, encoded for real: {measured}",
        f"  at this rate {len(samples)} of them, by their pixels, {where}",
    ]


def _lacking(request: EncodeRequest, encoder: Encoder) -> list[Sample]:
    """Returns the samples of the shards that a component's job would write."""
    plan = request.plan
    done = receipts.finished_shards(request.location, plan.name, encoder.spec.key)
    shards = [shard for shard in range(plan.num_shards) if shard not in done]
    # All are there: it is failed or newly listed rows that are made again, which are few.
    return [sample for shard in shards for _, sample in plan.in_shard(shard)]


def _pictures_of_it(sample: Sample, samples: Sequence[Sample]) -> float:
    """Returns how many pictures of one's coded size have the pixels of those."""
    return sum(math.prod(other.coded_size) for other in samples) / math.prod(sample.coded_size)


def _try_one(
    request: EncodeRequest, encoders: Sequence[Encoder], options: PipelineOptions
) -> Trial | None:
    """Encodes a picture of the middle size; another one where it fails, None after a few."""
    known = [s for s in request.plan.originals if s.has_size]
    known.sort(key=lambda sample: math.prod(sample.coded_size))
    middle = len(known) // 2
    keys = {encoder.spec.key for encoder in encoders}
    for sample in known[middle : middle + _TRIES]:
        with tempfile.TemporaryDirectory(prefix="encode-to-store-") as folder:
            location = open_location(str(Path(folder) / "trial.zarr"))
            found = _encode_one(_moved(request, location, sample), keys, options)
        if found is not None:
            return found
    return None


def _moved(request: EncodeRequest, location: Location, sample: Sample) -> EncodeRequest:
    """Returns a request for one sample alone, elsewhere."""
    plan = request.plan
    moved = copy.copy(request)
    moved.location = location
    moved.plan = make_plan(plan.dataset, plan.split, [sample], 1, plan.canvas)
    dtype = request.stored_latent_dtype() or request.flags.y_hat_dtype
    # Of 16 pictures one is measured: too few to be the rule.
    psnr = "none" if request.flags.psnr == "sample" else request.flags.psnr
    changed = {"dry_run": False, "y_hat_dtype": dtype, "psnr": psnr}
    moved.flags = argparse.Namespace(**{**vars(request.flags), **changed})
    return moved


def _encode_one(request: EncodeRequest, keys: set[str], options: PipelineOptions) -> Trial | None:
    """Encodes the only picture of a request; None if it cannot be used."""
    location, plan = request.location, request.plan
    creation.create_store(location)
    write_plan(location, plan)
    encoders = [e for e in request.ask_encoders() if e.spec.key in keys]
    job = request.make_job(encoders, {}, options)
    for encoder in encoders:
        creation.create_component(location, plan, encoder.spec)
    # What a worker loads once is no part of what a picture takes.
    if request.codec is not None:
        load_store_codec(location, request.codec.spec.codec_id, request.device)
    if request.teacher is not None:
        load_stem(location, request.teacher.teacher_id, request.flags.entry, request.device)
    start = time.perf_counter()
    job.write_shard(0)
    seconds = time.perf_counter() - start
    rows = [row for key in sorted(keys) for row in finished_rows(location, plan.name, key)]
    if not any(row.status == OK for row in rows):
        return None
    bytes_of = {
        key: sum(
            size
            for name, size in location.sizes(f"{plan.name}/{key}").items()
            if not name.endswith("zarr.json")
        )
        for key in keys
    }
    (sample,) = plan.samples
    return Trial(sample=sample, seconds=seconds, at_once=job.at_once, bytes_of=bytes_of)
