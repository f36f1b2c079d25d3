"""Counts what a ranking needs over one shard, and turns the totals into an order.

Plain functions, tested without Beam. Totals are integers, so that they are the same whatever
the order in which a runner adds them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from latent_store.catalogue import rankings
from latent_store.catalogue.rankings import Ranking
from latent_store.components.latents import LatentsReader
from latent_store.errors import RankingError
from latent_store.format.ids import ORIGINAL_VIEW
from latent_store.storage.location import CONTROL, Location
from pipelines.jobs.beam_jobs import Gathering, run_over_shards
from pipelines.jobs.opened import open_latents

FIXED_POINT = 1 << 32
"""Real numbers are summed as integers of this unit: 2.3e-10, and room for 2^31 samples."""


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Sums over samples, as exact integers.

    Attributes:
        samples: How many were counted.
        first: M sums. frequency: times on. variance: of y² (fixed point). entropy: of bits (fixed
            point).
        second: M sums. frequency: of P(on) (fixed point). variance: of y (fixed point). entropy:
            zeros.
    """

    samples: int = 0
    first: tuple[int, ...] = ()
    second: tuple[int, ...] = ()

    def __add__(self, other: Totals) -> Totals:
        first, second = (
            tuple(a + b for a, b in itertools.zip_longest(*pair, fillvalue=0))
            for pair in ((self.first, other.first), (self.second, other.second))
        )
        return Totals(samples=self.samples + other.samples, first=first, second=second)


EMPTY = Totals()

Halves = tuple[Totals, Totals]
"""Totals of two halves of the samples, which say whether another such set would rank alike."""


def add_up(parts: Iterable[Halves]) -> Halves:
    """Adds each half; exact, so that neither order nor grouping matters."""
    first = second = EMPTY
    for part in parts:
        first, second = first + part[0], second + part[1]
    return first, second


def half_of(sample_id: str) -> int:
    """Returns the half, 0 or 1, that a sample belongs to, wherever it lies in a store."""
    return hashlib.sha256(sample_id.encode()).digest()[0] % 2


@dataclass(frozen=True, kw_only=True)
class CountJob:
    """Counts over a split's shards; it is small and picklable, as workers get it.

    Attributes:
        split: `dataset/split`.
        method: One of `METHODS`; `random` counts nothing.
        ranking_id: The ranking that is counted for; its lease is held.
        run_id: Of the run, for which a worker opens the store once.
    """

    store: Location
    split: str
    codec_id: str
    method: str
    ranking_id: str
    run_id: str = field(default_factory=lambda: uuid4().hex)

    @property
    def folder(self) -> str:
        """Place in the store, the one that every worker of every runner can reach, of the network's
        checkpoint and of the sum."""
        return f"{CONTROL}/counts/{self.codec_id}/{self.ranking_id}"

    def run(self, shards: Sequence[int], checkpoint: bytes, options: PipelineOptions) -> Halves:
        """Counts with Beam; `checkpoint` is a dynamic network's, for `frequency`."""
        if self.method == "random":
            return EMPTY, EMPTY
        # What a killed job left, which may have counted with another network.
        self.store.delete_tree(self.folder)
        network = f"{self.folder}/{hashlib.sha256(checkpoint).hexdigest()}.pt" if checkpoint else ""
        try:
            if checkpoint:
                # An object and not a field: Beam compresses what it pickles, at every stage.
                self.store.write(network, checkpoint)
            count = functools.partial(self.count_shard, network)
            gathering = Gathering(add=add_up, keep=self._keep)
            run_over_shards("Count", shards, count, options, gathering)
            halves = json.loads(self.store.read(f"{self.folder}/totals.json"))
        finally:
            self.store.delete_tree(self.folder)
        first, second = (Totals(samples=n, first=tuple(a), second=tuple(b)) for n, a, b in halves)
        return first, second

    def count_shard(self, network: str, shard: int) -> Halves:
        """Counts the usable rows of one shard; reads the per-channel columns, never ŷ.

        Args:
            network: Key of the network's checkpoint, for `frequency`.
            shard: Shard number.
        """
        latents = open_latents(self.store, self.split, self.codec_id, self.run_id)
        usable = set(latents.rows_in(shard).tolist())
        counted = {
            row: half_of(sample.sample_id)
            for row, sample in latents.plan.in_shard(shard)
            if row in usable and sample.view == ORIGINAL_VIEW
        }
        rows, half = (np.array(list(part), dtype=int) for part in (counted, counted.values()))
        first, second = (self._count(latents, network, rows[half == n]) for n in (0, 1))
        return first, second

    def _count(self, latents: LatentsReader, network: str, rows: np.ndarray) -> Totals:
        if not rows.size:
            return EMPTY
        if self.method == "frequency":
            # Loads torch, which other methods need not.
            from pipelines.jobs.gate_counts import count_gates, stored_gate

            loaded = stored_gate(self.store, network)
            pooled = latents.column_part(f"channel_{loaded.config.gate_pool}", rows)
            sounding = latents.column_part("channel_rms", rows) > 0
            on, probability = count_gates(loaded, pooled, sounding)
            first, second = tuple(on.tolist()), _exact_sum(probability)
        elif self.method == "variance":
            rms = latents.column_part("channel_rms", rows).astype(np.float64)
            mean = latents.column_part("channel_mean", rows)
            first, second = _exact_sum(rms**2), _exact_sum(mean)
        else:
            first = _exact_sum(latents.column_part("channel_bits", rows))
            second = (0,) * latents.channels
        return Totals(samples=len(rows), first=first, second=second)

    def _keep(self, halves: Halves) -> None:
        record = [dataclasses.astuple(totals) for totals in halves]
        self.store.write(f"{self.folder}/totals.json", json.dumps(record).encode())


def make_ranking(
    halves: Halves,
    *,
    ranking_id: str,
    codec_id: str,
    channels: int,
    method: str,
    keep: list[int] | None,
    split: str,
    checkpoint_sha256: str | None = None,
    task: str = "any",
    seed: int = 0,
) -> Ranking:
    """Orders the channels by what was counted.

    `frequency`: times on, then mean P(on), then channel number. `variance`: of all values
    of a channel over images and positions (Wang et al., WACV 2022), where every image weighs the
    same, whatever its size. `entropy`: bits. `random`: a permutation by `seed`.

    Raises:
        RankingError: Nothing was counted.
    """
    dataset, _, name = split.partition("/")
    first, second = halves
    totals = first + second
    if not totals.samples and method != "random":
        raise RankingError(f"{split} has no usable samples to rank channels by; encode it first")
    if method == "random":
        keys = [np.random.default_rng(seed).permutation(channels).astype(np.float64)]
    else:
        keys = _keys(totals, method)
    order = rankings.order_channels(*keys)
    cuts = rankings.make_cuts(keep, channels)
    agreement, counted = None, method == "frequency"
    if first.samples and second.samples:
        agreement = rankings.compare_orders(_keys(first, method), _keys(second, method), cuts[:-1])
    return Ranking(
        ranking_id=ranking_id,
        codec_id=codec_id,
        method=method,
        order=tuple(order.tolist()),
        cuts=cuts,
        score=tuple(keys[0].tolist()),
        counts=totals.first if counted else None,
        mean_probability=tuple(keys[1].tolist()) if counted else None,
        tied_at_cut=rankings.ties_at_cuts(keys[0], order, cuts),
        num_samples=totals.samples,
        dataset=dataset,
        split=name,
        checkpoint_sha256=checkpoint_sha256,
        task=task,
        seed=seed if method == "random" else None,
        halves=agreement,
    )


def _keys(totals: Totals, method: str) -> list[np.ndarray]:
    """Returns each channel's score and tie-breaks, float64 [M] each."""
    second = np.array([v / FIXED_POINT / totals.samples for v in totals.second])
    if method == "frequency":
        return [np.array(totals.first, dtype=np.float64), second]
    first = np.array([v / FIXED_POINT / totals.samples for v in totals.first])
    # A variance is a mean square less the squared mean; entropy has no second sum, zeros.
    return [first - second**2]


def _exact_sum(values_BC: np.ndarray) -> tuple[int, ...]:
    # Python integers cannot overflow, and adding them has no order.
    whole_BC = np.rint(values_BC.astype(np.float64) * FIXED_POINT)
    return tuple(sum(map(int, column)) for column in whole_BC.T.tolist())
