"""Measures one network on one split: receives every image, runs it, counts hits and bytes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from latent_store.components.reader import ComponentReader
from latent_store.errors import DatasetError
from latent_store.format.layout import coded_size, shard_of
from latent_store.format.schema import LATENT_STRIDE
from training.evaluation.candidates import Candidate
from training.evaluation.complexity import Macs, count_macs, network_macs
from training.evaluation.evaluation_split import Bench
from training.evaluation.pipeline import Pipeline
from training.evaluation.points import POINT_VERSION, Point, SampleResult
from training.selection.rates import ImageRate
from training.tasks.metric import ImageResult

_KEY_DIGITS = 24
_PERMUTATION_SEED = 0


def measure(
    bench: Bench,
    candidate: Candidate,
    rows: np.ndarray,
    on_output: Callable[[int, Any], object] = lambda row, prediction: None,
) -> Point:
    """Measures one network on `rows`.

    Args:
        bench: The split.
        candidate: The network and its codec.
        rows: Rows of the split, from `Bench.rows`.
        on_output: Called with each row and its prediction.

    Raises:
        DatasetError: These rows have nothing to get right, or a label is no class.
        IntegrityError: A stream does not decode to the store's ŷ.
    """
    pipeline = Pipeline(bench, candidate)
    metric, classes = bench.task.metric, len(bench.class_names)
    others = _others(bench, rows)
    samples: list[SampleResult] = []
    mixed: list[ImageResult] = []
    for batch, size in bench.batches(rows):
        predictions, rates = pipeline.outputs(batch, size)
        for row, prediction, rate in zip(batch, predictions, rates, strict=True):
            part = metric.compare(bench.read_truth(row), prediction, classes)
            if row in others:
                mixed.append(metric.compare(bench.read_truth(others[row]), prediction, classes))
            samples.append(_sample(bench, row, rate, part))
            on_output(row, prediction)
    scores = _scores(bench, [sample.part for sample in samples])
    permuted = metric.summary(mixed, bench.class_names)[metric.score] if mixed else None
    return _point(bench, candidate, rows, samples, scores | {"permuted_score": permuted})


def point_key(bench: Bench, candidate: Candidate, rows: np.ndarray) -> str:
    """Returns the digest of everything that a point's numbers depend on.

    That is the checkpoint, how many channels it gets, the codec's identity, the split, the rows,
    the stored objects that they are read from (length and crc32c of each), and the options; not the
    batch size or the device, which are meant to make no difference.
    """
    shards = {shard_of(int(row), bench.split.plan.samples_per_shard) for row in rows}
    content = {
        "version": POINT_VERSION,
        "checkpoint": candidate.sha256,
        "keep": candidate.keep,
        "codec": candidate.spec.identity,
        "split": bench.split.plan.name,
        "rows": rows.tolist(),
        "sample_ids": bench.split.sample_ids(rows),
        "objects": {reader.key: _objects(reader, shards) for reader in bench.readers(candidate)},
        "decode": bench.options.decode,
        "permute": bench.options.permute,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:_KEY_DIGITS]


def permuted_rows(rows: np.ndarray) -> np.ndarray:
    """Returns `rows` so shuffled that none stays where it was (but a single one).

    One cycle through a random order: neighbours of a video sequence look too much alike for a
    shift by one to be a control.
    """
    order = np.random.default_rng(_PERMUTATION_SEED).permutation(len(rows))
    moved = np.empty_like(rows)
    moved[order] = rows[np.roll(order, 1)]
    return moved


def _others(bench: Bench, rows: np.ndarray) -> dict[int, int]:
    """Returns whose truth each row is also compared with; empty where that is not asked for."""
    if not bench.options.permute or len(rows) < 2:
        return {}
    return dict(zip(rows.tolist(), permuted_rows(rows).tolist(), strict=True))


def _sample(bench: Bench, row: int, rate: ImageRate, part: ImageResult) -> SampleResult:
    height, width = (int(n) for n in bench.split.sizes([row])[0])
    (sample_id,) = bench.split.sample_ids([row])
    return SampleResult(sample_id=sample_id, pixels=height * width, rate=rate, part=part)


def _scores(bench: Bench, parts: Sequence[ImageResult]) -> dict[str, Any]:
    """Returns the fields of a point that say how well the whole split went."""
    task, metric = bench.task, bench.task.metric
    if not any(part.counted for part in parts):
        nothing = task.nothing.format(images=f"the {len(parts)} images of {bench.split.plan.name}")
        raise DatasetError(
            f"{nothing}: there is nothing to compare with; encode a split with {task.wanted}"
        )
    summary = metric.summary(parts, bench.class_names)
    of_class = f"{metric.class_title.lower()}/"
    each = [summary.get(of_class + name, math.nan) for name in bench.class_names]
    return {
        "score": summary[metric.score],
        "class_scores": tuple(None if math.isnan(value) else value for value in each),
        "constant_class": metric.constant_class(parts),
        "constant_score": summary.get(f"constant_{metric.score}"),
        "more_scores": {title: summary[name] for name, title in metric.more_scores.items()},
    }


def _objects(reader: ComponentReader, shards: set[int]) -> list[list[object]]:
    rows = reader.objects.to_pylist()
    return [[r["key"], r["length"], r["trailers"].hex()] for r in rows if r["shard"] in shards]


def _point(
    bench: Bench,
    candidate: Candidate,
    rows: np.ndarray,
    samples: Sequence[SampleResult],
    scores: dict[str, Any],
) -> Point:
    config, spec = candidate.config, candidate.spec
    psnr = bench.latents(spec.codec_id).quality(rows)["psnr"]
    psnr = psnr[np.isfinite(psnr)]
    macs = _server_macs(bench, candidate, int(rows[0]))
    keep = candidate.keep
    ranking = (
        None
        if candidate.ranking_id is None
        else bench.ranked(candidate.ranking_id, spec.codec_id).ranking
    )
    return Point(
        key=point_key(bench, candidate, rows),
        label=candidate.label,
        codec_id=spec.codec_id,
        quality=spec.quality,
        domain=config.domain,
        selection=config.selection,
        ranking_id=candidate.ranking_id,
        ranking_method=ranking.method if ranking else None,
        keep=keep,
        tied=ranking.tied_at_cut.get(keep, 0) if ranking and keep else 0,
        channels_total=spec.channels,
        checkpoint=candidate.path.name,
        checkpoint_sha256=candidate.sha256,
        class_names=bench.class_names,
        **scores,
        psnr=float(psnr.mean()) if psnr.size else None,
        psnr_samples=int(psnr.size),
        macs=macs.true,
        macs_thop=macs.thop,
        macs_parts=macs.parts,
        samples=tuple(samples),
        seed=candidate.seed,
        task=bench.task.name,
    )


def _server_macs(bench: Bench, candidate: Candidate, row: int) -> Macs:
    """Counts what the server computes behind the entropy decoder: g_s for pixels, the network."""
    height, width = coded_size(*(int(n) for n in bench.split.sizes([row])[0]))
    macs = network_macs(candidate.config, height, width)
    if candidate.config.domain == "pixel":
        grid = (height // LATENT_STRIDE, width // LATENT_STRIDE)
        g_s = bench.codec(candidate.spec.codec_id).model.g_s
        decoder = count_macs(g_s, (1, candidate.spec.channels, *grid))
        macs.true += decoder.true
        macs.thop += decoder.thop
        macs.parts = {"g_s": decoder.true} | macs.parts
    return macs
