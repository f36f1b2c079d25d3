"""Measures one network on one split: receives every image, segments it, counts pixels and bytes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn

from latent_store import LatentStore, index
from latent_store.codec import Codec, codec_from_store, tensor_to_image
from latent_store.errors import DatasetError
from latent_store.layout import coded_size, shard_of
from latent_store.reader import ComponentReader, LabelsReader, LatentsReader, RankedReader, Split
from latent_store.schema import IGNORE_LABEL
from training.candidates import Candidate
from training.checkpoints import load_network
from training.complexity import count_macs
from training.gate import ChannelGate
from training.metrics import ConfusionMatrix
from training.points import POINT_VERSION, ImageRate, Point, SampleResult
from training.rates import ChosenStreams, Receiver, ScalableStreams, WholeStreams

_PERMUTATION_SEED = 0
_KEY_DIGITS = 24


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure.

    Attributes:
        decode: Which rows' streams are decoded, see ``rates.DECODE_MODES``.
        permute: Whether each image's map is also compared with another image's label.
        batch_size: Images in one forward pass; they are of one coded size.
        device: Where networks and the codec run.
    """

    decode: str = "all"
    permute: bool = False
    batch_size: int = 1
    device: str = "cpu"


class Bench:
    """One split, opened for measuring networks on it.

    Attributes:
        store, split: What networks are measured on.
        class_names: Of the dataset.
        options: See :class:`Options`.
    """

    def __init__(
        self, store: LatentStore, split: Split, class_names: Sequence[str], options: Options
    ) -> None:
        self.store = store
        self.split = split
        self.class_names = tuple(class_names)
        self.options = options
        self._codecs: dict[str, Codec] = {}
        self._latents: dict[str, LatentsReader] = {}
        self._ranked: dict[tuple[str, str], RankedReader] = {}

    @cached_property
    def labels(self) -> LabelsReader:
        """The split's labels."""
        return self.split.labels()

    def codec(self, codec_id: str) -> Codec:
        """Returns a codec of the store on the device, loaded once."""
        if codec_id not in self._codecs:
            codec = codec_from_store(self.store, codec_id)
            self._codecs[codec_id] = codec.to(self.options.device)
        return self._codecs[codec_id]

    def latents(self, codec_id: str) -> LatentsReader:
        """Returns the reader of one codec's latents, opened once."""
        if codec_id not in self._latents:
            self._latents[codec_id] = self.split.latents(codec_id)
        return self._latents[codec_id]

    def ranked(self, codec_id: str, ranking_id: str) -> RankedReader:
        """Returns the reader of one ranking's copy, opened once."""
        if (codec_id, ranking_id) not in self._ranked:
            reader = self.split.ranked(ranking_id, codec_id)
            self._ranked[codec_id, ranking_id] = reader
        return self._ranked[codec_id, ranking_id]

    def readers(self, candidate: Candidate) -> list[ComponentReader]:
        """Returns the components that a candidate's numbers depend on."""
        codec_id = candidate.spec.codec_id
        readers: list[ComponentReader] = [self.labels, self.latents(codec_id)]
        if candidate.ranking_id is not None:
            readers.append(self.ranked(codec_id, candidate.ranking_id))
        return readers

    def rows(self, candidates: Sequence[Candidate], max_samples: int | None) -> np.ndarray:
        """Returns the rows that every candidate can be measured on: all see the same images.

        Raises:
            DatasetError: There is none.
        """
        readers = [reader for c in candidates for reader in self.readers(c)]
        rows = self.split.common_rows(*readers)[:max_samples]
        if not len(rows):
            message = (
                f"{self.split.plan.name} of {self.store.url} has no sample with both labels and "
                "latents of every codec and ranking asked for; encode some, or see "
                "`latent-store inspect` for what failed"
            )
            raise DatasetError(message)
        return rows

    def batches(self, rows: np.ndarray) -> Iterator[tuple[list[int], tuple[int, int]]]:
        """Yields rows in order, in batches of one coded size, with that size."""
        batch: list[int] = []
        batch_size: tuple[int, int] = (0, 0)
        for row, (height, width) in zip(rows.tolist(), self.split.sizes(rows), strict=True):
            size = coded_size(int(height), int(width))
            if batch and (size != batch_size or len(batch) == self.options.batch_size):
                yield batch, batch_size
                batch = []
            batch.append(row)
            batch_size = size
        if batch:
            yield batch, batch_size

    def read_labels(self, row: int) -> np.ndarray:
        """Returns a row's labels at original size, uint8 [H, W].

        Raises:
            DatasetError: They contain a class that the dataset does not have.
        """
        height, width = (int(n) for n in self.split.sizes([row])[0])
        labels_HW = self.labels.read([row], (0, 0, height, width))[0]
        classes = labels_HW[labels_HW != IGNORE_LABEL]
        if classes.size and classes.max() >= len(self.class_names):
            message = (
                f"the labels of {self.split.sample_ids([row])[0]} contain train id "
                f"{int(classes.max())}, but {self.split.dataset} has {len(self.class_names)} "
                f"classes (0 to {len(self.class_names) - 1}, {IGNORE_LABEL} = ignore); encode the "
                "split again with that dataset's reader"
            )
            raise DatasetError(message)
        return labels_HW


class Pipeline:
    """One candidate's way from the store's streams to maps.

    The gate, which runs at the camera, is split off the network: what is behind the decoder sees
    only the latents that were sent.
    """

    def __init__(self, bench: Bench, candidate: Candidate) -> None:
        self.bench = bench
        self.candidate = candidate
        self.device = torch.device(bench.options.device)
        self.network = load_network(candidate.path, map_location=bench.options.device).network
        self.codec = bench.codec(candidate.spec.codec_id)
        self.gate = split_gate(self.network)
        self.receiver = self._receiver()

    def segment(
        self, rows: Sequence[int], size: tuple[int, int]
    ) -> tuple[np.ndarray, tuple[ImageRate, ...]]:
        """Returns maps at coded size, uint8 [B, H, W], and rates, of rows of one coded size."""
        received = self.receiver.receive(rows, size)
        y_hat_BCHW = torch.from_numpy(np.ascontiguousarray(received.y_hat_BCHW))
        return self.maps(y_hat_BCHW).cpu().numpy(), received.rates

    def maps(self, y_hat_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns maps of decoded latents, uint8 [B, 16h, 16w]."""
        codec = self.codec if self.candidate.config.domain == "pixel" else None
        return segment_latents(self.network, y_hat_BCHW, codec, self.device)

    def _receiver(self) -> Receiver:
        codec, decode = self.codec, self.bench.options.decode
        latents = self.bench.latents(self.candidate.spec.codec_id)
        config = self.candidate.config
        if config.selection == "static":
            ranked = self.bench.ranked(latents.spec.codec_id, str(self.candidate.ranking_id))
            return ScalableStreams(codec, latents, ranked, config.channels or (), decode)
        if self.gate is not None:
            return ChosenStreams(codec, latents, self._choose, decode)
        return WholeStreams(codec, latents, decode)

    def _choose(self, rows: np.ndarray) -> np.ndarray:
        latents = self.bench.latents(self.candidate.spec.codec_id)
        pooled_BC = latents.column(f"channel_{self.candidate.config.gate_pool}", rows)
        return choose_channels(self.gate, torch.from_numpy(pooled_BC).to(self.device))


def split_gate(network: nn.Module) -> ChannelGate | None:
    """Takes the gate out of a network, which then takes latents that were selected already."""
    gate = getattr(network, "gate", None)
    if gate is not None:
        network.gate = None
    return gate


def choose_channels(gate: ChannelGate, pooled_BC: torch.Tensor) -> np.ndarray:
    """Returns which channels a gate keeps, bool [B, C]."""
    with torch.inference_mode():
        return gate(pooled_BC).gate_BC.cpu().numpy().astype(bool)


def segment_latents(
    network: nn.Module, y_hat_BCHW: torch.Tensor, codec: Codec | None, device: torch.device
) -> torch.Tensor:
    """Returns the maps that a network makes of decoded latents.

    Args:
        network: Without its gate.
        y_hat_BCHW: Integers, the channels that the network takes (for pixels: all).
        codec: For a network on pixels: decodes x̂, whole, rounded to 8 bits. None on latents.
        device: Where the network is.

    Returns:
        uint8 [B, 16h, 16w] on the device.
    """
    with torch.inference_mode():
        if codec is None:
            network_input = y_hat_BCHW.to(device, torch.float32)
        else:
            pictures_BHWC = torch.from_numpy(tensor_to_image(codec.reconstruct(y_hat_BCHW)))
            network_input = pictures_BHWC.to(device).permute(0, 3, 1, 2).float().div_(255)
        return network(network_input)["logits"].argmax(dim=1).to(torch.uint8)


def measure(
    bench: Bench,
    candidate: Candidate,
    rows: np.ndarray,
    on_image: Callable[[int], object] = lambda _: None,
) -> Point:
    """Measures one network on ``rows``.

    Args:
        bench: The split.
        candidate: The network and its codec.
        rows: Rows of the split, from :meth:`Bench.rows`.
        on_image: Called with the number of images after each batch.

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
            counts_KK = _compare(bench.read_labels(row), map_HW, total)
            samples.append(_sample_result(bench, row, rate, counts_KK))
            if bench.options.permute:
                _compare(bench.read_labels(others[row]), map_HW, mixed)
        on_image(len(batch))
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
    height, width = (int(n) for n in bench.split.sizes(rows[:1])[0])
    macs = count_macs(config, *coded_size(height, width))
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
        keep=len(config.channels) if config.channels else None,
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
        samples=tuple(samples),
    )
