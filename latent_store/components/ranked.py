"""One ranking's copy of one codec's latents: ŷ in importance order, and the scalable stream."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from latent_store.catalogue import codecs, rankings
from latent_store.catalogue.rankings import Ranking
from latent_store.components.latents import CodedRecord, stream_spec, y_hat_spec
from latent_store.components.reader import ComponentReader, Coordinate, Rows, Variable, Windows
from latent_store.errors import IntegrityError, RankingError
from latent_store.format.plan import ShardPlan
from latent_store.format.schema import ArraySpec, CodecSpec, ComponentSpec
from latent_store.shards.receipts import crc32c
from latent_store.storage.location import Location
from latent_store.storage.records import Count
from latent_store.storage.seals import json_crc32c


def ranked_spec(
    codec: CodecSpec,
    ranking_id: str,
    order: tuple[int, ...],
    cuts: tuple[int, ...],
    size: tuple[int, int],
    dtype: str,
) -> ComponentSpec:
    """One ranking's copy: ŷ in importance order, and the scalable bitstream with its cuts."""
    y_hat = y_hat_spec(codec, "rank", size, dtype)
    columns = {
        "cut_bytes": "int64",
        "cut_symbols_crc32c": "uint32",
        "cut_indexes_crc32c": "uint32",
        "cut_bytes_crc32c": "uint32",
    }
    shape, dims = (len(cuts),), ("cut",)
    attrs = {"ranking_id": ranking_id, "order": list(order), "cuts": list(cuts)}
    return ComponentSpec(
        key=RankedReader.key_of(codec.codec_id, ranking_id),
        arrays=(
            y_hat,
            *(
                ArraySpec(name=f"bitstream/{name}", dtype=kind, shape=shape, dims=dims)
                for name, kind in columns.items()
            ),
        ),
        streams=(stream_spec("scalable", int(np.prod(y_hat.shape))),),
        attrs={"codec": codec.to_attrs(), **attrs},
        version=codec.latents_version,
        origin=ranked_origin(codec, ranking_id, order, cuts),
    )


def ranked_origin(
    codec: CodecSpec, ranking_id: str, order: tuple[int, ...], cuts: tuple[int, ...]
) -> dict[str, str]:
    """Returns what a ranking's copy is made from: the latents, an order of channels, and cuts."""
    digest = f"{json_crc32c(order):08x}"
    names = {"ranking": ranking_id, "order": digest, "cuts": " ".join(map(str, cuts))}
    return {**codec.origin, **names}


@dataclass(frozen=True, kw_only=True)
class RankedRecord(CodedRecord):
    """The attributes of a ranking's copy: the order and the cuts that it was made with."""

    order: tuple[Count, ...]
    cuts: tuple[Count, ...]


class RankedReader(ComponentReader):
    """One ranking's copy: ŷ in importance order, and the scalable stream."""

    record_kind = RankedRecord
    record: RankedRecord
    kind = "ranked"
    parts = ("codec", "ranking")
    remedy = "run reorder-latents `ranking={ranking}` on {split}"

    def __init__(
        self, location: Location, plan: ShardPlan, key: str, spec: CodecSpec | None = None
    ):
        ids = self.ids_of(key)
        self.spec = spec or codecs.choose_codec(location, ids["codec"])
        digest = rankings.read_order_crc32c(location, ids["codec"], ids["ranking"])
        super().__init__(location, plan, key)
        if digest != rankings.order_crc32c(self.record.order):
            raise RankingError(
                f"{self.group.path} holds channels in another order than ranking {ids['ranking']} "
                f"has now; {self._remedy} `overwrite=`"
            )
        self.cuts = self.record.cuts
        origin = ranked_origin(self.spec, ids["ranking"], self.record.order, self.cuts)
        self._require_origin(origin)

    @cached_property
    def ranking(self) -> Ranking:
        """The ranking, whose order the copy has."""
        return rankings.read_ranking(self.location, self.ids["codec"], self.ids["ranking"])

    def read(self, rows: Rows, keep: int | None = None, window: Windows = None) -> np.ndarray:
        """Reads the `keep` most important channels, and decodes only the chunks that hold them.

        Args:
            rows: Row numbers in any order.
            keep: How many; None for all.
            window: In latent positions.

        Returns:
            `[n, keep, h, w]` in ranked order, on the canvas, as of the latents.

        Raises:
            RankingError: `keep` is out of range.
        """
        count = len(self.record.order) if keep is None else keep
        if not 1 <= count <= len(self.record.order):
            self.ranking.channels(count)
        stored = self._read("y_hat", rows, (range(count),), window)
        return self.record.codec.from_stored(stored)

    def cut_bytes(self, rows: Rows) -> np.ndarray:
        """Returns the bytes of the scalable stream up to each cut, int64 `[n, cuts]`."""
        return self._column("bitstream/cut_bytes", rows)

    def cut_checksums(self, row: int) -> dict[str, np.ndarray]:
        """Returns the crc32c of the `symbols` and of the `indexes` up to each cut, uint32."""
        return {
            name: self._column(f"bitstream/cut_{name}_crc32c", [row])[0]
            for name in ("symbols", "indexes")
        }

    def scalable_string(self, row: int, keep: int) -> bytes:
        """Returns the prefix of the scalable stream that holds `keep` channels; crc32c checked.

        Raises:
            RankingError: `keep` is no cut of this copy.
        """
        cut = self._cut(keep)
        prefix = self._stream("bitstream/scalable", row, int(self.cut_bytes([row])[0, cut]))
        crc = int(self._column("bitstream/cut_bytes_crc32c", [row])[0, cut])
        self._check_crc(prefix, crc, "bitstream/scalable", row)
        return prefix

    def check_symbols(self, row: int, symbols_KHW: np.ndarray, indexes_KHW: np.ndarray) -> None:
        """Refuses decoded symbols, or scale indexes, that are not those that were encoded.

        Args:
            row: Row number.
            symbols_KHW: Decoded channels in ranked order; K is one of the cuts.
            indexes_KHW: Their scale indexes, uint8.

        Raises:
            IntegrityError: Their crc32c differs: h_s ran differently here, or bytes were altered.
        """
        cut = self._cut(len(symbols_KHW))
        stored = self.cut_checksums(row)
        for name, values, dtype in (
            ("indexes", indexes_KHW, np.uint8),
            ("symbols", symbols_KHW, np.int32),
        ):
            found = crc32c(np.ascontiguousarray(values, dtype=dtype).tobytes())
            if found != int(stored[name][cut]):
                raise IntegrityError(
                    f"row {row} of {self.key}: the {name} of the first {len(values)} channels are "
                    "not those that were encoded; check the store with `latent-store verify`"
                )

    def variables(self) -> dict[str, Variable]:
        """Returns ŷ under a name of its own, and the bytes up to each cut."""
        cut_bytes = Variable(array="bitstream/cut_bytes")
        return {"y_hat_ranked": self.record.y_hat, "cut_bytes": cut_bytes}

    def coordinates(self) -> dict[str, Coordinate]:
        """Returns the channel number of each rank, and the channels up to each cut."""
        ranks, cuts = np.array(self.record.order), np.array(self.cuts)
        return {"ranked_channel": ("rank", ranks), "cut": ("cut", cuts)}

    def _cut(self, keep: int) -> int:
        if keep not in self.cuts:
            most = len(self.record.order)
            remedy = "add it with channel-frequency `keep=` and reorder-latents `overwrite=`"
            if keep > most:
                remedy = f"its codec has {most} channels"
            raise RankingError(
                f"the scalable stream of {self.key} has cuts at {list(self.cuts)}, not at {keep}; "
                f"{remedy}"
            )
        return self.cuts.index(keep)
