"""Fixtures of the store's own tests: a made store with a past, and copies that may be damaged."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.benchmarks.damage import prepare
from tests.latent_store.counted import Fetched, count_fetches
from tests.latent_store.damage import Ground


@pytest.fixture(scope="session")
def made_root(tmp_path_factory: pytest.TempPathFactory, made_architecture: str) -> Path:
    """A made store, its past, and stream files; do not write to it."""
    root = tmp_path_factory.mktemp("made")
    prepare(root, made_architecture)
    return root


@pytest.fixture
def ground(made_root: Path) -> Ground:
    """The made store with a private copy; hard links, so on the same file system."""
    scratch = Path(tempfile.mkdtemp(dir=made_root))
    return Ground(made_root / "whole", made_root / "past.zarr", scratch)


@pytest.fixture
def made_copy(made_root: Path, tmp_path: Path) -> Path:
    """A copy of the made store that a test may change as it likes."""
    return Path(shutil.copytree(made_root / "whole" / "made.zarr", tmp_path / "made.zarr"))


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Fetched:
    """What is fetched from stores that are opened during the test."""
    return count_fetches(monkeypatch)
