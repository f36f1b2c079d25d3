"""The ledger of bits against the bytes of the streams."""

from __future__ import annotations

import numpy as np

from tests.benchmarks.bench import Bench, Line

FLUSH = (32, 64)
"""Bits: the coder ends with its state, of which 32 bits at least were not accounted for."""
CUT = 32
"""Bits that a cut may cost more than the flush of a stream of its own: one word."""
ROUNDING = 0.02
"""Bits: what a sum over channels of float32 bits may be off."""


def measure(bench: Bench) -> list[Line]:
    """Compares every image's streams, and every prefix at a cut, with the sum of their bits."""
    excess: dict[str, list[np.ndarray]] = {"y": [], "z": [], "prefix": []}
    for codec_id in bench.codec_ids:
        for latents, rows in bench.latents(codec_id):
            bits = latents.column("channel_bits", rows).astype(np.float64)
            streams = latents.stream_bytes(rows)
            excess["y"].append(8 * streams["y"] - bits.sum(axis=1))
            excess["z"].append(8 * streams["z"] - latents.column("hyper_bits", rows))
            ranked = bench.store[latents.plan.name].ranked(bench.ranking_id, codec_id)
            ordered = bits[:, list(ranked.ranking.order)].cumsum(axis=1)
            upto = ordered[:, np.array(ranked.cuts) - 1]
            excess["prefix"].append((8 * ranked.cut_bytes(rows) - upto).ravel())
    limits = {"y": FLUSH[1], "z": FLUSH[1], "prefix": FLUSH[1] + CUT}
    names = {"y": "streams of ŷ", "z": "streams of ẑ", "prefix": "prefixes of scalable streams"}
    return [
        judge(names[kind], np.concatenate(parts), limits[kind]) for kind, parts in excess.items()
    ]


def judge(name: str, excess: np.ndarray, limit: int) -> Line:
    """Returns the line of one kind of stream.

    Args:
        name: Of the kind.
        excess: Bits of each stream beyond its ledger.
        limit: The most that is promised; the least is the flush's.
    """
    wrong = (excess < FLUSH[0] - ROUNDING) | (excess > limit + ROUNDING)
    return Line(
        what=f"8 · bytes − Σ ledger, {name}",
        promised=f"{FLUSH[0]} to {limit} bits",
        measured=(
            f"{excess.min():.2f} to {excess.max():.2f} bits in {excess.size}, {wrong.sum()} outside"
        ),
        holds=not wrong.any(),
    )
