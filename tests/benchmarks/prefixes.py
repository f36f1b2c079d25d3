"""A prefix of the scalable stream against a stream of just those channels."""

from __future__ import annotations

import numpy as np

from latent_store.codec import decode_scalable, encode_scalable, encode_y
from latent_store.tools.decode import decode_gaussians
from tests.benchmarks.bench import Bench, Line

MAX_EXTRA = 4
"""Bytes."""


def measure(bench: Bench) -> list[Line]:
    """Cuts every image's scalable stream at a random number of channels."""
    rng = np.random.default_rng(bench.seed)
    extra, lost, changed = [], 0, 0
    for codec, latents, row in bench.images("prefixes"):
        ranked = bench.store[latents.plan.name].ranked(bench.ranking_id, codec.spec.codec_id)
        order = list(ranked.ranking.order)
        keep = int(rng.integers(1, len(order)))
        gaussians = decode_gaussians(codec, latents, row)
        indexes_CHW = gaussians.indexes_CHW
        y_hat_CHW = latents.read([row])[0, :, : indexes_CHW.shape[1], : indexes_CHW.shape[2]]
        symbols_CHW = gaussians.symbols(y_hat_CHW)
        stream = encode_scalable(codec.tables, symbols_CHW, indexes_CHW, order, [keep, len(order)])
        alone = encode_y(codec.tables, symbols_CHW, indexes_CHW, order[:keep])
        extra.append(len(stream.prefix(keep)) - len(alone))
        decoded = decode_scalable(codec.tables, stream.prefix(keep), indexes_CHW, order, keep)
        decoded = gaussians.y_hat(decoded, order[:keep])
        lost += not np.array_equal(decoded, y_hat_CHW[order[:keep]])
        changed += stream.data != ranked.scalable_string(row, len(order))
    count = len(extra)
    return [
        Line(
            what="prefix for a random N against a stream of its own",
            promised=f"at most {MAX_EXTRA} bytes more",
            measured=f"{min(extra)} to {max(extra)} bytes in {count}",
            holds=max(extra) <= MAX_EXTRA,
        ),
        Line(
            what="ŷ of N channels from that prefix",
            promised="exact",
            measured=f"{lost} of {count} differ",
            holds=not lost,
        ),
        Line(
            what="the same scalable stream when coded again",
            promised="byte for byte",
            measured=f"{changed} of {count} differ",
            holds=not changed,
        ),
    ]
