"""The source of a loader's batches: whole images, what is learned of each, and crops of both."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from latent_store.batches.source import Items, Rows, WindowSource
from latent_store.components.reader import ComponentReader, Window
from latent_store.errors import DatasetError
from latent_store.store import Split


@dataclass(frozen=True, kw_only=True)
class Annotations(ABC):
    """One component of a split. Plain values: workers are sent it.

    Attributes:
        num_classes: Annotations of other classes are refused.
        component: Kind of the component that holds them.
        crop: Side in pixels of random crops where none is asked for; 0 = whole images.
        least_crop: The smallest side that crops may have.
        pixel_bytes: Size of a whole image's in a cache; 0 = they are read anew each time.
    """

    num_classes: int = 19
    component: ClassVar[str]
    crop: ClassVar[int] = 0
    least_crop: ClassVar[int] = 0
    pixel_bytes: ClassVar[int] = 0

    @abstractmethod
    def open(self, split: Split) -> ComponentReader:
        """Opens the component."""

    @abstractmethod
    def read(self, reader: Any, rows: Rows, windows: list[Window] | None = None) -> Items:
        """Reads rows: wholes, or what a window each in pixels, from its top left corner, leaves.

        Raises:
            DatasetError: If a class is none of the `num_classes`.
        """

    @abstractmethod
    def cut(self, whole: Any, window: Window) -> Any:
        """Returns what a window leaves of a row's whole."""

    @abstractmethod
    def entries(self, cut: Items) -> dict[str, Any]:
        """Returns a batch's entries, made of what `cut` or `read` returned for each image."""

    @abstractmethod
    def truths(self, batch: Mapping[str, Any]) -> list[Any]:
        """Returns the annotations of each whole image of a batch, as `read` has them."""

    @abstractmethod
    def count(self, batch: Mapping[str, Any]) -> int:
        """Returns how much there is to get right in a batch."""


def held_out(ids: Sequence[str], prefixes: Sequence[str], split: str) -> list[bool]:
    """Returns which samples are held out of training: those whose ids begin with a prefix.

    Raises:
        DatasetError: A prefix is that of no sample, or nothing is left to train on.
    """
    for prefix in prefixes:
        if not any(sample_id.startswith(prefix) for sample_id in ids):
            raise DatasetError(
                f"--hold_out {prefix!r}: no id of {split} begins with it, the first is "
                f"{ids[0] if len(ids) else 'none'}; in Cityscapes' layout ids begin with cities"
            )
    held = [sample_id.startswith(tuple(prefixes)) for sample_id in ids]
    if prefixes and all(held):
        raise DatasetError(
            f"--hold_out {' '.join(prefixes)} holds out all {len(held)} samples of {split}: give "
            "longer beginnings of ids, or fewer"
        )
    return held


class Source(WindowSource):
    """A split's images and what is learned of each.

    Attributes:
        name: Of the split, in errors.
        annotations: What is learned.
    """

    name: str
    annotations: Annotations
