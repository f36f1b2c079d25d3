"""A small VOC store of pictures with bright boxes, and untrained detectors of every kind for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from latent_store.codec import Codec
from pipelines import encode, frequency, reorder
from tests.conftest import CODEC, RANKING
from tests.pipelines.made_voc import Object, write_list, write_objects
from tests.training.real_networks import KEEP, make_every_kind, write_network
from training.networks.network_config import NetworkConfig
from training.tasks.classes import VOC_CLASSES
from training.tasks.registry import build_network

COLOURS = {"car": (230, 40, 40), "dog": (40, 220, 60), "boat": (60, 70, 240)}
"""The classes that occur, each in a colour of its own."""
SIZES = ((90, 140), (120, 100), (70, 150))
"""Heights and widths, in turn; two coded sizes."""
SHAPE = {
    "task": "detection",
    "num_classes": len(VOC_CLASSES),
    "backbone": "resnet18",
    "fpn_width": 16,
    "box_head_width": 32,
    "anchor_size": 16,
}


@dataclass(frozen=True)
class BoxStore:
    """Where the store lies, and the data root that it was made from."""

    url: Path
    data_root: Path


def make_box_store(folder: Path, train: int = 6, test: int = 4) -> BoxStore:
    """Writes pictures in the devkit's layout, and a store of them with one ranking."""
    store = BoxStore(url=folder / "voc.zarr", data_root=folder / "VOCdevkit")
    root = store.data_root
    names = [f"{number:06d}" for number in range(1, train + test + 1)]
    for seed, name in enumerate(names):
        _write_picture(root / "VOC2007", name, seed)
    for split, listed in (("trainval", names[:train]), ("test", names[train:])):
        write_list(root / f"VOC2007/ImageSets/Main/{split}.txt", listed)
        assert encode.main(box_encode_args(store, split)) == 0
    shared = ["--store", str(store.url), "--dataset", "voc2007", "--ranking", RANKING]
    count = ["--method", "variance", "--split", "trainval", "--keep", str(KEEP), "64"]
    assert frequency.main([*shared, *count]) == 0
    for split in ("trainval", "test"):
        assert reorder.main([*shared, "--split", split]) == 0
    return store


def box_encode_args(store: BoxStore, split: str, canvas: tuple[int, int] = (128, 192)) -> list[str]:
    """Returns the arguments that encode a split of the pictures with their boxes."""
    flags = (
        *("--dataset", "voc", "--voc_task", "detection", "--year", "2007"),
        *("--data_root", store.data_root, "--split", split, "--store", store.url),
        *(*CODEC, "--canvas", *canvas, "--samples_per_shard", 2, "--threads", 1),
    )
    return [*map(str, flags)]


def make_detector(
    path: Path,
    codec: Codec | None,
    *,
    kind: str = "network",
    label: str | None = None,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Writes a detector with random weights that finds something of several classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shape = NetworkConfig(**(SHAPE | config))
        network = build_network(shape)
        # Fresh predictors say the same of everything.
        nn.init.normal_(network.tail.roi_heads.box_predictor.cls_score.weight, std=2)
        nn.init.normal_(network.tail.rpn.head.cls_logits.weight, std=0.5)
    return write_network(
        path,
        network,
        codec,
        kind=kind,
        dataset="voc2007",
        class_names=list(VOC_CLASSES),
        label=label or path.stem,
    )


def make_detectors(folder: Path, store: BoxStore) -> dict[str, Path]:
    """Writes one checkpoint of each kind and returns their paths by name."""
    return make_every_kind(make_detector, folder, store.url)


def _write_picture(year: Path, name: str, seed: int) -> None:
    """Writes a grey picture with a few boxes: the third of every picture is difficult."""
    rng = np.random.default_rng(seed)
    height, width = SIZES[seed % len(SIZES)]
    picture_HWC = rng.integers(100, 140, (height, width, 3), dtype=np.uint8)
    objects: list[Object] = []
    for number, x in enumerate(range(4, width - 36, 44)):
        kind = list(COLOURS)[rng.integers(len(COLOURS))]
        y, w, h = rng.integers(0, height - 40), rng.integers(20, 36), rng.integers(20, 40)
        picture_HWC[y : y + h, x : x + w] = COLOURS[kind]
        edges = (x + 1, int(y) + 1, int(x + w), int(y + h))
        objects.append((kind, edges, int(number == 2), 0))
    for part in ("JPEGImages", "Annotations"):
        (year / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture_HWC).save(year / f"JPEGImages/{name}.jpg", quality=95)
    write_objects(year / f"Annotations/{name}.xml", (height, width), objects)
