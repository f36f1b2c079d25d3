"""Checkpoints of small untrained networks of every kind, for the tiny store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import latent_store
from latent_store.codec import Codec, codec_from_store
from tests.conftest import RANKING, TinyStore
from training.checkpoints import save_checkpoint
from training.classes import CITYSCAPES_CLASSES
from training.networks import NetworkConfig, build_network

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
        shape = NetworkConfig(backbone="resnet18", aspp_width=8, **config)
        network = build_network(shape)
        with torch.no_grad():
            network.tail.head[-1].weight.mul_(30)
    static = shape.channels is not None
    meta = {
        "kind": kind,
        "dataset": "cityscapes",
        "codec_id": codec.spec.codec_id if codec else None,
        "codec_identity": codec.spec.identity if codec else None,
        "ranking_id": RANKING if static else None,
        "channels": list(shape.channels) if static else None,
        "class_names": list(CITYSCAPES_CLASSES[: shape.num_classes]),
        "label": label or path.stem,
    }
    codec_bytes = codec.checkpoint_bytes if codec else None
    save_checkpoint(path, network, meta=meta, codec_bytes=codec_bytes)
    return path


def make_checkpoints(folder: Path, tiny_store: TinyStore) -> dict[str, Path]:
    """Writes one checkpoint of each kind and returns their paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    store = latent_store.open(tiny_store.url)
    codec = codec_from_store(store)
    channels = store.ranking(codec.spec.codec_id, RANKING).channels(KEEP)
    names = ("teacher", "pixel", "none", "dynamic", "static")
    paths = {name: folder / f"{name}.pt" for name in names}
    make_checkpoint(paths["teacher"], None, kind="teacher", domain="pixel", seed=1)
    make_checkpoint(paths["pixel"], codec, domain="pixel", seed=2)
    make_checkpoint(paths["none"], codec, seed=3)
    make_checkpoint(paths["dynamic"], codec, selection="dynamic", gate_pool="rms", seed=4)
    make_checkpoint(paths["static"], codec, selection="static", channels=channels, seed=5)
    return paths
