"""Inputs of `train-from-store`: a store's codec, ranking, teacher, classes; found, or refused."""

from __future__ import annotations

from dataclasses import dataclass

import latent_store
from latent_store import LatentStore, Ranking
from latent_store.errors import MissingComponentError, RankingError, StoreNotFoundError
from latent_store.format.schema import CodecSpec
from latent_store.store import Split
from training.tasks.classes import class_names
from training.tasks.registry import find_task
from training.trainer.checkpoints import LoadedNetwork, load_network
from training.trainer.job import NONE, Job


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The parts of a store that a job needs, checked before anything is built.

    Attributes:
        ranking: That the channels come from; None for all of them.
        cuts: Of a network for any N.
        keep: How many ranked channels are read; None for all in natural order.
        teacher: That the weights start from.
    """

    store: LatentStore
    spec: CodecSpec
    ranking: Ranking | None
    cuts: tuple[int, ...] | None
    keep: int | None
    teacher_id: str | None
    teacher: LoadedNetwork | None
    classes: tuple[str, ...]


def find_inputs(job: Job) -> Inputs:
    """Opens the store and finds codec, ranking and teacher.

    Raises:
        LatentStoreError: If one of them is missing or unfit; names the remedy.
    """
    store = latent_store.open(job.data.store)
    name = f"{job.data.dataset}/{job.data.split}"
    if name not in store.splits():
        raise StoreNotFoundError(
            f"{store.url} has no split {name} (it has: {', '.join(store.splits()) or 'none'}): "
            "give another --dataset or --split, or encode it with encode-to-store"
        )
    spec = store.codec(job.data.codec)
    ranking = None if job.model.mask is None else _ranking(job, store, spec)
    cuts = _cuts(job, ranking) if job.model.selection == "any" else None
    teacher_id = _teacher_id(job, store, name)
    teacher = None
    if job.model.init == "teacher" and job.model.init_from is None:
        teacher = load_network(store.teacher_checkpoint(teacher_id), kind="teacher")
    return Inputs(
        store=store,
        spec=spec,
        ranking=ranking,
        cuts=cuts,
        keep=cuts[-1] if cuts else job.model.keep,
        teacher_id=teacher_id,
        teacher=teacher,
        classes=_class_names(job, store[name]),
    )


def _class_names(job: Job, split: Split) -> tuple[str, ...]:
    """Returns the names of the classes that the task learns, by id.

    Raises:
        MissingComponentError: If the split has no labels, or no boxes.
    """
    annotations = find_task(job.model.task).annotations().open(split)
    return annotations.class_names or class_names(job.data.dataset)


def _ranking(job: Job, store: LatentStore, spec: CodecSpec) -> Ranking:
    """Returns the ranking that the mask comes from.

    Raises:
        RankingError: If the codec has none of that name, or it does not fit.
    """
    ranking = store.ranking(spec.codec_id, str(job.model.mask))
    if job.model.keep is not None:
        ranking.channels(job.model.keep)
    if len(ranking.order) != spec.channels:
        raise RankingError(
            f"ranking {ranking.ranking_id} orders {len(ranking.order)} channels, codec "
            f"{spec.codec_id} has {spec.channels}: derive one with channel-frequency"
        )
    return ranking


def _cuts(job: Job, ranking: Ranking) -> tuple[int, ...]:
    """Returns the cuts of a network for any N, rising: those asked for, or the ranking's.

    Raises:
        RankingError: If the scalable stream cannot be cut there.
    """
    cuts = tuple(sorted(set(job.model.cuts or ranking.cuts)))
    if unknown := [n for n in cuts if n not in ranking.cuts]:
        raise RankingError(
            f"--cuts {unknown[0]} is no cut of ranking {ranking.ranking_id}, whose streams can be "
            f"cut at {', '.join(map(str, ranking.cuts))}: choose among them, or derive the ranking "
            "with channel-frequency --keep and reorder-latents --overwrite"
        )
    return cuts


def _teacher_id(job: Job, store: LatentStore, split: str) -> str | None:
    """Returns whose features and weights are used; None for nobody's.

    Raises:
        MissingComponentError: If a teacher is needed and there is none, or a choice.
    """
    model = job.model
    distils = model.domain == "latent" and model.lambda_kd > 0
    starts = model.init == "teacher" and model.init_from is None
    known = store.teachers()
    chosen = job.data.teacher
    if chosen is None and len(known) == 1:
        return known[0]
    if chosen in known:
        return chosen
    if chosen not in (None, NONE) or (chosen is None and len(known) > 1 and (distils or starts)):
        raise MissingComponentError(
            f"{store.url} keeps the teachers {', '.join(known) or 'none'}, asked for: "
            f"{chosen or 'the only one'}; name one with --teacher, or give --teacher none "
            "--lambda_kd 0 --init scratch"
        )
    if distils:
        raise MissingComponentError(
            f"--lambda_kd {model.lambda_kd:g} distils teacher features, and {split} of {store.url} "
            "has none: add them with encode-to-store --teacher_checkpoint FILE, or train without "
            "them: --teacher none --lambda_kd 0"
        )
    if starts:
        raise MissingComponentError(
            f"--init teacher starts the tail from a teacher, and {store.url} keeps none: add one "
            "with encode-to-store --teacher_checkpoint FILE, or give --init scratch"
        )
    return None
