"""What a command loads before it knows what it is asked for, and what its workers load at all.

CompressAI alone takes seconds to import, torch and Beam one each. What a process has loaded is told
by its `sys.modules`, and not by a clock.
"""

import pickle
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

import latent_store
from tests.conftest import TinyStore
from training.data.store_source import SourceSpec, StoreSource
from training.tasks.annotations import PixelLabels

ROOT = Path(__file__).parent.parent
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
CODER = ("compressai", "torch_geometric")
HEAVY = (*CODER, "torch", "torchvision", "apache_beam", "matplotlib", "scipy")
CALL = """
import importlib, sys
module, function, *words = sys.argv[1:]
try:
    status = getattr(importlib.import_module(module), function)(words)
except SystemExit as stop:
    status = stop.code
print("loaded", status, *sorted(sys.modules))
"""


def loaded_by(code: str, *words: str) -> tuple[list[str], set[str]]:
    """Returns what a process of its own prints, and the modules that its last line says it has."""
    call = [sys.executable, "-c", code, *words]
    done = subprocess.run(call, capture_output=True, text=True, check=True, cwd=ROOT)
    *printed, last = done.stdout.splitlines()
    assert last.startswith("loaded 0"), done.stderr
    return printed, set(last.split())


def run(command: str, *words: str) -> tuple[list[str], set[str]]:
    return loaded_by(CALL, *SCRIPTS[command].split(":"), *words)


def heavy(modules: set[str], names: Sequence[str] = HEAVY) -> list[str]:
    return [name for name in names if name in modules]


@pytest.mark.parametrize("command", sorted(SCRIPTS))
def test_help_and_version_load_nothing_heavy(command: str) -> None:
    printed, modules = run(command, "--version")
    assert printed[0].split()[0] == command
    assert printed[0].split()[1][0].isdigit()
    assert heavy(modules) == []
    printed, modules = run(command, "--help")
    assert printed[0].startswith(f"usage: {command}")
    assert heavy(modules) == []


def test_looking_at_a_store_loads_nothing_heavy(copied_store: TinyStore) -> None:
    for action in ("inspect", "verify", "finalize"):
        _, modules = run("latent-store", action, str(copied_store.url))
        assert heavy(modules) == []


def test_ranking_by_variance_loads_no_torch(copied_store: TinyStore) -> None:
    words = f"--store {copied_store.url} --dataset cityscapes --method variance --ranking start"
    _, modules = run("channel-frequency", *words.split())
    assert heavy(modules, (*CODER, "torch")) == []


def test_a_worker_that_loads_latents_loads_nothing_heavy(tiny_store: TinyStore) -> None:
    # As a spawned process of the loader does: the command's module, then the work that it is sent.
    code = """
import pickle, sys
import training.train
from latent_store.batches import prefetch
from latent_store.batches.source import CropRule
load = pickle.loads(bytes.fromhex(sys.argv[1]))
rows = load.__self__.rows[:2].tolist()
batch, = load([rows], CropRule(seed=0, crop=32), 0)
assert batch["y_hat_BCHW"].shape == (2, 192, 2, 2)
assert batch["labels_BHW"].shape == (2, 32, 32)
print("loaded 0", *sorted(sys.modules))
"""
    spec = SourceSpec(
        url=str(tiny_store.url),
        split="cityscapes/train",
        annotations=PixelLabels(),
        domain="latent",
        codec_id=latent_store.open(tiny_store.url).codec().codec_id,
    )
    _, modules = loaded_by(code, pickle.dumps(StoreSource(spec).load).hex())
    assert heavy(modules) == []


def test_plots_and_reports_load_no_coder() -> None:
    code = "import sys, training.reports.markdown, training.reports.plots as plots\n"
    code += "from training.tasks.registry import TASKS\nlist(TASKS.values())\n"
    _, modules = loaded_by(code + "print('loaded 0', *sorted(sys.modules))")
    assert "matplotlib" in modules
    assert heavy(modules, CODER) == []
