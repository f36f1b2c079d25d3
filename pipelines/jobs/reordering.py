"""The job that writes a ranking's copy of latents: ŷ in importance order, the scalable stream.

Needs ŷ and ẑ from the store and h_s, but neither g_a nor a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from latent_store.catalogue.rankings import Ranking
from latent_store.codec import Codec, encode_scalable
from latent_store.components.latents import LatentsReader
from latent_store.errors import IntegrityError
from latent_store.format.plan import ShardPlan
from latent_store.format.samples import Sample
from latent_store.format.schema import ComponentSpec
from latent_store.shards.receipts import FAILED, RowRecord
from latent_store.tools.decode import decode_gaussians
from pipelines.jobs.component_job import ComponentJob, Encoded, ShardRows
from pipelines.jobs.encoding import load_store_codec
from pipelines.jobs.opened import open_latents


@dataclass(frozen=True, kw_only=True)
class ReorderJob(ComponentJob):
    """Copies a split's latents, in the order of a ranking, into one component."""

    ranking: Ranking
    copy: ComponentSpec

    verb = "reorder"

    @property
    def components(self) -> tuple[ComponentSpec]:
        """The copy."""
        return (self.copy,)

    def fill(self, plan: ShardPlan, shard: int, rows: Mapping[str, ShardRows]) -> None:
        """Copies the rows that have latents."""
        (copied,) = rows.values()
        latents = self._latents()
        codec = load_store_codec(self.store, self.ranking.codec_id)
        usable = latents.rows_in(shard)
        # Read at once: an object holds them all.
        y_hat = dict(zip(usable.tolist(), latents.read(usable), strict=True))

        def reordered(row: int, _: Sample) -> Encoded | None:
            if row not in y_hat:
                return None
            return reorder_row(codec, latents, row, y_hat[row], self.ranking)

        planned = plan.in_shard(shard)
        with self.under_way(reordered, planned) as each:
            for (row, sample), encoded in zip(planned, each, strict=True):
                if encoded is None:
                    copied.leave(row, sample, FAILED, "its latents failed or are absent")
                else:
                    copied.put(row, sample, encoded)

    def again(self, plan: ShardPlan, spec: ComponentSpec) -> Callable[[RowRecord], bool]:
        """Makes failed rows again that have latents now."""
        usable = set(self._latents().rows.tolist())
        return lambda record: record.status == FAILED and record.row in usable

    def _latents(self) -> LatentsReader:
        return open_latents(self.store, self.split, self.ranking.codec_id, self.run_id)


def reorder_row(
    codec: Codec, latents: LatentsReader, row: int, y_hat_CHW: np.ndarray, ranking: Ranking
) -> Encoded:
    """Reorders one row, codes it in importance order and verifies the stream and its cuts.

    Args:
        codec: That of the latents.
        latents: They have the row's z string.
        row: Its number.
        y_hat_CHW: Its ŷ on the canvas.
        ranking: The order, and where the stream can be cut.

    Raises:
        IntegrityError: The stream does not decode to its channels.
    """
    gaussians = decode_gaussians(codec, latents, row)
    indexes_CHW = gaussians.indexes_CHW
    height, width = indexes_CHW.shape[1:]
    y_hat_CHW = y_hat_CHW[:, :height, :width]
    symbols_CHW = gaussians.symbols(y_hat_CHW)
    order = list(ranking.order)
    try:
        stream = encode_scalable(
            codec.tables, symbols_CHW, indexes_CHW, order, ranking.cuts, verify=True
        )
    except IntegrityError as error:
        raise IntegrityError(f"row {row}: {error}") from error
    return Encoded(
        arrays={
            "y_hat": codec.spec.to_stored(y_hat_CHW[order]),
            "bitstream/cut_bytes": np.asarray(stream.cut_bytes, dtype=np.int64),
            "bitstream/cut_symbols_crc32c": np.asarray(stream.symbols_crc32c, dtype=np.uint32),
            "bitstream/cut_indexes_crc32c": np.asarray(stream.indexes_crc32c, dtype=np.uint32),
            "bitstream/cut_bytes_crc32c": np.asarray(stream.bytes_crc32c, dtype=np.uint32),
        },
        streams={"bitstream/scalable": stream.data},
        stats={"scalable_bytes": len(stream.data)},
    )
