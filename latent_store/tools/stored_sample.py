"""One sample of a store as a stream file, which decodes without the store.

Nothing is coded again: the strings are those of the store.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from latent_store.codec.checkpoints import codec_from_store
from latent_store.codec.stream_file import StreamFile
from latent_store.codec.symbols import indexes_crc32c, symbols_crc32c
from latent_store.components.ranked import RankedReader
from latent_store.errors import MissingComponentError
from latent_store.store import Split
from latent_store.tools.decode import decode_indexes


class StoredSample:
    """One sample of a split, with its codec, which is named where the store has several.

    Likewise a ranking is named for N channels where the codec has several.

    Raises:
        LatentStoreError: Something is missing; each names its remedy.
    """

    def __init__(
        self,
        split: Split,
        sample_id: str,
        codec_id: str | None = None,
        ranking_id: str | None = None,
    ) -> None:
        self.split, self.ranking_id = split, ranking_id
        self.row = split.row_of(sample_id)
        (self.name,) = split.sample_ids([self.row])
        self.latents = split.latents(codec_id)
        self.codec = codec_from_store(split.store, self.latents.spec.codec_id)
        measured = float(self.latents.quality([self.row])["psnr"][0])
        self.full_psnr = None if np.isnan(measured) else measured

    @cached_property
    def ranked(self) -> RankedReader:
        """The ranked copy that N channels are decoded from."""
        codec_id = self.codec.spec.codec_id
        known = self.split.store.rankings(codec_id)
        if self.ranking_id is None and len(known) != 1:
            names = ", ".join(known) or "none; derive one with channel-frequency"
            raise MissingComponentError(f"name a ranking with `ranking=`; {codec_id} has: {names}")
        return self.split.ranked(self.ranking_id or known[0], codec_id)

    def export(self, keep: int | None = None) -> StreamFile:
        """Returns the scalable stream up to `keep`; without any ranking the natural-order one."""
        known = self.split.store.rankings(self.codec.spec.codec_id)
        ranked = known or keep is not None or self.ranking_id is not None
        return self._scalable(keep) if ranked else self.stream()

    def stream(self, keep: int | None = None) -> StreamFile:
        """Returns all channels in natural order, or the scalable stream up to the cut at `keep`.

        Raises:
            RankingError: `keep` is no cut of the ranked copy.
            MissingComponentError: There is no such copy, or several rankings and none is named.
            IntegrityError: A stored string is not what was written.
        """
        if keep is not None:
            return self._scalable(keep)
        indexes_CHW = decode_indexes(self.codec, self.latents, self.row)
        channels, height, width = indexes_CHW.shape
        # The canvas of a split of mixed sizes is larger than a picture's own latent.
        y_hat_CHW = self.latents.read([self.row])[0, :, :height, :width]
        y_string = self.latents.y_string(self.row)
        return self._file(
            selection="all",
            channels=tuple(range(channels)),
            cuts=(channels,),
            cut_bytes=(len(y_string),),
            symbols_crc32c=(symbols_crc32c(y_hat_CHW),),
            indexes_crc32c=(indexes_crc32c(indexes_CHW),),
            y=y_string,
        )

    def _scalable(self, keep: int | None) -> StreamFile:
        """Returns the scalable stream up to the cut at `keep`; None means all of it."""
        row, ranked = self.row, self.ranked
        keep = ranked.cuts[-1] if keep is None else keep
        y_string = ranked.scalable_string(row, keep)
        end = ranked.cuts.index(keep) + 1
        checksums = ranked.cut_checksums(row)
        return self._file(
            selection="scalable",
            channels=ranked.ranking.order[:keep],
            cuts=ranked.cuts[:end],
            cut_bytes=tuple(ranked.cut_bytes([row])[0, :end].tolist()),
            symbols_crc32c=tuple(checksums["symbols"][:end].tolist()),
            indexes_crc32c=tuple(checksums["indexes"][:end].tolist()),
            y=y_string,
            ranking_id=ranked.ranking.ranking_id,
        )

    def _file(self, **parts: Any) -> StreamFile:
        ((height, width),) = self.split.sizes([self.row]).tolist()
        z_string = self.latents.z_string(self.row)
        return StreamFile(codec=self.codec.spec, height=height, width=width, z=z_string, **parts)
