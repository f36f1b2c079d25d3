"""Made pictures with the statistics of real ones, and our store of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import latent_store
from latent_store.catalogue.rankings import Ranking, write_ranking
from latent_store.components import creation
from latent_store.components.finalize import finalize
from latent_store.components.labels import labels_spec
from latent_store.components.ranked import ranked_spec
from latent_store.components.writer import ShardWriter
from latent_store.format.schema import ComponentSpec
from latent_store.shards.receipts import RowRecord
from latent_store.storage.location import Location
from tests.latent_store.made_latents import SPLIT, write_latents

CHANNELS, HEIGHT, WIDTH = 192, 1024, 2048
CODEC, RANKING = "made", "made"
PER_SHARD = 16
DISTINCT = 8
"""Pictures that are made; the others are these, shifted."""


@dataclass(frozen=True)
class Pictures:
    """So many pictures; channels in the order of their importance."""

    count: int
    seed: int = 0

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields ŷ, int8 [C, h, w], and labels, uint8 [H, W]."""
        rng = np.random.default_rng(self.seed)
        made = [(_latents(rng), _labels(rng)) for _ in range(min(DISTINCT, self.count))]
        for row in range(self.count):
            y_hat_CHW, labels_HW = made[row % DISTINCT]
            shift = row // DISTINCT
            yield np.roll(y_hat_CHW, shift, 2), np.roll(labels_HW, 16 * shift, 1)


def _latents(rng: np.random.Generator) -> np.ndarray:
    """Makes ŷ: Laplacian, a few loud channels and many that are nearly all 0, loud in places."""
    scale_C = 0.4 * np.exp(-np.arange(CHANNELS) / 30)
    place = np.abs(rng.normal(size=(HEIGHT // 128, WIDTH // 128))) ** 1.5
    place_HW = place.repeat(8, 0).repeat(8, 1)
    y_hat = rng.laplace(size=(CHANNELS, *place_HW.shape)) * scale_C[:, None, None] * place_HW
    return np.clip(np.round(y_hat), -127, 127).astype(np.int8)


def _labels(rng: np.random.Generator) -> np.ndarray:
    """Makes a map of regions with wavy edges, and a border that is ignored."""
    regions = rng.integers(0, 19, (HEIGHT // 128, WIDTH // 128)).astype(np.uint8)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    phase = rng.random(2) * 6
    y = y + (np.sin(x / 37 + phase[0]) * 16).astype(int)
    x = x + (np.sin(y / 41 + phase[1]) * 16).astype(int)
    labels_HW = regions[y.clip(0, HEIGHT - 1) // 128, x.clip(0, WIDTH - 1) // 128]
    labels_HW[-60:] = 255
    return labels_HW


def write_ours(url: Path, pictures: Pictures) -> None:
    """Writes a store of latents, labels and a ranked copy, which is in the same order."""
    made = list(pictures)
    write_latents(
        url,
        lambda row: made[row][0],
        channels=CHANNELS,
        counts=(pictures.count,),
        samples_per_shard=PER_SHARD,
        size=(HEIGHT, WIDTH),
        dtype="int8",
    )
    location, store = Location(url), latent_store.open(url)
    canvas = store[SPLIT].plan.canvas
    _write(location, labels_spec(*canvas), lambda row: {"segmentation": made[row][1]}, {})
    ranking = Ranking(
        ranking_id=RANKING,
        codec_id=CODEC,
        method="random",
        order=tuple(range(CHANNELS)),
        cuts=(16, CHANNELS),
        score=(0.0,) * CHANNELS,
        tied_at_cut={16: 0, CHANNELS: 0},
        num_samples=pictures.count,
        dataset="cityscapes",
        split="train",
        seed=0,
    )
    write_ranking(location, ranking)
    spec = ranked_spec(store.codec(CODEC), RANKING, ranking.order, ranking.cuts, canvas, "int8")
    cuts = {f"bitstream/cut_{n}": np.zeros(2) for n in _CUTS}
    _write(location, spec, lambda row: {"y_hat": made[row][0]} | cuts, {"bitstream/scalable": b""})


_CUTS = ("bytes", "symbols_crc32c", "indexes_crc32c", "bytes_crc32c")


def _write(
    location: Location,
    spec: ComponentSpec,
    make: Callable[[int], Mapping[str, np.ndarray]],
    streams: Mapping[str, bytes],
) -> None:
    plan = latent_store.open(location.address)[SPLIT].plan
    creation.create_component(location, plan, spec)
    writer = ShardWriter(location, plan, spec)
    for shard in range(plan.num_shards):
        rows = [row for row, _ in plan.in_shard(shard)]
        columns = {
            array.name: {row: make(row)[array.name] for row in rows} for array in spec.arrays
        }
        records = [
            RowRecord(row=row, sample_id=sample.sample_id, stats={"image_sha256": "0" * 64})
            for row, sample in plan.in_shard(shard)
        ]
        of_rows = {name: dict.fromkeys(rows, data) for name, data in streams.items()}
        writer.write(shard, columns, of_rows, records)
    finalize(location, plan.name, spec.key)
