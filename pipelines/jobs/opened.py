"""What a worker process opens once a run: opening reads all of a plan and lists a whole component.

Done for each shard anew, a run over a store would cost the square of its size. What was opened
reads on while others append, so it serves a run to its end; the next run opens anew.
"""

from __future__ import annotations

import functools
import socket
import threading

from latent_store.components.latents import LatentsReader
from latent_store.errors import StoreNotFoundError
from latent_store.format.plan import ShardPlan
from latent_store.format.plan_files import read_plan
from latent_store.storage.location import Location
from latent_store.store import LatentStore, Split

_one_at_a_time = threading.Lock()
"""Or the threads that begin a run together would each open the same."""


def open_split(store: Location, split: str, run_id: str) -> Split:
    """Opens a split, `dataset/split`; the same one again for the same run."""
    with _one_at_a_time:
        return _split(store, split, run_id)


def open_plan(store: Location, split: str, run_id: str) -> ShardPlan:
    """Reads, as a worker, a split's plan; the same one again for the same run.

    Raises:
        StoreNotFoundError: Where the launcher has written it, this process finds another folder.
    """
    try:
        with _one_at_a_time:
            return _plan(store, split, run_id)
    except StoreNotFoundError as error:
        raise StoreNotFoundError(
            f"{socket.gethostname()} finds no plan of {split} at {store.url}, where this job's "
            "launcher has one: give a folder that all workers share with it, or a URL"
        ) from error


def open_latents(store: Location, split: str, codec_id: str, run_id: str) -> LatentsReader:
    """Opens one codec's latents; the same ones again for the same run."""
    with _one_at_a_time:
        return _latents(store, split, codec_id, run_id)


@functools.lru_cache(maxsize=1)
def _plan(store: Location, split: str, run_id: str) -> ShardPlan:
    return read_plan(store, *split.split("/"))


@functools.lru_cache(maxsize=1)
def _split(store: Location, split: str, run_id: str) -> Split:
    return Split(LatentStore(store), _plan(store, split, run_id))


@functools.lru_cache(maxsize=1)
def _latents(store: Location, split: str, codec_id: str, run_id: str) -> LatentsReader:
    return _split(store, split, run_id).latents(codec_id)
