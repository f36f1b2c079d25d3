"""Requests: what jobs, a first read and closing ask of an object store, by kind.

    python -m tests.benchmarks.requests

Runs the tests' smallest jobs against moto's S3 server in this process (`pip install 'moto[server]'
s3fs`), which counts what it answers. One picture is a shard; labels and latents are 15 arrays.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import latent_store
from latent_store import cli
from latent_store.codec.families.registry import DEFAULT_ARCHITECTURE
from latent_store.console import make_parser, run_command
from pipelines import encode, frequency, reorder
from pipelines.jobs import component_job
from tests import s3
from tests.benchmarks.table import markdown
from tests.pipelines.tiny_jobs import NAME, SPLIT, encode_args, in_turn, make_inputs, run

KINDS = ("GET", "LIST", "PUT", "DELETE", "HEAD")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = make_parser("python -m tests.benchmarks.requests", __doc__ or "")
    return run_command("benchmarks.requests", lambda: _run(parser.parse_args(argv)))


def _run(_: object) -> int:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        inputs = Path(folder)
        make_inputs(inputs, DEFAULT_ARCHITECTURE)
        patch.setattr(component_job, "run_over_shards", in_turn)
        with s3.serving(patch) as server:
            rows = [_row(server, what, ask) for what, ask in _asked(server, inputs)]
    sys.stdout.write(markdown(["what", "all", *KINDS], rows) + "\n")
    return 0


def _row(server: s3.Server, what: str, ask: Callable[[], object]) -> list[str]:
    server.asked.clear()
    with contextlib.redirect_stderr(sys.stdout):
        ask()
    kinds = server.kinds
    return [what, str(kinds.total()), *(str(kinds[kind]) for kind in KINDS)]


def _asked(server: s3.Server, inputs: Path) -> list[tuple[str, Callable[[], object]]]:
    def url(name: int) -> str:
        return f"{server.url}/{name}.zarr"

    def encoding(name: int, pictures: int) -> Callable[[], object]:
        words = encode_args(inputs, Path("x"), "--max_samples", str(pictures))
        words[words.index("--store") + 1] = url(name)
        return lambda: run(encode.main, *words)

    def over(main: Callable[[list[str]], int], name: int, *flags: str) -> Callable[[], object]:
        return lambda: run(main, "--store", url(name), *SPLIT, "--ranking", "r", *flags)

    variance = ("--method", "variance", "--keep", "8")
    return [
        *((f"encode-to-store, {n} shards, new store", encoding(n, n)) for n in (1, 2)),
        ("encode-to-store, 1 shard more", encoding(2, 3)),
        ("encode-to-store, nothing to do", encoding(2, 3)),
        *((f"channel-frequency, {n} shards", over(frequency.main, s, *variance)) for s, n in _S),
        *((f"reorder-latents, {n} shards", over(reorder.main, s)) for s, n in _S),
        ("finalize, 3 components of 3 shards", lambda: run(cli.main, "finalize", url(2))),
        ("verify, 3 components of 3 shards", lambda: run(cli.main, "verify", url(2))),
        ("opening latents", lambda: latent_store.open(url(2))[NAME].latents()),
        ("opening latents and labels", lambda: _open(url(2))),
    ]


_S = ((1, 1), (2, 3))
"""Stores, and the shards that they have by then."""


def _open(url: str) -> None:
    split = latent_store.open(url)[NAME]
    split.common_rows(split.latents(), split.labels())


if __name__ == "__main__":
    sys.exit(main())
