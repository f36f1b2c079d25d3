"""Writes one shard of a ranking's copy: ŷ in importance order and the scalable stream.

Needs ŷ and ẑ from the store and h_s, but neither g_a nor a picture. Plain functions, tested
without Beam.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
import torch

from latent_store.catalogue.rankings import Ranking
from latent_store.codec import Codec, decode_scalable, encode_scalable
from latent_store.components.readers import LatentsReader
from latent_store.components.writer import ShardWriter
from latent_store.errors import IntegrityError, LatentStoreError
from latent_store.format.schema import ComponentSpec
from latent_store.shards import receipts
from latent_store.shards.receipts import RowRecord, crc32c
from latent_store.storage.location import Location
from latent_store.store import LatentStore
from latent_store.tools.deep_check import decode_indexes
from pipelines.jobs.encoding import Encoded, load_store_codec


@dataclass(frozen=True, kw_only=True)
class ReorderTask:
    """What every worker needs to know; small and picklable."""

    store: Location
    split: str
    ranking: Ranking
    component: ComponentSpec
    threads: int


def reorder_shard(task: ReorderTask, shard: int) -> bool:
    """Writes one shard of the copy, unless it has a receipt; tells whether it was written.

    An error of the shard becomes a note that `finalize` reports.
    """
    if shard in receipts.finished_shards(task.store, task.split, task.component.key):
        return False
    torch.set_num_threads(task.threads)
    split = LatentStore(task.store)[task.split]
    try:
        latents = split.latents(task.ranking.codec_id)
        codec = load_store_codec(task.store, task.ranking.codec_id)
        columns: dict[str, dict[int, np.ndarray]] = {a.name: {} for a in task.component.arrays}
        streams: dict[str, dict[int, bytes]] = {s.name: {} for s in task.component.streams}
        records = []
        usable = set(latents.rows.tolist())
        for row, sample in split.plan.in_shard(shard):
            if row not in usable:
                records.append(_not_encoded(row, sample.sample_id))
                continue
            encoded = reorder_row(codec, latents, row, task.ranking)
            for name, value in encoded.arrays.items():
                columns[name][row] = value
            for name, data in encoded.streams.items():
                streams[name][row] = data
            records.append(RowRecord(row=row, sample_id=sample.sample_id, stats=encoded.stats))
        ShardWriter(task.store, split.plan, task.component).write(shard, columns, streams, records)
    except (OSError, LatentStoreError) as error:
        with contextlib.suppress(OSError):
            key = receipts.failure_key(task.split, task.component.key, shard)
            task.store.write(key, (str(error) or type(error).__name__).encode())
        return False
    return True


def reorder_row(codec: Codec, latents: LatentsReader, row: int, ranking: Ranking) -> Encoded:
    """Reorders one row, codes it in importance order and proves that every cut decodes.

    Raises:
        IntegrityError: A prefix does not decode to its channels.
    """
    indexes_CHW = decode_indexes(codec, latents, row)
    height, width = indexes_CHW.shape[1:]
    y_hat_CHW = latents.read([row])[0, :, :height, :width].astype(np.int32)
    order = list(ranking.order)
    stream = encode_scalable(codec.tables, y_hat_CHW, indexes_CHW, order, ranking.cuts)
    ranked_CHW = y_hat_CHW[order]
    crcs = []
    for cut, length in zip(stream.cuts, stream.cut_bytes, strict=True):
        prefix = stream.data[:length]
        if not np.array_equal(
            decode_scalable(codec.tables, prefix, indexes_CHW, order, cut), ranked_CHW[:cut]
        ):
            raise IntegrityError(
                f"row {row}: the first {length} bytes do not decode to {cut} channels"
            )
        crcs.append(crc32c(prefix))
    return Encoded(
        arrays={
            "y_hat": ranked_CHW,
            "bitstream/cut_bytes": np.asarray(stream.cut_bytes, dtype=np.int64),
            "bitstream/cut_symbols_crc32c": np.asarray(stream.symbols_crc32c, dtype=np.uint32),
            "bitstream/cut_indexes_crc32c": np.asarray(stream.indexes_crc32c, dtype=np.uint32),
            "bitstream/cut_bytes_crc32c": np.asarray(crcs, dtype=np.uint32),
        },
        streams={"bitstream/scalable": stream.data},
        stats={"scalable_bytes": len(stream.data)},
    )


def _not_encoded(row: int, sample_id: str) -> RowRecord:
    reason = "its latents failed or are absent"
    return RowRecord(row=row, sample_id=sample_id, status=receipts.FAILED, reason=reason)
