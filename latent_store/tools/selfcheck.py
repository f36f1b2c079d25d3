"""Compares the scale indexes, and means, that decoders derive under different executions of h_s.

A decoder reads ŷ with the tables that the scale indexes choose, and one index that moves destroys
the rest of the stream. Here they are derived from stored z strings under several numbers of
threads, memory formats and batch sizes, as this package does it (float64) and as a stock float32
model would, and compared. A mean that moves by a step moves its element of ŷ, and destroys nothing.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from latent_store.codec.checkpoints import codec_from_store
from latent_store.codec.hyperprior import Codec, Gaussians, in_steps, scale_indexes
from latent_store.codec.numerics import exact_float32, torch_threads
from latent_store.codec.streams import decode_z
from latent_store.codec.symbols import indexes_crc32c
from latent_store.components.latents import LatentsReader
from latent_store.components.ranked import RankedReader
from latent_store.components.registry import ids_of
from latent_store.errors import LatentStoreError, MissingComponentError
from latent_store.format.schema import HYPER_STRIDE
from latent_store.store import LatentStore, Split

THREADS = (1, 2)
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
BATCHES = (1, 8)
DTYPES = (torch.float64, torch.float32)


@dataclass(frozen=True, kw_only=True)
class Execution:
    """One way to run h_s."""

    device: str
    threads: int
    memory_format: str
    batch: int
    dtype: torch.dtype

    @property
    def network(self) -> tuple[str, str, torch.dtype]:
        """The parts that executions with the same copy of h_s have in common."""
        return self.device, self.memory_format, self.dtype

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return f"{name}, {self.device}, {self.threads} threads, {self.memory_format}, {self.batch}"


@dataclass(kw_only=True)
class Tally:
    """Indexes under one execution against the float64 ones of one thread, image by image.

    Attributes:
        symbols: Compared; of a codec with means, as many means are.
        mismatches: Indexes that differ.
        images_hit: Images with at least one: an rANS decoder goes astray from there on.
        moved_means: Means that are other steps of ŷ.
    """

    symbols: int = 0
    mismatches: int = 0
    images_hit: int = 0
    moved_means: int = 0

    def add(self, found: Gaussians, expected: Gaussians) -> None:
        """Compares one image's indexes, and its means."""
        differing = int((found.indexes_CHW != expected.indexes_CHW).sum())
        self.symbols += expected.indexes_CHW.size
        self.mismatches += differing
        self.images_hit += differing > 0
        if expected.means_CHW is not None:
            self.moved_means += np.count_nonzero(found.means_CHW != expected.means_CHW)


@dataclass(kw_only=True)
class SelfCheck:
    """Results of a check of a store.

    Attributes:
        images: Checked.
        tallies: Execution -> the indexes that it gave.
        checksums: Cuts of ranked copies whose stored crc32c of indexes were compared.
        wrong_checksums: Of these, those that differ.
        steps: Of the codec, see `CodecSpec.y_hat_steps`.
    """

    images: int = 0
    tallies: dict[Execution, Tally] = field(default_factory=dict)
    checksums: int = 0
    wrong_checksums: int = 0
    steps: int = 1

    def total(self, dtype: torch.dtype) -> Tally:
        """Returns the sum over the executions of one dtype."""
        chosen = [t for execution, t in self.tallies.items() if execution.dtype == dtype]
        return Tally(
            symbols=sum(t.symbols for t in chosen),
            mismatches=sum(t.mismatches for t in chosen),
            images_hit=max((t.images_hit for t in chosen), default=0),
            moved_means=sum(t.moved_means for t in chosen),
        )

    @property
    def holds(self) -> bool:
        """True if float64 gave the same everywhere, and the indexes that were stored."""
        double = self.total(torch.float64)
        return double.mismatches == double.moved_means == self.wrong_checksums == 0

    def describe(self) -> str:
        """Returns a table, a line an execution, and what follows from it."""
        double, single = (self.total(dtype) for dtype in DTYPES)
        lines = [
            f"{self.images} images; threads, memory format and batch size of each setting:",
            f"{'h_s in':<52} {'symbols':>13} {'mismatches':>11} {'images hit':>12}",
            *(
                f"{execution!s:<52} {t.symbols:>13,} {t.mismatches:>11} {t.images_hit:>12}"
                for execution, t in self.tallies.items()
            ),
            f"float64: {double.mismatches} mismatches in {double.symbols:,} symbols",
            (
                f"float32, as stock CompressAI runs it: {single.mismatches} in {single.symbols:,}; "
                f"a decoder would go astray in up to {single.images_hit} of {self.images} images"
            ),
        ]
        if self.steps > 1:
            lines.append(
                f"means in steps of 1/{self.steps}: in float64 {double.moved_means} of "
                f"{double.symbols:,} differ, in float32 {single.moved_means} of "
                f"{single.symbols:,}; each is a step in ŷ"
            )
        if self.checksums:
            lines.append(
                f"stored checksums of indexes: {self.wrong_checksums} of {self.checksums} differ"
            )
        return "\n".join(lines)


def check_store(
    store: LatentStore,
    codec_id: str | None = None,
    *,
    counts: Mapping[str, int] | None = None,
    device: str = "cpu",
    on_image: Callable[[int], object] = lambda _: None,
) -> SelfCheck:
    """Derives scale indexes of every split's images under every execution.

    Args:
        codec_id: Needed if the store has several codecs.
        counts: Split -> how many of its first images; None for all images of all splits.
        device: `cuda` adds executions on that device.
        on_image: Called with the number of images done, for a progress bar.

    Raises:
        MissingComponentError: No split has latents of that codec.
        LatentStoreError: There is no such device.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise LatentStoreError(f"`device={device}`: there is no CUDA device here; use `device=cpu`")
    splits = [store[name] for name in counts or store.splits()]
    codec = codec_from_store(store, codec_id)
    key = LatentsReader.key_of(codec.spec.codec_id)
    splits = [split for split in splits if split.components().get(key)]
    if not splits:
        raise MissingComponentError(
            f"{store.url} has no complete {key} in any split; encode some first"
        )
    tallies = {execution: Tally() for execution in _executions(device)}
    found = SelfCheck(tallies=tallies, steps=codec.spec.y_hat_steps)
    networks = {
        (device, name, dtype): copy.deepcopy(codec.model.h_s).to(
            device=device, dtype=dtype, memory_format=FORMATS[name]
        )
        for device, name, dtype in {execution.network for execution in found.tallies}
    }
    for split in splits:
        for rows, z_BNHW in _batches(codec, split, counts[split.plan.name] if counts else None):
            with torch_threads(1):
                expected = [codec.gaussians(z_NHW.numpy()) for z_NHW in z_BNHW]
            for execution, tally in found.tallies.items():
                derived = _gaussians(codec, networks[execution.network], z_BNHW, execution)
                for mine, theirs in zip(derived, expected, strict=True):
                    tally.add(mine, theirs)
            _compare_stored(found, codec, split, rows, expected)
            found.images += len(rows)
            on_image(len(rows))
    return found


def _executions(device: str) -> list[Execution]:
    places = [("cpu", threads) for threads in THREADS]
    places += [] if device == "cpu" else [(device, 1)]
    return [
        Execution(device=place, threads=threads, memory_format=name, batch=batch, dtype=dtype)
        for dtype in DTYPES
        for (place, threads), name, batch in itertools.product(places, FORMATS, BATCHES)
    ]


def _batches(codec: Codec, split: Split, count: int | None) -> Iterator[tuple[list[int], Tensor]]:
    """Yields rows of one coded size, and their symbols of ẑ, int32 [B, N, h, w]."""
    latents = split.latents(codec.spec.codec_id)
    rows = latents.rows[:count]
    groups: dict[tuple[int, int], list[int]] = {}
    for row, (height, width) in zip(rows.tolist(), split.coded_sizes(rows).tolist(), strict=True):
        groups.setdefault((height // HYPER_STRIDE, width // HYPER_STRIDE), []).append(row)
    for size, members in groups.items():
        for start in range(0, len(members), max(BATCHES)):
            batch = members[start : start + max(BATCHES)]
            z_NHW = [decode_z(codec.tables, latents.z_string(row), *size) for row in batch]
            yield batch, torch.from_numpy(np.stack(z_NHW))


def _gaussians(
    codec: Codec, h_s: nn.Module, z_BNHW: Tensor, execution: Execution
) -> Iterator[Gaussians]:
    """Derives indexes and means as a decoder would; in float32 the table is the model's buffer."""
    median, table, bound = (
        torch.from_numpy(array.astype(np.float64))
        for array in (codec.tables.z_median, codec.tables.scale_table, codec.tables.scale_bound)
    )
    device, dtype = torch.device(execution.device), execution.dtype
    for part_BNHW in torch.split(z_BNHW, execution.batch):
        z_hat = (part_BNHW.double() + median[:, None, None]).to(device, dtype)
        z_hat = z_hat.contiguous(memory_format=FORMATS[execution.memory_format])
        with torch.no_grad(), exact_float32(device), torch_threads(execution.threads):
            scales, means = codec.family.split(h_s(z_hat).cpu())
        indexes = scale_indexes(scales.contiguous(), table.to(dtype), bound.to(dtype)).numpy()
        steps = None if means is None else in_steps(means, codec.spec.y_hat_steps).numpy()
        for image, indexes_CHW in enumerate(indexes):
            yield Gaussians(
                indexes_CHW=indexes_CHW, means_CHW=None if steps is None else steps[image]
            )


def _compare_stored(
    found: SelfCheck, codec: Codec, split: Split, rows: Sequence[int], expected: list[Gaussians]
) -> None:
    for key, complete in split.components().items():
        ours = complete and ids_of(key).get("codec") == codec.spec.codec_id
        if not ours or not isinstance(ranked := split.component(key), RankedReader):
            continue
        order = list(ranked.ranking.order)
        for row, gaussians in zip(rows, expected, strict=True):
            stored = ranked.cut_checksums(row)["indexes"]
            for cut, crc in zip(ranked.cuts, stored.tolist(), strict=True):
                found.checksums += 1
                found.wrong_checksums += indexes_crc32c(gaussians.indexes_CHW[order[:cut]]) != crc
