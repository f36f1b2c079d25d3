"""Inputs of `train-from-store`: a store's codec, ranking, teacher, classes; found, or refused."""

from __future__ import annotations

from dataclasses import dataclass

import latent_store
from latent_store import LatentStore
from latent_store.errors import MissingComponentError, StoreNotFoundError
from latent_store.format.schema import CodecSpec
from latent_store.store import Split
from training.selection.base import Selection
from training.selection.registry import find_selection
from training.tasks.classes import class_names
from training.tasks.registry import find_task
from training.trainer.checkpoints import LoadedNetwork, load_network
from training.trainer.job import NONE, Job


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The parts of a store that a job needs, checked before anything is built.

    Attributes:
        selection: The channels of the network.
        teacher: That the weights start from.
    """

    store: LatentStore
    spec: CodecSpec
    selection: Selection
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
    store[name]  # Its plan comes first: where that was lost, a teacher is missing too.
    spec = store.codec(job.data.codec)
    selection = find_selection(job.model.selection).find(job.model, store, spec)
    teacher_id = _teacher_id(job, store, name)
    teacher = None
    starts = job.model.init == "teacher" and job.model.init_from is None
    if starts and teacher_id is not None:
        teacher = load_network(store.teacher_checkpoint(teacher_id), kind="teacher")
    return Inputs(
        store=store,
        spec=spec,
        selection=selection,
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
