"""ŷ on disk against the bytes of the real bitstream."""

from __future__ import annotations

from tests.benchmarks.bench import Bench, Line

MAX_RATIO = 1.75


def measure(bench: Bench) -> list[Line]:
    """Compares, for every codec, all objects of ŷ with all streams of ŷ and ẑ."""
    return [_line(bench, codec_id) for codec_id in bench.codec_ids]


def _line(bench: Bench, codec_id: str) -> Line:
    stored = streams = 0
    for latents, _ in bench.latents(codec_id):
        path = f"{latents.plan.name}/{latents.key}/y_hat/c"
        stored += sum(bench.store.location.sizes(path).values())
        streams += int(sum(part.sum() for part in latents.stream_bytes(latents.rows).values()))
        dtype = latents.array("y_hat").dtype
    ratio = stored / streams
    return Line(
        what=f"ŷ on disk, all channels ({codec_id}, {dtype})",
        promised=f"at most {MAX_RATIO} × the bitstream",
        measured=f"{ratio:.3f} × ({stored:,} against {streams:,} bytes)",
        holds=ratio <= MAX_RATIO,
    )
