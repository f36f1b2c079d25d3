"""Cityscapes' layout: `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `gtFine` beside it."""

from __future__ import annotations

import numpy as np

from latent_store.errors import DatasetError
from latent_store.format.plan import Sample
from latent_store.format.schema import IGNORE_LABEL
from pipelines.datasets.base import DatasetReader
from pipelines.datasets.files import picture_sizes, read_png
from training.tasks.classes import CITYSCAPES_CLASSES

IMAGES, IMAGE_SUFFIX = "leftImg8bit", "_leftImg8bit.png"
LABELS, LABEL_SUFFIX = "gtFine", "_gtFine_labelIds.png"

TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12,
    26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip
"""Label id -> train id (cityscapesScripts, `helpers/labels.py`); every other id is ignored."""


def train_id_table() -> np.ndarray:
    """Returns uint8 `[256]`: the train id of each label id, 255 where a pixel is ignored."""
    table = np.full(256, IGNORE_LABEL, dtype=np.uint8)
    for label_id, train_id in TRAIN_IDS.items():
        table[label_id] = train_id
    return table


class Cityscapes(DatasetReader):
    """Reads a data root in Cityscapes' layout, from a folder or an object store."""

    dataset_id = "cityscapes"
    task = "segmentation"
    class_names = CITYSCAPES_CLASSES
    label_ids = "cityscapes-train-ids"

    def manifest(self, split: str) -> list[Sample]:
        """Lists the pictures of a split, each of which has a label file."""
        images = self._listing(IMAGES, split, IMAGE_SUFFIX)
        labels = self._listing(LABELS, split, LABEL_SUFFIX)
        if not images:
            there = ", ".join(self.data_root.folders(IMAGES))
            raise DatasetError(
                f"no images in {self.data_root.url}/{IMAGES}/{split}/*/*{IMAGE_SUFFIX}; check "
                f"--data_root and --split (there are: {there or 'no splits'})"
            )
        lacking = [stem for stem in images if stem not in labels]
        if lacking:
            expected = f"{LABELS}/{split}/{lacking[0]}{LABEL_SUFFIX}"
            raise DatasetError(
                f"{len(lacking)} of {len(images)} images have no label file, the first is "
                f"{lacking[0]}; expected {self.data_root.url}/{expected}"
            )
        sizes = picture_sizes(self.data_root, (uri for uri, _ in images.values()))
        return [
            Sample(
                sample_id=stem.rsplit("/", 1)[1],
                image_uri=uri,
                label_uri=labels[stem][0],
                height=height,
                width=width,
                image_bytes=length,
            )
            for (stem, (uri, length)), (height, width) in zip(images.items(), sizes, strict=True)
        ]

    def read_labels(self, sample: Sample) -> np.ndarray:
        """Reads a sample's `labelIds` as train ids."""
        _, label_ids = read_png(self.data_root, sample.label_uri)
        if label_ids.shape != (sample.height, sample.width) or label_ids.dtype != np.uint8:
            raise DatasetError(
                f"{sample.label_uri} is {label_ids.dtype} {label_ids.shape}, its image is "
                f"{sample.height}x{sample.width} (height x width): labels are 8-bit, one a pixel"
            )
        return train_id_table()[label_ids]

    def _listing(self, kind: str, split: str, suffix: str) -> dict[str, tuple[str, int]]:
        """Maps `city/stem` to `(uri, bytes)`, ordered."""
        prefix = f"{kind}/{split}/"
        found = self.data_root.sizes(f"{kind}/{split}")
        return {
            uri.removeprefix(prefix).removesuffix(suffix): (uri, size)
            for uri, size in sorted(found.items())
            if uri.endswith(suffix)
        }
