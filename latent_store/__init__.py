"""A Zarr store of learned-codec latents: encode a dataset once, learn from it for ever after.

    >>> import latent_store
    >>> store = latent_store.open("cv.zarr")  # doctest: +SKIP
    >>> latents = store["cityscapes/train"].latents()  # doctest: +SKIP
    >>> latents.read([0, 1], channels=[3, 5]).shape  # doctest: +SKIP
    (2, 2, 24, 32)

Importing this package loads neither torch nor Beam. The codec itself is in
`latent_store.codec`; what the stored numbers promise is in `FORMAT.md` beside this file.
"""

from latent_store.catalogue.rankings import Ranking as Ranking
from latent_store.errors import LatentStoreError as LatentStoreError
from latent_store.format.schema import CodecSpec as CodecSpec
from latent_store.storage.location import Location as Location
from latent_store.store import LatentStore as LatentStore
from latent_store.store import Split as Split
from latent_store.store import open_store as open
from latent_store.views.summary import describe as describe

__all__ = [
    "CodecSpec",
    "LatentStore",
    "LatentStoreError",
    "Location",
    "Ranking",
    "Split",
    "describe",
    "open",
]
