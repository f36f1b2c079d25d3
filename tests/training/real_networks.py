"""Checkpoints of small untrained networks of every kind, for the tiny store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import latent_store
from latent_store.codec import Codec, codec_from_store
from tests.conftest import RANKING, TinyStore
from training.networks.network_config import NetworkConfig
from training.tasks.classes import CITYSCAPES_CLASSES
from training.tasks.registry import build_network
from training.trainer.checkpoints import save_checkpoint

KEEP = 16


def make_checkpoint(
    path: Path,
    codec: Codec | None,
    *,
    kind: str = "network",
    label: str | None = None,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Writes a network with random weights whose maps show several classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shape = NetworkConfig(**{"backbone": "resnet18", "aspp_width": 8, **config})
        network = build_network(shape)
        with torch.no_grad():
            network.tail.head[-1].weight.mul_(30)
    return write_network(
        path,
        network,
        codec,
        kind=kind,
        dataset="cityscapes",
        class_names=list(CITYSCAPES_CLASSES[: shape.num_classes]),
        label=label or path.stem,
    )


def make_checkpoints(folder: Path, tiny_store: TinyStore) -> dict[str, Path]:
    """Writes one checkpoint of each kind and returns their paths by name."""
    return make_every_kind(make_checkpoint, folder, tiny_store.url)


def write_network(path: Path, network: nn.Module, codec: Codec | None, **meta: Any) -> Path:
    """Writes a network's checkpoint as training does; `meta` is what it knows of itself."""
    channels = network.config.channels
    meta |= {
        "codec_id": codec.spec.codec_id if codec else None,
        "codec_identity": codec.spec.identity if codec else None,
        "ranking_id": None if channels is None else RANKING,
        "channels": None if channels is None else list(channels),
    }
    codec_bytes = codec.checkpoint_bytes if codec else None
    save_checkpoint(path, network, meta=meta, codec_bytes=codec_bytes)
    return path


def make_every_kind(make: Callable[..., Path], folder: Path, url: Path) -> dict[str, Path]:
    """Lets `make` write a checkpoint of each kind for a store; returns paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    store = latent_store.open(url)
    codec = codec_from_store(store)
    channels = store.ranking(codec.spec.codec_id, RANKING).channels(KEEP)
    names = ("teacher", "pixel", "none", "dynamic", "static")
    paths = {name: folder / f"{name}.pt" for name in names}
    make(paths["teacher"], None, kind="teacher", domain="pixel", seed=1)
    make(paths["pixel"], codec, domain="pixel", seed=2)
    make(paths["none"], codec, seed=3)
    make(paths["dynamic"], codec, selection="dynamic", gate_pool="rms", seed=4)
    make(paths["static"], codec, selection="static", channels=channels, seed=5)
    return paths
