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
from latent_store.format.layout import shard_of
from latent_store.format.schema import LATENT_STRIDE
from training.evaluation.complexity import Macs, count_macs, network_macs
from training.evaluation.evaluation_split import EvaluationSplit
from training.evaluation.networks_to_evaluate import EvaluatedNetwork
from training.evaluation.points import POINT_VERSION, Point, SampleResult
from training.selection.rates import ImageRate, StoredStreams
from training.tasks.metric import ImageResult
from training.transmission.inference import ServerNetwork

_KEY_DIGITS = 24
_PERMUTATION_SEED = 0


class Pipeline:
    """The way of one network from the store's streams to predictions."""

    def __init__(self, split: EvaluationSplit, evaluated: EvaluatedNetwork) -> None:
        self.split, self.codec = split, split.codec(evaluated.spec.codec_id)
        self.network = ServerNetwork(evaluated.path, split.device)
        streams = StoredStreams(
            codec=self.codec,
            latents=split.latents(evaluated.spec.codec_id),
            ranked=split.ranked(evaluated),
            decode=split.decode,
        )
        selection = evaluated.config.channel_selection
        self.stop = evaluated.stop
        keeps = [evaluated.keep] if self.stop is None else selection.keeps
        self.receivers = [selection.receiver(streams, n, self.network.gate) for n in keeps]

    def outputs(
        self, rows: Sequence[int], size: tuple[int, int]
    ) -> tuple[list[Any], list[ImageRate]]:
        """Returns predictions and rates of rows of one coded size."""
        if self.stop is not None:
            found = [self._until_confident(row, size, self.stop) for row in rows]
            return [prediction for prediction, _ in found], [rate for _, rate in found]
        y_hat_BCHW, rates = self.receivers[0].receive(rows, size)
        sizes = self.split.stored.sizes(rows).tolist()
        return self.network.predict(y_hat_BCHW, sizes, self.codec), rates

    def _until_confident(
        self, row: int, size: tuple[int, int], stop: float
    ) -> tuple[Any, ImageRate]:
        """Returns prediction and rate at the first cut at which the network is sure, or the last.

        A cut's prefix holds those before it, so its rate is that of all that was sent.
        """
        sizes = self.split.stored.sizes([row]).tolist()
        for receiver in self.receivers:
            y_hat_BCHW, (rate,) = receiver.receive([row], size)
            (prediction,), (sure,) = self.network.predict_surely(y_hat_BCHW, sizes, self.codec)
            if sure >= stop:
                break
        return prediction, rate


def measure(
    split: EvaluationSplit,
    evaluated: EvaluatedNetwork,
    rows: np.ndarray,
    on_output: Callable[[int, Any], object] = lambda row, prediction: None,
) -> Point:
    """Measures one network on rows of `EvaluationSplit.rows`.

    `on_output` is called with each row and its prediction.

    Raises:
        DatasetError: These rows have nothing to get right, or a label is no class.
        IntegrityError: A stream does not decode to the store's ŷ.
    """
    pipeline = Pipeline(split, evaluated)
    metric, classes = split.task.metric, len(split.class_names)
    # Whose truth each row is also compared with.
    others: dict[int, int] = {}
    if split.permute and len(rows) > 1:
        others = dict(zip(rows.tolist(), permuted_rows(rows).tolist(), strict=True))
    samples: list[SampleResult] = []
    mixed: list[ImageResult] = []
    for batch, size in split.batches(rows):
        ids, pixels = split.stored.sample_ids(batch), split.stored.sizes(batch).prod(1).tolist()
        measured = zip(batch, ids, pixels, *pipeline.outputs(batch, size), strict=True)
        for row, sample_id, area, prediction, rate in measured:
            part = metric.compare(split.read_truth(row), prediction, classes)
            if row in others:
                mixed.append(metric.compare(split.read_truth(others[row]), prediction, classes))
            samples.append(SampleResult(sample_id=sample_id, pixels=area, rate=rate, part=part))
            on_output(row, prediction)
    scores = _scores(split, [sample.part for sample in samples])
    permuted = metric.summary(mixed, split.class_names)[metric.score] if mixed else None
    return _point(split, evaluated, rows, samples, scores | {"permuted_score": permuted})


def point_key(split: EvaluationSplit, evaluated: EvaluatedNetwork, rows: np.ndarray) -> str:
    """Returns the digest of everything that a point's numbers depend on.

    That is the checkpoint, how many channels it gets, the codec's identity, the split, the rows,
    the stored objects that they are read from (length and crc32c of each), and the options; not the
    batch size or the device, which are meant to make no difference.
    """
    shards = {shard_of(int(row), split.stored.plan.samples_per_shard) for row in rows}
    content = {
        "version": POINT_VERSION,
        "checkpoint": evaluated.sha256,
        "keep": evaluated.keep,
        **({} if evaluated.stop is None else {"stop": evaluated.stop}),
        "codec": evaluated.spec.identity,
        "split": split.stored.plan.name,
        "rows": rows.tolist(),
        "sample_ids": split.stored.sample_ids(rows),
        "objects": {reader.key: _objects(reader, shards) for reader in split.readers(evaluated)},
        "decode": split.decode,
        "permute": split.permute,
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


def _scores(split: EvaluationSplit, parts: Sequence[ImageResult]) -> dict[str, Any]:
    """Returns the fields of a point that say how well the whole split went."""
    task, metric = split.task, split.task.metric
    if not any(part.counted for part in parts):
        nothing = task.nothing.format(images=f"the {len(parts)} images of {split.stored.plan.name}")
        raise DatasetError(
            f"{nothing}: there is nothing to compare with; encode a split with {task.wanted}"
        )
    summary = metric.summary(parts, split.class_names)
    of_class = f"{metric.class_title.lower()}/"
    each = [summary.get(of_class + name, math.nan) for name in split.class_names]
    confusion_KK = metric.confusion(parts)
    return {
        "score": summary[metric.score],
        "confusion": None if confusion_KK is None else tuple(map(tuple, confusion_KK.tolist())),
        "class_scores": tuple(None if math.isnan(value) else value for value in each),
        "constant_class": metric.constant_class(parts),
        "constant_score": summary.get(f"constant_{metric.score}"),
        "more_scores": {title: summary[name] for name, title in metric.more_scores.items()},
    }


def _objects(reader: ComponentReader, shards: set[int]) -> list[list[object]]:
    rows = reader.objects.to_pylist()
    return [[r["key"], r["length"], r["trailers"].hex()] for r in rows if r["shard"] in shards]


def _point(
    split: EvaluationSplit,
    evaluated: EvaluatedNetwork,
    rows: np.ndarray,
    samples: Sequence[SampleResult],
    scores: dict[str, Any],
) -> Point:
    config, spec = evaluated.config, evaluated.spec
    psnr = split.latents(spec.codec_id).quality(rows)["psnr"]
    psnr = psnr[np.isfinite(psnr)]
    macs = _server_macs(split, evaluated, int(rows[0]))
    keep = evaluated.keep
    ranked = split.ranked(evaluated)
    ranking = ranked.ranking if ranked else None
    return Point(
        key=point_key(split, evaluated, rows),
        label=evaluated.label,
        codec_id=spec.codec_id,
        quality=spec.quality,
        domain=config.domain,
        selection=config.selection,
        ranking_id=evaluated.ranking_id,
        ranking_method=ranking.method if ranking else None,
        keep=keep,
        stop=evaluated.stop,
        tied=ranking.tied_at_cut.get(keep, 0) if ranking and keep else 0,
        channels_total=spec.channels,
        checkpoint=evaluated.path.name,
        checkpoint_sha256=evaluated.sha256,
        class_names=split.class_names,
        **scores,
        psnr=float(psnr.mean()) if psnr.size else None,
        psnr_samples=int(psnr.size),
        macs=macs.true,
        macs_thop=macs.thop,
        macs_parts=macs.parts,
        samples=tuple(samples),
        seed=evaluated.seed,
        task=split.task.name,
        trained=evaluated.trained,
    )


def _server_macs(split: EvaluationSplit, evaluated: EvaluatedNetwork, row: int) -> Macs:
    """Counts what the server computes behind the entropy decoder: g_s for pixels, the network."""
    ((height, width),) = split.stored.coded_sizes([row]).tolist()
    macs = network_macs(evaluated.config, height, width)
    if evaluated.config.domain == "pixel":
        grid = (height // LATENT_STRIDE, width // LATENT_STRIDE)
        g_s = split.codec(evaluated.spec.codec_id).model.g_s
        decoder = count_macs(g_s, (1, evaluated.spec.channels, *grid))
        macs.true += decoder.true
        macs.thop += decoder.thop
        macs.parts = {"g_s": decoder.true} | macs.parts
    return macs
