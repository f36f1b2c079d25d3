"""Seeded damages of a made store: read exactly, or refused."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from latent_store.console import progress
from tests.benchmarks.bench import Bench, Line
from tests.benchmarks.damage import prepare, run_trials
from tests.latent_store.damage import ALLOWED, CRASH, DETECTED, HARMLESS, SILENT


def measure(bench: Bench) -> list[Line]:
    """Runs the trials of ``tests.benchmarks.damage`` from the first seed on."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root)
        trials = run_trials(root, range(bench.trials))
        found = Counter(o.result for o in progress(trials, total=bench.trials, desc="damage"))
    results = (DETECTED, HARMLESS, SILENT, CRASH)
    return [
        Line(
            what="random damage of a made store's objects",
            promised="none unnoticed, no crash",
            measured=", ".join(f"{found[r]} {r}" for r in results) + f" of {bench.trials}",
            holds=set(found) <= set(ALLOWED),
        )
    ]
