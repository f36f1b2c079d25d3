"""The interface of a metric: the results of single images, and the scores that they make together.

Everything that a score of a whole split is made of is kept image by image: ranks measure their own
images, files hold what was measured, and images can be drawn again later.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np


@dataclass(frozen=True, kw_only=True)
class ImageResult(ABC):
    """One image's part of the scores of a split.

    Fields are tuples of plain numbers; one with a default stays in memory alone.
    """

    @property
    @abstractmethod
    def counted(self) -> int:
        """The number of things that there were to get right."""

    @classmethod
    def kept_fields(cls) -> list[str]:
        """Returns the names of the fields that files hold."""
        return [field.name for field in fields(cls) if field.default is MISSING]

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-ready dict that `from_json` reads."""
        return {name: getattr(self, name) for name in self.kept_fields()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Reads the fields from a dict that may hold others too.

        Raises:
            KeyError, TypeError: It is of another shape.
        """
        return cls(**{name: tuple(data[name]) for name in cls.kept_fields()})


class Metric(ABC):
    """The scores of a split, the same in training's validation and in an evaluation.

    Attributes:
        score: The name of the main score, the higher the better.
        title, class_title: What tables call it, and that of one class.
        more_scores: Other scores, and what tables call them.
        result: The class of single images' results.
    """

    score: str
    title: str
    class_title: str
    more_scores: ClassVar[dict[str, str]] = {}
    result: type[ImageResult]

    @abstractmethod
    def compare(self, truth: Any, prediction: Any, num_classes: int, /) -> ImageResult:
        """Returns one image's result."""

    @abstractmethod
    def summary(self, results: Sequence[Any], class_names: Sequence[str]) -> dict[str, float]:
        """Returns the scores of images, in their order, by name; something in them must count.

        These are `score`, `more_scores`, "constant_<score>" where there is a constant class,
        "<class_title>/<class>" in lower case, and what else is worth a curve.
        """

    @abstractmethod
    def drawn(self, results: Sequence[Any], times_DS: np.ndarray, /) -> np.ndarray:
        """Returns the main score of draws of images, float64 [D]; nan where nothing counts.

        `times_DS` tells how often each draw has each of S images.
        """

    def confusion(self, results: Sequence[Any]) -> np.ndarray | None:
        """Returns what is taken for what, int64 [K, K], truth by rows; None where nothing is.

        `results` are those of `compare`, as they came: files do not keep what it is made of.
        """
        return None

    def constant_class(self, results: Sequence[Any]) -> int | None:
        """Returns the class that is predicted where nothing was learned, if there is one."""
        return None
