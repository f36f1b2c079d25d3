"""The share of one process in what several do together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from latent_store.errors import LatentStoreError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Share:
    """One of several equal shares.

    Attributes:
        rank: Its number, from 0.
        world: How many there are.
    """

    rank: int = 0
    world: int = 1

    def require_equal(self, batch_size: int) -> None:
        """Checks that a batch can be shared out.

        Raises:
            LatentStoreError: If not equally.
        """
        if batch_size % self.world:
            raise LatentStoreError(
                f"--batch_size {batch_size} counts the images of all ranks together and cannot be "
                f"shared equally by {self.world}: give a multiple of {self.world}"
            )

    def part(self, batch: Sequence[Value]) -> Sequence[Value]:
        """Returns this share of a batch's rows: consecutive ones, rank 0 has the first."""
        size = len(batch) // self.world
        return batch[self.rank * size : (self.rank + 1) * size]


WHOLE = Share()
"""The only share there is."""
