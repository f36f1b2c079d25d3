"""Scale indexes over thread counts, memory formats and batch sizes: not one may move."""

from __future__ import annotations

import copy
import itertools
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
    before = torch.get_num_threads()
    found = {torch.float64: [0, 0], torch.float32: [0, 0]}
    try:
        for codec_id in bench.codec_ids:
            codec = bench.codec(codec_id)
            batches = list(_batches(bench, codec))
            for z_BNHW in progress(batches, desc=f"scale indexes {codec_id}", unit="batch"):
                for dtype, counts in found.items():
                    moved, compared = moved_indexes(codec, z_BNHW, dtype)
                    counts[0] += moved
                    counts[1] += compared
    finally:
        torch.set_num_threads(before)
    ways = f"threads {THREADS}, {' and '.join(FORMATS)}, batches {BATCHES}"
    return [
        Line(
            what=f"scale indexes in {dtype}: {ways}",
            promised="none moves" if dtype is torch.float64 else "nothing",
            measured=f"{counts[0]} of {counts[1] / 1e6:.1f} million moved",
            holds=not counts[0] if dtype is torch.float64 else None,
        )
        for dtype, counts in found.items()
    ]


def moved_indexes(codec: Codec, z_BNHW: torch.Tensor, dtype: torch.dtype) -> tuple[int, int]:
    """Compares the indexes of a batch, in every way, with the codec's own.

    Returns:
        ``(how many differ, how many were compared)``.
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
    return moved, compared


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
