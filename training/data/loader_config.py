"""The flags of a loader's batches."""

import dataclasses
from dataclasses import dataclass
from typing import Self

from latent_store.batches.prefetch import KINDS
from latent_store.console import MOST_THREADS
from latent_store.errors import LatentStoreError
from latent_store.format.schema import LATENT_STRIDE
from training.data.source import Annotations
from training.flags import Flags, flag


@dataclass(frozen=True, kw_only=True)
class LoaderConfig(Flags):
    """Flags of the batches."""

    batch_size: int = flag("images in a batch, of all ranks together", default=8, least=1)
    crop: int | None = flag(
        "side of the random crop in pixels, a multiple of 16; 0 = whole images (default: 512, in "
        "detection 0)",
        default=None,
    )
    max_samples: int = flag(
        "train on the first so many pictures only, with --views on theirs too; 0 = all", default=0
    )
    views: bool = flag("stored views (flips) count as samples of their own", default=False)
    chunk_rows: int = flag(
        "consecutive rows that are read together and shuffled as one", default=8, least=1
    )
    preload_rows: int = flag(
        "rows that are loaded and shuffled in memory together", default=32, least=1
    )
    workers: int = flag(
        "background workers that read ahead; 0 = none", default=2, free=True, most=MOST_THREADS
    )
    worker_kind: str = flag(
        "what a worker is; processes are spawned", default="thread", choices=KINDS, free=True
    )
    cache_mb: int = flag(
        "memory, in MiB a worker process, for images that are not to be read or decoded again",
        default=1024,
        free=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop is not None and self.crop % LATENT_STRIDE:
            raise LatentStoreError(
                f"--crop must be a multiple of {LATENT_STRIDE} pixels (one latent position), or 0 "
                f"for whole images, got {self.crop}"
            )

    def for_annotations(self, annotations: Annotations | type[Annotations]) -> Self:
        """Returns the same with the annotations' own crop where none was asked for.

        Raises:
            LatentStoreError: If crops are too small for them.
        """
        if 0 < (self.crop or 0) < annotations.least_crop:
            raise LatentStoreError(
                f"--crop {self.crop} is too small for {annotations.component}: give "
                f"{annotations.least_crop} or more, or 0 for whole images"
            )
        crop = annotations.crop if self.crop is None else self.crop
        return dataclasses.replace(self, crop=crop)
