"""The package without any extra: every command helps, or names the extra that it lacks."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import TinyStore

ROOT = Path(__file__).parent.parent
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
EXTRAS = (
    *("torch", "torchvision", "compressai", "PIL", "apache_beam", "grpc", "xarray", "dask"),
    *("distributed", "pandas", "matplotlib", "scipy", "tensorboard", "safetensors"),
    *("bjontegaard", "pycocotools", "s3fs", "gcsfs"),
)
BARE = f"""
import importlib, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {EXTRAS}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Missing())
module, function, *words = sys.argv[1:]
sys.exit(getattr(importlib.import_module(module), function)(words))
"""


def run(command: str, *words: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-c", BARE, *SCRIPTS[command].split(":"), *words]
    return subprocess.run(call, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("command", sorted(set(SCRIPTS) - {"generate-scenes"}))
def test_help_needs_no_extra(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {command}")


@pytest.mark.parametrize(
    ("command", "words", "line"),
    [
        ("latent-store", "decode STORE --sample x --output x.png", "[codec]"),
        ("latent-store", "verify STORE --deep", "[codec]"),
        ("latent-store", "selfcheck STORE", "[codec]"),
        ("latent-store", "inspect s3://bucket/s.zarr", "[s3]"),
        ("segment", "--checkpoint x --image y --output z", "[train]"),
        ("train-from-store", "--store STORE --dataset cityscapes --output z", "[train]"),
        ("generate-scenes", "--help", "[train]"),
        (
            "encode-to-store",
            "--dataset cityscapes --data_root STORE --split a --store z --demo_codec",
            "[beam]",
        ),
    ],
)
def test_what_is_lacking_is_one_line(
    tiny_store: TinyStore, command: str, words: str, line: str
) -> None:
    done = run(command, *words.replace("STORE", str(tiny_store.url)).split())
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.endswith(f"pip install 'latent-store{line}'\n")


def test_stores_are_looked_at_without_extras(tiny_store: TinyStore) -> None:
    assert run("latent-store", "inspect", str(tiny_store.url)).returncode == 0
    assert "no defects" in run("latent-store", "verify", str(tiny_store.url)).stdout
    done = run("latent-store", "doctor", "--json")
    found = json.loads(done.stdout)["findings"]
    # How much room is left is the machine's matter.
    assert {one["name"] for one in found if one["state"] == "problem"} <= {"disk"}, done.stderr
    names = [one["name"] for one in found]
    assert "numpy" in names
    assert "torch pair" not in names
