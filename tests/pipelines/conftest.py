"""What the tests of jobs share: small inputs, and a way to run jobs on them quickly."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.jobs import component_job
from tests.pipelines.tiny_jobs import in_turn, make_inputs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root of three pictures, and a codec's checkpoint; read only."""
    root = tmp_path_factory.mktemp("inputs")
    make_inputs(root)
    return root


@pytest.fixture
def serial(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job's elements run one after another, as a runner may do it: Beam takes a second a run."""
    monkeypatch.setattr(component_job, "run_over_shards", in_turn)
