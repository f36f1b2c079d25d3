"""Do streams decode alike wherever they are decoded? Scale indexes, derived under every setting.

A decoder reads ŷ with the tables that the scale indexes choose, and one index that moves destroys
the rest of the stream. Here they are derived from stored z strings under several numbers of
threads, memory formats and batch sizes, as this package does it (float64) and as a stock float32
model would, and compared.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from latent_store.codec.checkpoints import codec_from_store
from latent_store.codec.hyperprior import Codec, scale_indexes
from latent_store.codec.numerics import exact_float32, torch_threads
from latent_store.codec.streams import decode_z
from latent_store.codec.symbols import indexes_crc32c
from latent_store.errors import LatentStoreError, MissingComponentError
from latent_store.format.schema import HYPER_STRIDE
from latent_store.store import LatentStore, Split

THREADS = (1, 2)
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
BATCHES = (1, 8)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to run h_s."""

    device: str
    threads: int
    memory_format: str
    batch: int
    dtype: torch.dtype

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return f"{name}, {self.device}, {self.threads} threads, {self.memory_format}, {self.batch}"


@dataclass(kw_only=True)
class Tally:
    """The indexes of one setting against the float64 indexes of one thread, counted image by image.

    Attributes:
        symbols: Compared.
        mismatches: Indexes that differ.
        images_hit: Images with at least one: an rANS decoder goes astray from there on.
    """

    symbols: int = 0
    mismatches: int = 0
    images_hit: int = 0

    def add(self, found: np.ndarray, expected: np.ndarray) -> None:
        """Compares one image's indexes."""
        differing = int((found != expected).sum())
        self.symbols += expected.size
        self.mismatches += differing
        self.images_hit += differing > 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The findings of a check.

    Attributes:
        images: Checked.
        tallies: Setting -> what it gave.
        checksums: Cuts of ranked copies whose stored crc32c of indexes were compared.
        wrong_checksums: Of these, those that differ.
    """

    images: int
    tallies: dict[Setting, Tally] = field(default_factory=dict)
    checksums: int = 0
    wrong_checksums: int = 0

    def total(self, dtype: torch.dtype) -> Tally:
        """Returns the sum over the settings of one dtype."""
        chosen = [t for s, t in self.tallies.items() if s.dtype == dtype]
        return Tally(
            symbols=sum(t.symbols for t in chosen),
            mismatches=sum(t.mismatches for t in chosen),
            images_hit=max((t.images_hit for t in chosen), default=0),
        )

    @property
    def holds(self) -> bool:
        """True if float64 gave the same indexes everywhere, and those that were stored."""
        return self.total(torch.float64).mismatches == self.wrong_checksums == 0


def check_store(
    store: LatentStore,
    codec_id: str | None = None,
    *,
    counts: Mapping[str, int] | None = None,
    device: str = "cpu",
    float32: bool = True,
    on_image: Callable[[int], object] = lambda _: None,
) -> Outcome:
    """Derives scale indexes of every split's images under every setting.

    Args:
        store: The store.
        codec_id: Needed where the store has several codecs.
        counts: Split -> how many of its first images; None for all images of all splits.
        device: `cuda` adds settings on that device.
        float32: Also run the stock model's precision, for comparison.
        on_image: Called with the number of images done, for a progress bar.

    Raises:
        MissingComponentError: No split has latents of that codec.
        LatentStoreError: There is no such device.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise LatentStoreError(f"--device {device}: there is no CUDA device here; use --device cpu")
    codec = codec_from_store(store, codec_id)
    key = f"latents/{codec.spec.codec_id}"
    splits = [store[name] for name in counts or store.splits()]
    splits = [split for split in splits if split.components().get(key)]
    if not splits:
        raise MissingComponentError(
            f"{store.url} has no complete {key} in any split; encode some first"
        )
    dtypes = (torch.float64, torch.float32) if float32 else (torch.float64,)
    checker = _Checker(codec, _settings(device, dtypes))
    for split in splits:
        checker.check_split(split, counts[split.plan.name] if counts else None, on_image)
    return checker.outcome()


def report(outcome: Outcome) -> str:
    """Returns a table, a line a setting, and what follows from it."""
    header = f"{'h_s in':<52} {'symbols':>13} {'mismatches':>11} {'images hit':>12}"
    lines = [
        f"{outcome.images} images; threads, memory format and batch size of each setting:",
        header,
        *(
            f"{setting!s:<52} {t.symbols:>13,} {t.mismatches:>11} {t.images_hit:>12}"
            for setting, t in outcome.tallies.items()
        ),
    ]
    double, single = outcome.total(torch.float64), outcome.total(torch.float32)
    lines.append(f"float64: {double.mismatches} mismatches in {double.symbols:,} symbols")
    if single.symbols:
        lines.append(
            f"float32, as stock CompressAI runs it: {single.mismatches} in {single.symbols:,}; a "
            f"decoder would go astray in up to {single.images_hit} of {outcome.images} images"
        )
    if outcome.checksums:
        lines.append(
            f"stored checksums of indexes: {outcome.wrong_checksums} of {outcome.checksums} differ"
        )
    return "\n".join(lines)


class _Checker:
    """Runs h_s under every setting, and compares."""

    def __init__(self, codec: Codec, settings: Sequence[Setting]) -> None:
        self.codec = codec
        self.tallies = {setting: Tally() for setting in settings}
        self.images = self.checksums = self.wrong_checksums = 0
        tables = codec.tables.to_arrays()
        self._median = torch.from_numpy(tables["z_median"].astype(np.float64))[None, :, None, None]
        self._scale_table = torch.from_numpy(tables["scale_table"].astype(np.float64))
        self._scale_bound = torch.from_numpy(tables["scale_bound"].astype(np.float64))
        kinds = {(s.device, s.dtype, s.memory_format) for s in settings}
        self._h_s = {kind: self._network(*kind) for kind in kinds}

    def check_split(
        self, split: Split, count: int | None, on_image: Callable[[int], object]
    ) -> None:
        """Checks the first images of a split, in batches of one coded size."""
        latents = split.latents(self.codec.spec.codec_id)
        rows = latents.rows[:count]
        groups: dict[tuple[int, int], list[int]] = {}
        for row in rows.tolist():
            groups.setdefault(_hyper_size(split, row), []).append(row)
        for size, members in groups.items():
            for start in range(0, len(members), max(BATCHES)):
                batch = members[start : start + max(BATCHES)]
                strings = [latents.z_string(row) for row in batch]
                z_BNHW = np.stack([decode_z(self.codec.tables, z, *size) for z in strings])
                expected_BCHW = self._compare(torch.from_numpy(z_BNHW))
                self._compare_stored(split, batch, expected_BCHW)
                on_image(len(batch))

    def outcome(self) -> Outcome:
        """Returns what was found."""
        return Outcome(
            images=self.images,
            tallies=self.tallies,
            checksums=self.checksums,
            wrong_checksums=self.wrong_checksums,
        )

    def _compare(self, z_BNHW: torch.Tensor) -> np.ndarray:
        """Tallies every setting on one batch; returns the indexes that the codec derives."""
        with torch_threads(1):
            expected = [self.codec.indexes(z[None])[0].cpu().numpy() for z in z_BNHW]
        for setting, tally in self.tallies.items():
            with torch_threads(setting.threads):
                found = [
                    self._indexes(part, setting) for part in torch.split(z_BNHW, setting.batch)
                ]
            for mine, theirs in zip(np.concatenate(found), expected, strict=True):
                tally.add(mine, theirs)
        self.images += len(expected)
        return np.stack(expected)

    def _indexes(self, z_BNHW: torch.Tensor, setting: Setting) -> np.ndarray:
        """Derives indexes as a decoder would; in float32 the table is the model's own buffer."""
        network = self._h_s[setting.device, setting.dtype, setting.memory_format]
        z_hat = (z_BNHW.double() + self._median).to(setting.device, setting.dtype)
        z_hat = z_hat.contiguous(memory_format=FORMATS[setting.memory_format])
        with torch.no_grad(), exact_float32(torch.device(setting.device)):
            scales = network(z_hat).cpu()
        table, bound = (t.to(setting.dtype) for t in (self._scale_table, self._scale_bound))
        return scale_indexes(scales.contiguous(), table, bound).numpy()

    def _compare_stored(self, split: Split, rows: Sequence[int], indexes_BCHW: np.ndarray) -> None:
        prefix = f"ranked/{self.codec.spec.codec_id}/"
        for key, complete in split.components().items():
            if not (key.startswith(prefix) and complete):
                continue
            ranked = split.ranked(key.removeprefix(prefix), self.codec.spec.codec_id)
            order = list(ranked.ranking.order)
            for row, indexes_CHW in zip(rows, indexes_BCHW, strict=True):
                stored = ranked.cut_checksums(row)["indexes"]
                for cut, crc in zip(ranked.cuts, stored.tolist(), strict=True):
                    self.checksums += 1
                    self.wrong_checksums += indexes_crc32c(indexes_CHW[order[:cut]]) != crc

    def _network(self, device: str, dtype: torch.dtype, memory_format: str) -> nn.Module:
        # From the float64 copy, whose weights are the float32 ones widened: narrowing is exact.
        h_s: nn.Module = copy.deepcopy(self.codec.model.h_s).to("cpu", torch.float64)
        return h_s.to(device, dtype).to(memory_format=FORMATS[memory_format])


def _settings(device: str, dtypes: Sequence[torch.dtype]) -> list[Setting]:
    places = [("cpu", threads) for threads in THREADS]
    places += [] if device == "cpu" else [(device, 1)]
    return [
        Setting(device=place, threads=threads, memory_format=name, batch=batch, dtype=dtype)
        for dtype in dtypes
        for (place, threads), name, batch in itertools.product(places, FORMATS, BATCHES)
    ]


def _hyper_size(split: Split, row: int) -> tuple[int, int]:
    ((height, width),) = split.coded_sizes([row]).tolist()
    return height // HYPER_STRIDE, width // HYPER_STRIDE
