"""Scale indexes over thread counts, memory formats and batch sizes: not one may move."""

from __future__ import annotations

import torch

from latent_store.console import progress
from latent_store.tools.selfcheck import BATCHES, FORMATS, THREADS, check_store
from tests.benchmarks.bench import Bench, Line


def measure(bench: Bench) -> list[Line]:
    """Derives every image's indexes under every setting, in float64 as streams are and in float32.

    The float64 line also compares the checksums of indexes that ranked copies keep.
    """
    total = len(bench.codec_ids) * sum(bench.splits.values())
    with progress(total=total, desc="scale indexes", unit="image") as bar:
        outcomes = [
            check_store(bench.store, codec_id, counts=bench.splits, on_image=bar.update)
            for codec_id in bench.codec_ids
        ]
    ways = f"threads {THREADS}, {' and '.join(FORMATS)}, batches {BATCHES}"
    wrong, checked = (
        sum(getattr(o, n) for o in outcomes) for n in ("wrong_checksums", "checksums")
    )
    lines = []
    for dtype in (torch.float64, torch.float32):
        tallies = [outcome.total(dtype) for outcome in outcomes]
        moved, compared = sum(t.mismatches for t in tallies), sum(t.symbols for t in tallies)
        hit = sum(t.images_hit for t in tallies)
        double = dtype is torch.float64
        stored = f"; {wrong} of {checked} stored checksums differ"
        note = stored if double else f", in {hit} images"
        lines.append(
            Line(
                what=f"scale indexes in {dtype}: {ways}".replace("torch.", ""),
                promised="none moves" if double else "nothing",
                measured=f"{moved} of {compared / 1e6:.1f} million moved{note}",
                holds=not (moved or wrong) if double else None,
            )
        )
    return lines
