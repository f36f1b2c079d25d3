"""Measures one network on one split: receives every image, segments it, counts pixels and bytes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from latent_store import index
from latent_store.component_readers import ComponentReader
from latent_store.errors import DatasetError
from latent_store.layout import coded_size, shard_of
from latent_store.schema import IGNORE_LABEL, LATENT_STRIDE
from training.bench import Bench
from training.candidates import Candidate
from training.complexity import Macs, count_macs, network_macs
from training.inference import Pipeline
from training.metrics import ConfusionMatrix
from training.points import POINT_VERSION, ImageRate, Point, SampleResult

_PERMUTATION_SEED = 0
_KEY_DIGITS = 24


def measure(
    bench: Bench,
    candidate: Candidate,
    rows: np.ndarray,
    on_map: Callable[[int, np.ndarray], object] = lambda row, map_HW: None,
) -> Point:
    """Measures one network on ``rows``.

    Args:
        bench: The split.
        candidate: The network and its codec.
        rows: Rows of the split, from :meth:`Bench.rows`.
        on_map: Called with each row and its map at original size, uint8 [H, W].

    Raises:
        DatasetError: No pixel of these rows has a label, or a label is no class.
        IntegrityError: A stream does not decode to the store's ŷ.
    """
    pipeline = Pipeline(bench, candidate)
    others = dict(zip(rows.tolist(), permuted(rows).tolist(), strict=True))
    mixed = ConfusionMatrix(len(bench.class_names))
    total = ConfusionMatrix(len(bench.class_names))
    samples: list[SampleResult] = []
    for batch, size in bench.batches(rows):
        maps_BHW, rates = pipeline.segment(batch, size)
        for row, map_HW, rate in zip(batch, maps_BHW, rates, strict=True):
            labels_HW = bench.read_labels(row)
            counts_KK = _compare(labels_HW, map_HW, total)
            samples.append(_sample_result(bench, row, rate, counts_KK))
            if bench.options.permute:
                _compare(bench.read_labels(others[row]), map_HW, mixed)
            on_map(row, map_HW[: labels_HW.shape[0], : labels_HW.shape[1]])
    if not total.pixels:
        message = (
            f"every pixel of the {len(rows)} images of {bench.split.plan.name} is labelled "
            f"{IGNORE_LABEL} (ignore): there is nothing to compare with; encode a split with labels"
        )
        raise DatasetError(message)
    permuted_miou = mixed.miou() if bench.options.permute and len(rows) > 1 else None
    return _point(bench, candidate, rows, samples, total, permuted_miou)


def permuted(rows: np.ndarray) -> np.ndarray:
    """Returns ``rows`` so shuffled that none stays where it was (but a single one).

    One cycle through a random order: neighbours of a video sequence look too much alike for a
    shift by one to be a control.
    """
    order = np.random.default_rng(_PERMUTATION_SEED).permutation(len(rows))
    moved = np.empty_like(rows)
    moved[order] = rows[np.roll(order, 1)]
    return moved


def point_key(bench: Bench, candidate: Candidate, rows: np.ndarray) -> str:
    """Returns the digest of everything that a point's numbers depend on.

    That is the checkpoint, the codec's identity, the split, the rows, the stored objects that they
    are read from (length and crc32c of each), and the options; not the batch size or the device,
    which are meant to make no difference.
    """
    shards = {shard_of(int(row), bench.split.plan.samples_per_shard) for row in rows}
    content = {
        "version": POINT_VERSION,
        "checkpoint": candidate.sha256,
        "codec": candidate.spec.identity,
        "split": bench.split.plan.name,
        "rows": rows.tolist(),
        "sample_ids": bench.split.sample_ids(rows),
        "objects": {reader.key: _objects(reader, shards) for reader in bench.readers(candidate)},
        "decode": bench.options.decode,
        "permute": bench.options.permute,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:_KEY_DIGITS]


def _objects(reader: ComponentReader, shards: set[int]) -> list[list[object]]:
    split = reader.split
    name = f"{index.part_name(reader.key)}.objects"
    table = index.read_table(split.store.location, index.index_key(split.plan.name, name))
    rows = table.to_pylist()
    return [[r["key"], r["length"], r["crc32c"]] for r in rows if r["shard"] in shards]


def _compare(labels_HW: np.ndarray, map_HW: np.ndarray, total: ConfusionMatrix) -> torch.Tensor:
    """Adds one image, at the extent that both have, to ``total``; returns its own counts [K, K]."""
    height = min(labels_HW.shape[0], map_HW.shape[0])
    width = min(labels_HW.shape[1], map_HW.shape[1])
    labels = torch.from_numpy(labels_HW[:height, :width])
    prediction = torch.from_numpy(map_HW[:height, :width])
    before_KK = total.counts_KK.clone()
    total.update(labels, prediction)
    return total.counts_KK - before_KK


def _sample_result(
    bench: Bench, row: int, rate: ImageRate, counts_KK: torch.Tensor
) -> SampleResult:
    height, width = (int(n) for n in bench.split.sizes([row])[0])
    return SampleResult(
        sample_id=bench.split.sample_ids([row])[0],
        pixels=height * width,
        rate=rate,
        hits=tuple(counts_KK.diag().tolist()),
        labelled=tuple(counts_KK.sum(1).tolist()),
        predicted=tuple(counts_KK.sum(0).tolist()),
    )


def _point(
    bench: Bench,
    candidate: Candidate,
    rows: np.ndarray,
    samples: Sequence[SampleResult],
    total: ConfusionMatrix,
    permuted_miou: float | None,
) -> Point:
    config, spec = candidate.config, candidate.spec
    psnr = bench.latents(spec.codec_id).quality(rows)["psnr"]
    psnr = psnr[np.isfinite(psnr)]
    macs = _server_macs(bench, candidate, int(rows[0]))
    keep = len(config.channels) if config.channels else None
    ranking = (
        None
        if candidate.ranking_id is None
        else bench.ranked(spec.codec_id, candidate.ranking_id).ranking
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
        miou=total.miou(),
        class_iou=tuple(None if math.isnan(v) else v for v in total.iou()),
        constant_class=int(total.counts_KK.sum(1).argmax()),
        constant_miou=total.constant_miou(),
        permuted_miou=permuted_miou,
        psnr=float(psnr.mean()) if psnr.size else None,
        psnr_samples=int(psnr.size),
        macs=macs.true,
        macs_thop=macs.thop,
        macs_parts=macs.parts,
        samples=tuple(samples),
        seed=candidate.seed,
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
