"""Scale indexes over thread counts, memory formats and batch sizes: not one may move."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Iterator

import torch

from latent_store.codec import Codec
from latent_store.codec.hyperprior import scale_indexes
from latent_store.console import progress
from tests.benchmarks.bench import Bench, Line, hyper_symbols

THREADS = (1, 2)
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
BATCHES = (1, 8)


def measure(bench: Bench) -> list[Line]:
    """Computes every image's indexes in every way, in float64 as streams are and in float32."""
    found = {torch.float64: Counter(), torch.float32: Counter()}
    for codec_id in bench.codec_ids:
        for dtype, counts in found.items():
            counts.update(_check_codec(bench, codec_id, dtype))
    ways = f"threads {THREADS}, {' and '.join(FORMATS)}, batches {BATCHES}"
    return [
        Line(
            what=f"scale indexes in {dtype}: {ways}".replace("torch.", ""),
            promised="none moves" if dtype is torch.float64 else "nothing",
            measured=f"{counts['moved']} of {counts['compared'] / 1e6:.1f} million moved",
            holds=not counts["moved"] if dtype is torch.float64 else None,
        )
        for dtype, counts in found.items()
    ]


def _check_codec(bench: Bench, codec_id: str, dtype: torch.dtype) -> Counter[str]:
    codec = bench.codec(codec_id)
    counts: Counter[str] = Counter()
    before = torch.get_num_threads()
    try:
        bar = progress(list(_batches(bench, codec)), desc=f"{dtype} {codec_id}", unit="batch")
        for z_BNHW in bar:
            counts.update(moved_indexes(codec, z_BNHW, dtype))
    finally:
        torch.set_num_threads(before)
    return counts


def moved_indexes(codec: Codec, z_BNHW: torch.Tensor, dtype: torch.dtype) -> dict[str, int]:
    """Compares the indexes of a batch, in every way, with the codec's own.

    Returns:
        How many ``moved`` of how many ``compared``.
    """
    torch.set_num_threads(THREADS[0])
    expected = codec.indexes(z_BNHW)
    moved = compared = 0
    for threads, memory_format, batch in itertools.product(THREADS, FORMATS.values(), BATCHES):
        torch.set_num_threads(threads)
        h_s = copy.deepcopy(codec.model.h_s).to(dtype, memory_format=memory_format)
        for start in range(0, len(z_BNHW), batch):
            part = z_BNHW[start : start + batch]
            found = _indexes(codec, h_s, part.to(dtype, memory_format=memory_format))
            moved += int((found != expected[start : start + batch]).sum())
            compared += found.numel()
    return {"moved": moved, "compared": compared}


def _indexes(codec: Codec, h_s: torch.nn.Module, symbols: torch.Tensor) -> torch.Tensor:
    tables = {name: torch.tensor(a) for name, a in codec.tables.to_arrays().items()}
    median = tables["z_median"].to(symbols.dtype)[None, :, None, None]
    table, bound = (tables[name].to(symbols.dtype) for name in ("scale_table", "scale_bound"))
    with torch.no_grad():
        return scale_indexes(h_s(symbols + median).contiguous(), table, bound)


def _batches(bench: Bench, codec: Codec) -> Iterator[torch.Tensor]:
    for latents, rows in bench.latents(codec.spec.codec_id):
        for start in range(0, len(rows), max(BATCHES)):
            part = rows[start : start + max(BATCHES)]
            yield torch.stack([hyper_symbols(codec, latents, row) for row in part])
