"""The package without any extra: every command helps, or names the extra that it lacks."""

import contextlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import distributed
import numpy as np
import pytest

import latent_store
from tests.conftest import RANKING, TinyStore

ROOT = Path(__file__).parent.parent
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
EXTRAS = (
    *("torch", "torchvision", "compressai", "PIL", "apache_beam", "grpc", "xarray", "dask"),
    *("distributed", "pandas", "matplotlib", "scipy", "tensorboard", "safetensors"),
    *("bjontegaard", "pycocotools", "s3fs", "gcsfs"),
)
CLUSTER = ("dask", "distributed")
BARE = """
import importlib, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in hidden:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
hidden, module, function, *words = sys.argv[1:]
hidden = hidden.split()
sys.meta_path.insert(0, Missing())
sys.exit(getattr(importlib.import_module(module), function)(words))
"""


def call(place: str, *words: str, beside: tuple[str, ...] = ()) -> list[str]:
    """Returns the call of a function of a module, as `MODULE:FUNCTION`, without the extras.

    Args:
        place: The function, which takes the words.
        beside: Modules of the extras that are there.
    """
    hidden = " ".join(name for name in EXTRAS if name not in beside)
    return [sys.executable, "-c", BARE, hidden, *place.split(":"), *words]


def run(command: str, *words: str) -> subprocess.CompletedProcess[str]:
    started = call(SCRIPTS[command], *words)
    return subprocess.run(started, capture_output=True, text=True, cwd=ROOT)


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


def test_dask_without_its_cluster_names_the_extra(tmp_path: Path) -> None:
    words = f"--dataset folder --data_root {tmp_path} --split a --store {tmp_path}/s --demo_codec"
    beside = tuple(name for name in EXTRAS if name != "distributed")
    started = call(
        *(SCRIPTS["encode-to-store"], *words.split(), "--runner", "DaskRunner"), beside=beside
    )
    done = subprocess.run(started, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.endswith("pip install 'latent-store[xarray]'\n")


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


WORKER_SECONDS = 40
"""Until a worker is there, or has read: a deadlock fails."""


@contextlib.contextmanager
def bare_worker(folder: Path) -> Iterator[distributed.Client]:
    """Starts a scheduler, and in a folder a worker of Dask alone, which must say no error."""
    said = folder / "worker.log"
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
        said.open("wb") as log,
    ):
        words = (cluster.scheduler_address, "--no-nanny", "--no-dashboard", "--nthreads", "2")
        worker = subprocess.Popen(
            call("distributed.cli.dask_worker:main", *words, beside=CLUSTER),
            stderr=log,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        try:
            client.wait_for_workers(1, timeout=WORKER_SECONDS)
            yield client
            worker.terminate()
            assert worker.wait(WORKER_SECONDS) == 0
        finally:
            worker.kill()
            worker.wait()
    text = said.read_text()
    assert "Start worker" in text
    assert [line for line in text.splitlines() if "ERROR" in line or "Traceback" in line] == []


def test_a_cluster_of_store_only_workers_serves_dask(
    tiny_store: TinyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks_torch() -> bool:
        try:
            import torch  # noqa: F401
        except ModuleNotFoundError:
            return True
        return False

    monkeypatch.chdir(tiny_store.url.parent)
    split = latent_store.open(tiny_store.url.name)["cityscapes/train"]
    ranked = split.to_dask("y_hat_ranked", ranked=RANKING)
    views = [split.to_dask("y_hat"), ranked[:, :16], split.to_dask("segmentation")[::2, 5:9]]
    with bare_worker(tmp_path) as client:
        assert list(client.run(lacks_torch).values()) == [True]
        found = [future.result(WORKER_SECONDS) for future in client.compute(views)]
    rows = split.to_xarray()["row"].values
    latents, labels = split.latents().read(rows), split.labels().read(rows)
    np.testing.assert_array_equal(found[0], latents)
    np.testing.assert_array_equal(found[1], split.ranked(RANKING).read(rows)[:, :16])
    np.testing.assert_array_equal(found[2], labels[::2, 5:9])
