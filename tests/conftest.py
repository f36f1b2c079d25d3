"""What every room's tests share: generated scenes, and a small real store made by the commands."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import torch

from latent_store.codec.families.registry import DEFAULT_ARCHITECTURE
from pipelines import encode, frequency, reorder
from pipelines.scenes.cityscapes_scenes import CityscapesScenes
from tests.latent_store.codec.made_codec import make_model, save
from tests.latent_store.made_store import LOUDER
from training.networks.network_config import NetworkConfig
from training.tasks.classes import CITYSCAPES_CLASSES
from training.tasks.registry import build_network
from training.trainer.checkpoints import save_checkpoint

# How long an example takes says more about a shared machine than about what is tested; and what
# fails on one machine fails on every other.
_SLOW = hypothesis.HealthCheck.too_slow
hypothesis.settings.register_profile(
    "shared", deadline=None, derandomize=True, suppress_health_check=[_SLOW]
)
hypothesis.settings.load_profile("shared")

TRAIN, VAL = 6, 4
HEIGHT, WIDTH = 96, 150
"""No multiples of 64, so that padding is always in play: coded at 128x192."""
RANKING = "variance"
SILENT = [40, 150]
"""Channels of a made codec that say nothing, as some of the demo's do."""


CODEC, OF_FILE = ["--demo_codec"], list[str]()
"""What the small store is encoded with, see `--codec`; and what decodes a stream file of it."""


@dataclass(frozen=True)
class TinyStore:
    """Where a small store lies, and what it was made from."""

    url: Path
    data_root: Path
    teacher: Path


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the kind of codec that the small stores are made with."""
    parser.addoption(
        "--codec",
        choices=("demo", "mbt2018-mean"),
        default="demo",
        help="of the small stores: the demo's and made ones of its kind, or made ones of another",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Chooses the small store's codec.

    And lets Ctrl-C be tested where a shell started the tests in the background, without it.
    """
    if (kind := config.getoption("--codec")) != "demo":
        folder = Path(tempfile.mkdtemp())
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        OF_FILE[:] = ["--codec_checkpoint", str(_made_codec(kind, folder))]
        CODEC[:] = OF_FILE
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _made_codec(architecture: str, folder: Path) -> Path:
    """Writes a checkpoint of fresh weights, louder than they are: those alone round to 0."""
    model = make_model(16, 192, architecture)
    with torch.no_grad():
        model.g_a[-1].weight.mul_(LOUDER)
        model.h_a[-1].weight.mul_(LOUDER)
        # As many channels of trained ones are, two are silent: neither y nor means.
        for layer, rows in ((model.g_a[-1], SILENT), (model.h_s[-1], [192 + c for c in SILENT])):
            layer.weight[rows] = 0
            layer.bias[rows] = 0
    path = folder / "codec.pth.tar"
    path.write_bytes(save(model.state_dict()))
    return path


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> None:
    # The machines of a test run are small and shared; results must not depend on threads anyway,
    # nor on which tests ran before.
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def made_architecture(pytestconfig: pytest.Config) -> str:
    """The kind of codec of the stores that are made without the demo's."""
    kind: str = pytestconfig.getoption("--codec")
    return DEFAULT_ARCHITECTURE if kind == "demo" else kind


@pytest.fixture(scope="session")
def scene_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root in Cityscapes' layout; read only."""
    root = tmp_path_factory.mktemp("scenes")
    CityscapesScenes(train=TRAIN, val=VAL, height=HEIGHT, width=WIDTH, seed=7).generate(root)
    return root


@pytest.fixture(scope="session")
def teacher_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small teacher with seeded random weights: its features are real numbers, not good."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    torch.manual_seed(0)
    config = NetworkConfig(domain="pixel", backbone="mobilenet_v2", aspp_width=16, num_classes=19)
    meta = {"kind": "teacher", "dataset": "cityscapes", "class_names": list(CITYSCAPES_CLASSES)}
    meta["train"] = {"seed": 0}
    save_checkpoint(path, build_network(config), meta=meta)
    return path


@pytest.fixture(scope="session")
def _made_store(
    tmp_path_factory: pytest.TempPathFactory, scene_root: Path, teacher_checkpoint: Path
) -> TinyStore:
    url = tmp_path_factory.mktemp("store") / "tiny.zarr"
    store = TinyStore(url=url, data_root=scene_root, teacher=teacher_checkpoint)
    made = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        made = made.parent  # of all processes: one makes the store, others wait and copy it
    made /= "tiny.zarr"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            _make_store(store)
            shutil.copytree(url, made.with_suffix(".unfinished"))
            made.with_suffix(".unfinished").rename(made)
    if not url.exists():
        shutil.copytree(made, url)
    return store


def _make_store(store: TinyStore) -> None:
    url = store.url
    for split in ("train", "val"):
        assert encode.main(encode_args(store, split)) == 0
    shared = ["--store", str(url), "--dataset", "cityscapes", "--ranking", RANKING]
    assert frequency.main([*shared, "--method", "variance", "--keep", "16", "32", "64"]) == 0
    for split in ("train", "val"):
        assert reorder.main([*shared, "--split", split]) == 0


def encode_args(store: TinyStore, split: str, *more: str) -> list[str]:
    """Returns the arguments that encode a split of the scenes with everything."""
    return [
        *("--dataset", "cityscapes", "--data_root", str(store.data_root), "--split", split),
        *("--store", str(store.url), *CODEC, "--teacher_checkpoint", str(store.teacher)),
        *("--samples_per_shard", "2", "--threads", "1", "--psnr", "all", *more),
    ]


def without_codec(args: list[str]) -> list[str]:
    """Returns the arguments that encode the same, but no latents."""
    return [word for word in args if word not in CODEC]


@pytest.fixture(scope="session")
def tiny_store(_made_store: TinyStore) -> TinyStore:
    """A complete store of 6 + 4 scenes, demo codec, teacher, one ranking; do not write to it."""
    return _made_store


@pytest.fixture
def copied_store(_made_store: TinyStore, tmp_path: Path) -> TinyStore:
    """A copy of the store that a test may damage."""
    url = tmp_path / "copy.zarr"
    shutil.copytree(_made_store.url, url)
    return TinyStore(url=url, data_root=_made_store.data_root, teacher=_made_store.teacher)


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail with one line on stderr; returns that line."""

    def run(main: Callable[[list[str]], int], args: list[str], status: int = 2) -> str:
        capsys.readouterr()
        try:
            ended: object = main(args)
        except SystemExit as stop:  # As a parser of flags ends a command.
            ended = stop.code
        assert ended == status
        errors = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
        assert len(errors) == 1, errors
        return errors[0]

    return run
