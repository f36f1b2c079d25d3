"""A sample: one picture of a dataset as its reader lists it, before anything is decoded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from latent_store.format import layout
from latent_store.format.ids import ORIGINAL_VIEW, safe_id, view_id, view_suffix
from latent_store.storage.records import Count, Text

LARGEST_SIDE = 2**16
"""Of a picture and of a canvas, in pixels: what streams and their headers can name."""
MOST_BOXES = 2**20
Side = Annotated[int, Meta(ge=0, le=LARGEST_SIDE)]
ANNOTATIONS = {"label_uri": ("label_uri",), "boxes_uri": ("boxes_uri", "num_boxes")}
"""Fields that the list of one task gives a sample: the one that is empty where the list lacks it,
and those that come with it."""
_LATER_FIELDS = ("boxes_uri", "num_boxes")
"""Fields that plans had not always: without a value they are left out, so that the plan of a
dataset that does not use them stays the same bytes."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One picture of a dataset, as its reader lists it, before anything is decoded.

    Attributes:
        sample_id: Unique in the split; kept in Unicode form NFC.
        image_uri: Path of the picture, relative to the data root.
        label_uri: Path of its labels, relative to the data root; empty if it has none, or if no
            list of a segmentation task named it yet.
        height: Pixels, from the file's header; 0 where that cannot be read.
        width: Pixels, likewise.
        image_bytes: Length of the picture's file: a cheap sign that it was replaced.
        view: What is made of the picture before it is padded and coded; see `ids.VIEWS`.
        boxes_uri: Path of the file that lists its objects, relative to the data root; empty as
            `label_uri` is, for the lists of detection tasks.
        num_boxes: Objects in that file.

    Raises:
        DatasetError: The id cannot be one (`latent_store.format.ids.safe_id`).
    """

    sample_id: Text
    image_uri: Text
    label_uri: Text
    height: Side
    width: Side
    image_bytes: Count
    view: Text = ORIGINAL_VIEW
    boxes_uri: Text = ""
    num_boxes: Annotated[int, Meta(ge=0, le=MOST_BOXES)] = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sample_id", safe_id(self.sample_id, self.view))

    @property
    def source_id(self) -> str:
        """Id of the original picture's sample."""
        return self.sample_id.removesuffix(view_suffix(self.view))

    @property
    def has_size(self) -> bool:
        """True if the picture's header could be read; a row without can only fail."""
        return bool(self.height and self.width)

    @property
    def coded_size(self) -> tuple[int, int]:
        """Height and width, in pixels, at which the picture is coded; 0 where nobody knows."""
        return layout.coded_size(self.height, self.width) if self.has_size else (0, 0)

    @property
    def annotations(self) -> frozenset[str]:
        """Those of `label_uri` and `boxes_uri` that it has."""
        return frozenset(name for name in ANNOTATIONS if getattr(self, name))

    def joined(self, other: Sample) -> Sample:
        """Returns this sample with the annotations that only another task's list gives it."""
        lacking = other.annotations - self.annotations
        names = [name for key in lacking for name in ANNOTATIONS[key]]
        return dataclasses.replace(self, **{name: getattr(other, name) for name in names})

    def to_record(self) -> dict[str, Any]:
        """Returns the persisted form."""
        record = dict(vars(self))
        for name in _LATER_FIELDS:
            if not record[name]:
                del record[name]
        return record

    def seen_as(self, view: str) -> Sample:
        """Returns the sample of a view of this picture."""
        name = view_id(self.source_id, view)
        return dataclasses.replace(self, sample_id=name, view=view)
