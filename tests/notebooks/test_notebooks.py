"""Every notebook runs from top to bottom on a real store, as it is committed: without outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import TinyStore
from training import evaluate

NOTEBOOKS = sorted((Path(__file__).parents[2] / "latent_store/notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def results(tiny_store: TinyStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an evaluation of the store's teacher found."""
    folder = tmp_path_factory.mktemp("evaluation")
    flags = [
        "--dataset",
        "cityscapes",
        "--split",
        "val",
        "--pictures",
        "0",
        "--device",
        "cpu",
        "--output",
        str(folder),
    ]
    checkpoint = ["--checkpoint", str(tiny_store.teacher)]
    assert evaluate.main(["--store", str(tiny_store.url), *flags, *checkpoint]) == 0
    return folder / "results.json"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(
    path: Path,
    tiny_store: TinyStore,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("LATENT_STORE", str(tiny_store.url))
    monkeypatch.setenv("LATENT_EVALUATION", str(results))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": tmp_path}}).execute()
    assert any(cell.outputs for cell in code)
