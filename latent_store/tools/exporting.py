"""Takes one sample out of a store, as a stream file that decodes without the store."""

from __future__ import annotations

import numpy as np

from latent_store.codec.packing import cut_stream
from latent_store.codec.stream_file import StreamFile
from latent_store.codec.symbols import indexes_crc32c, symbols_crc32c
from latent_store.errors import RankingError
from latent_store.tools.decoding import ALL, StoredSource


def export_sample(source: StoredSource, channels: str = ALL) -> StreamFile:
    """Returns a sample's streams with everything that decoding them needs but the codec.

    Nothing is coded again: the strings are those of the store.

    Args:
        source: The sample. Where it names a ranking, or there is one to name, the scalable stream
            is taken; else the natural-order one.
        channels: `all`, or N: the scalable stream up to that cut.

    Raises:
        LatentStoreError: There is no such ranking, or no such cut.
        IntegrityError: A stored string is not what was written.
    """
    known = source.split.store.rankings(source.codec.spec.codec_id)
    if channels == ALL and source.ranking_id is None and not known:
        return _natural(source)
    stream = _scalable(source)
    if channels == ALL:
        return stream
    if not channels.isdecimal():
        raise RankingError(f"--channels must be all or a number of channels, got {channels!r}")
    return cut_stream(stream, int(channels))


def _scalable(source: StoredSource) -> StreamFile:
    row, ranked = source.row, source.ranked
    checksums = ranked.cut_checksums(row)
    height, width = (int(n) for n in source.split.sizes([row])[0])
    return StreamFile(
        codec=source.codec.spec,
        height=height,
        width=width,
        selection="scalable",
        channels=ranked.ranking.order,
        cuts=ranked.cuts,
        z=source.latents.z_string(row),
        y=ranked.scalable_string(row, ranked.cuts[-1]),
        ranking_id=ranked.ranking.ranking_id,
        cut_bytes=tuple(int(n) for n in ranked.cut_bytes([row])[0]),
        **{f"{name}_crc32c": tuple(map(int, crcs)) for name, crcs in checksums.items()},
    )


def _natural(source: StoredSource) -> StreamFile:
    row = source.row
    height, width = (int(n) for n in source.split.sizes([row])[0])
    y_string = source.latents.y_string(row)
    indexes_CHW = source.indexes_CHW
    # The canvas of a split of mixed sizes is larger than a picture's own latent.
    y_hat_CHW = source.latents.read([row])[0][:, : indexes_CHW.shape[1], : indexes_CHW.shape[2]]
    channels = len(y_hat_CHW)
    return StreamFile(
        codec=source.codec.spec,
        height=height,
        width=width,
        selection=ALL,
        channels=tuple(range(channels)),
        cuts=(channels,),
        cut_bytes=(len(y_string),),
        symbols_crc32c=(symbols_crc32c(np.ascontiguousarray(y_hat_CHW)),),
        indexes_crc32c=(indexes_crc32c(indexes_CHW),),
        z=source.latents.z_string(row),
        y=y_string,
    )
