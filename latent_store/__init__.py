"""A Zarr store of learned-codec latents: encode a dataset once, learn from it for ever after.

    >>> import latent_store
    >>> store = latent_store.open("city.zarr")
    >>> list(store)
    ['cityscapes/train', 'cityscapes/val']
    >>> y_hat_BCHW = store["cityscapes/train"].latents().read([0, 1], channels=[3, 5])
    >>> y_hat_BCHW.dtype, y_hat_BCHW.shape  # a stride of 16 over 128 x 192
    (dtype('int8'), (2, 2, 8, 12))

Importing this package loads neither torch nor Beam. The codec itself is in
`latent_store.codec`; what the stored numbers promise is in `FORMAT.md` beside this file.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from latent_store.catalogue.rankings import Ranking as Ranking
from latent_store.console import version as _version
from latent_store.errors import LatentStoreError as LatentStoreError
from latent_store.format.boxes import Boxes as Boxes
from latent_store.format.schema import CodecSpec as CodecSpec
from latent_store.storage.location import Location as Location
from latent_store.store import LatentStore as LatentStore
from latent_store.store import Split as Split
from latent_store.store import open_store as open
from latent_store.stored_sample import StoredSample as StoredSample
from latent_store.views.summary import describe as describe

__version__: str
__all__ = [
    "Boxes",
    "CodecSpec",
    "LatentStore",
    "LatentStoreError",
    "Location",
    "Ranking",
    "Split",
    "StoredSample",
    "__version__",
    "describe",
    "open",
]

if not _TYPE_CHECKING:  # Else every name would be one of the package's.

    def __getattr__(name: str) -> str:
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return _version()


def __dir__() -> list[str]:
    """Returns the public names: what completion shows, without the folders that they come from."""
    return sorted(__all__)
