"""CompressAI is loaded as far as the hyperprior needs it, and whole for who asks for more."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from latent_store.codec.deferred import deferred


def run(code: str) -> list[str]:
    """Returns what a process of its own prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_coding_loads_neither_torch_geometric_nor_torchvision() -> None:
    code = """
import sys
import numpy as np
from latent_store.codec import decode_y, encode_y, load_codec, stock
codec = load_codec(demo=True)
y, indexes = np.ones((192, 4, 4), int), np.zeros((192, 4, 4), int)
assert (decode_y(codec.tables, encode_y(codec.tables, y, indexes), indexes) == 1).all()
for name in stock._HOMES:
    if name != "model_urls":
        getattr(stock, name)
print(*(name in sys.modules for name in ("torch", "torch_geometric", "torchvision")))
import compressai
from compressai.models import ScaleHyperprior, Cheng2020Anchor
from compressai import zoo
print(ScaleHyperprior is stock.ScaleHyperprior, compressai.layers.GDN is stock.GDN)
print(compressai.get_entropy_coder(), zoo.models["bmshj2018-hyperprior"].__name__)
print(compressai.registry.MODELS["bmshj2018-hyperprior"] is ScaleHyperprior)
print(compressai.__version__, "torch_geometric" in sys.modules)
"""
    assert run(code) == [
        *("True", "False", "False"),
        *("True", "True", "ans", "bmshj2018_hyperprior", "True"),
        *("1.2.8", "True"),
    ]


@pytest.mark.slow
def test_where_that_fails_all_of_it_is_imported() -> None:
    code = """
import sys
class Once:
    missing = True
    def find_spec(self, name, path=None, target=None):
        if name == "compressai.models.google" and self.missing:
            self.missing = False
            raise ImportError(name)
sys.meta_path.insert(0, Once())
from latent_store.codec import load_codec
print(load_codec(demo=True).spec.channels, "torch_geometric" in sys.modules)
"""
    assert run(code) == ["192", "True"]


def test_what_is_imported_already_is_taken() -> None:
    code = """
import warnings
warnings.simplefilter("ignore")
import compressai
from latent_store.codec import stock
print(stock.ScaleHyperprior is compressai.models.ScaleHyperprior)
"""
    assert run(code) == ["True"]


def test_an_init_that_fails_is_run_again_and_is_no_error_for_pickle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "put_off").mkdir()
    (tmp_path / "put_off/inner.py").write_text("value = 1\n")
    init = "from put_off.inner import value\nfrom put_off import inner\nimport lacking\nlate = 2\n"
    (tmp_path / "put_off/__init__.py").write_text(init)
    monkeypatch.syspath_prepend(tmp_path)
    with deferred("put_off", {"put_off": {}}):
        package = importlib.import_module("put_off.inner") and sys.modules["put_off"]
    for _ in range(2):
        with pytest.raises(AttributeError, match=r"'late' .*No module named 'lacking'"):
            _ = package.late
    with monkeypatch.context() as alone:  # asked of every module, others' warnings are errors here
        alone.setattr(sys, "modules", {"put_off": package})
        assert pickle.whichmodule(SimpleNamespace(__module__=None), "late") == "__main__"
    (tmp_path / "lacking.py").write_text("")
    importlib.invalidate_caches()
    assert (package.late, package.value) == (2, 1)
    assert not hasattr(package, "later")
