"""The examples of docstrings: each is run on a small store, and says what it prints."""

from __future__ import annotations

import doctest
import importlib
import shutil
from pathlib import Path

import pytest

from tests.conftest import OF_FILE, TinyStore

ROOT = Path(__file__).parent.parent
ROOMS = ("latent_store", "training", "pipelines")
HAVE = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for room in ROOMS
    for path in (ROOT / room).rglob("*.py")
    if ">>> " in path.read_text()
)
"""The modules that have some."""


def test_modules_have_examples() -> None:
    assert {"latent_store", "latent_store.store", "latent_store.torch"} <= set(HAVE)


@pytest.mark.skipif(bool(OF_FILE), reason="types of ŷ are those of the demo's codec")
@pytest.mark.parametrize("name", HAVE)
def test_examples_print_what_they_say(
    name: str, tiny_store: TinyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_store.url, tmp_path / "city.zarr")
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    tests = doctest.DocTestFinder(exclude_empty=True).find(module)
    results = [doctest.DocTestRunner().run(test) for test in tests]
    assert sum(found.failed for found in results) == 0
    written = Path(module.__file__ or "").read_text().count(">>> ")
    assert sum(found.attempted for found in results) == written
