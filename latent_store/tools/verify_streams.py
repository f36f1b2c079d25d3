"""Decodes every stream of a component and compares it with the stored ŷ."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from latent_store.codec.checkpoints import codec_from_store
from latent_store.codec.hyperprior import Codec
from latent_store.codec.streams import decode_scalable, decode_y
from latent_store.components.checking import is_unread
from latent_store.components.latents import LatentsReader
from latent_store.components.ranked import RankedReader
from latent_store.components.registry import ids_of
from latent_store.format import layout
from latent_store.format.plan import ShardPlan
from latent_store.storage.location import Location
from latent_store.store import LatentStore
from latent_store.tools.decode import decode_gaussians
from latent_store.tools.verify import BROKEN, Defect, in_words


def check_streams(location: Location, plan: ShardPlan, key: str) -> Iterator[Defect]:
    """Yields a defect for each row whose streams do not decode to its ŷ.

    Args:
        location: The store.
        plan: The split's plan.
        key: The component; those without streams have nothing to check.
    """
    if "codec" not in ids_of(key):
        return
    store = LatentStore(location)
    split = store[plan.name]
    reader = split.component(key)
    if not isinstance(reader, LatentsReader | RankedReader):
        return
    codec = codec_from_store(store, reader.spec.codec_id)
    latents = split.latents(reader.spec.codec_id)
    ranked = reader if isinstance(reader, RankedReader) else None
    for row in reader.rows.tolist():
        unread = False
        try:
            what = _row_defect(codec, latents, ranked, row)
        except BROKEN as error:
            what, unread = in_words(error), is_unread(error)
        if what:
            yield Defect(
                where=f"{plan.name}/{key} row {row}",
                what=what,
                split=plan.name,
                component=key,
                shard=layout.shard_of(row, plan.samples_per_shard),
                unread=unread,
            )


def _row_defect(
    codec: Codec, latents: LatentsReader, ranked: RankedReader | None, row: int
) -> str | None:
    gaussians = decode_gaussians(codec, latents, row)
    indexes_CHW = gaussians.indexes_CHW
    if ranked is None:
        decoded = decode_y(codec.tables, latents.y_string(row), indexes_CHW)
        same = _fills(gaussians.y_hat(decoded), latents.read([row])[0])
        return None if same else "its y string does not decode to its y_hat"
    order = ranked.ranking.order
    stored = ranked.read([row])[0]
    for cut in ranked.cuts:
        prefix = ranked.scalable_string(row, cut)
        decoded = decode_scalable(codec.tables, prefix, indexes_CHW, order, cut)
        if not _fills(gaussians.y_hat(decoded, order[:cut]), stored[:cut]):
            return f"its scalable stream does not decode to its first {cut} channels"
        ranked.check_symbols(row, decoded, indexes_CHW[list(order[:cut])])
    return None


def _fills(decoded_KHW: np.ndarray, stored_KHW: np.ndarray) -> bool:
    """Tells whether a stored canvas is the decoded picture in its corner, and fill beyond."""
    expected_KHW = np.zeros_like(stored_KHW, dtype=decoded_KHW.dtype)
    expected_KHW[:, : decoded_KHW.shape[1], : decoded_KHW.shape[2]] = decoded_KHW
    return np.array_equal(expected_KHW, stored_KHW)
