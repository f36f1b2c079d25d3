"""What the tests of jobs share: small inputs, and a way to run jobs on them quickly."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.jobs import component_job
from tests.pipelines.tiny_jobs import encoding, in_turn, make_inputs, ranking, reordering


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory, made_architecture: str) -> Path:
    """A data root of three pictures, and a codec's checkpoint; read only."""
    root = tmp_path_factory.mktemp("inputs")
    make_inputs(root, made_architecture)
    return root


@pytest.fixture
def serial(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job's elements run one after another, as a runner may do it: Beam takes a second a run."""
    monkeypatch.setattr(component_job, "run_over_shards", in_turn)


@pytest.fixture
def url(inputs: Path, tmp_path: Path, serial: None) -> Path:
    """A store of two of the pictures, with a ranked copy."""
    path = tmp_path / "s.zarr"
    encoding(inputs, "--max_samples", "2")(path)
    ranking()(path)
    reordering()(path)
    return path
