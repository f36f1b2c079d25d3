"""Cityscapes' layout: `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `gtFine` beside it."""

from __future__ import annotations

import logging

import numpy as np

from latent_store.errors import DatasetError
from latent_store.format.samples import Sample
from latent_store.format.schema import IGNORE_LABEL
from pipelines.datasets.base import DatasetReader
from pipelines.datasets.files import picture_sizes, read_label_map
from pipelines.datasets.listing import FoundFiles, find_files, list_folders, require_names
from training.tasks.classes import CITYSCAPES_CLASSES

IMAGES, IMAGE_SUFFIX = "leftImg8bit", "_leftImg8bit.png"
LABELS, LABEL_SUFFIX = "gtFine", "_gtFine_labelIds.png"

TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12,
    26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip
"""Label id -> train id (cityscapesScripts, `helpers/labels.py`); every other id is ignored."""

LABEL_IDS = range(34)
"""All of them; the licence plate's, -1, is never drawn."""

TRAIN_ID_TABLE = np.full(256, IGNORE_LABEL, dtype=np.uint8)
"""Train id of each label id."""
TRAIN_ID_TABLE[list(TRAIN_IDS)] = list(TRAIN_IDS.values())

_LOG = logging.getLogger(__name__)


class Cityscapes(DatasetReader):
    """Reads a data root in Cityscapes' layout, from a folder or an object store."""

    dataset_id = "cityscapes"
    task = "segmentation"
    class_names = CITYSCAPES_CLASSES
    label_ids = "cityscapes-train-ids"

    def manifest(self, split: str) -> list[Sample]:
        """Lists the pictures of a split, each of which has a label file.

        A label without a picture is no sample; how many there are is logged.
        """
        images = find_files(self.data_root, f"{IMAGES}/{split}", IMAGE_SUFFIX)
        labels = find_files(self.data_root, f"{LABELS}/{split}", LABEL_SUFFIX)
        self._require_layout(split, images, labels)
        lonely = [uri for stem, uri in labels.uris.items() if stem not in images.uris]
        if lonely:
            _LOG.warning(
                "%d of %d labels in %s/%s have no picture and are left out, the first is %s%s",
                *(len(lonely), len(labels.uris), LABELS, split, lonely[0], images.aside),
            )
        sizes = picture_sizes(self.data_root, images.lengths)
        samples = [
            Sample(
                sample_id=stem.rsplit("/", 1)[1],
                image_uri=uri,
                label_uri=labels.uris[stem],
                height=height,
                width=width,
                image_bytes=images.lengths[uri],
            )
            for (stem, uri), (height, width) in zip(images.uris.items(), sizes, strict=True)
        ]
        require_names(samples)
        return samples

    def read_labels(self, sample: Sample) -> np.ndarray:
        """Reads a sample's `labelIds`, an 8-bit PNG, as train ids."""
        rule = f"label ids are 0 to {LABEL_IDS[-1]}"
        return TRAIN_ID_TABLE[read_label_map(self.data_root, sample, LABEL_IDS, rule)]

    def _require_layout(self, split: str, images: FoundFiles, labels: FoundFiles) -> None:
        root = self.data_root.url
        if not images.uris:
            there = ", ".join(list_folders(self.data_root, IMAGES))
            raise DatasetError(
                f"no images in {root}/{IMAGES}/{split}/*/*{IMAGE_SUFFIX}; check --data_root and "
                f"--split (there are: {there or 'no splits'}){images.aside}"
            )
        stray = next((uri for stem, uri in images.uris.items() if "/" not in stem), None)
        if stray is not None:
            raise DatasetError(
                f"{stray} lies in no city's folder: move it to {IMAGES}/{split}/CITY, and its "
                f"labels to {LABELS}/{split}/CITY, or take it out"
            )
        lacking = [stem for stem in images.uris if stem not in labels.uris]
        if lacking:
            raise DatasetError(
                f"{len(lacking)} of {len(images.uris)} images have no label file, the first is "
                f"{lacking[0]}; expected {root}/{LABELS}/{split}/{lacking[0]}{LABEL_SUFFIX}"
                f"{labels.aside}"
            )
