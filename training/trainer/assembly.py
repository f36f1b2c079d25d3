"""The assembly of a run on a store: network, loaders, initial weights and validator, from flags."""

import contextlib
import itertools
import logging
from dataclasses import dataclass
from typing import Any

import torch

import latent_store
from latent_store import LatentStore
from latent_store.codec import codec_from_store
from latent_store.components.features import STEM, features_id
from latent_store.errors import LatentStoreError, MissingComponentError, StoreNotFoundError
from latent_store.format.schema import CodecSpec
from training.data.loader import CropLoader, WholeImages
from training.data.loader_config import LoaderConfig
from training.data.store_source import SourceSpec, StoreSource
from training.networks.network_config import NetworkConfig
from training.networks.networks import LatentNetwork, Network
from training.selection.base import Selection
from training.selection.registry import find_selection
from training.tasks.base import Task
from training.tasks.classes import class_names
from training.tasks.objective import Objective, to_device
from training.tasks.registry import build_network, find_task
from training.trainer import computed_start, initialise
from training.trainer.checkpoints import LoadedNetwork, load_network
from training.trainer.job import FREE, FRESH, NONE, Job, ModelConfig, TrainerConfig
from training.trainer.ranks import ALONE, Ranks
from training.trainer.run_folder import FitResult, RunFolder, tell_where_none
from training.trainer.trainer import SETTLING_BATCHES, Trainer
from training.trainer.validation import Validator

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The parts of a store that a job needs, checked before anything is built.

    Attributes:
        selection: The channels of the network.
        teacher_id: Whose features and weights are used; None for nobody's.
        start: The network, or the teacher, that the weights start from; None for neither.
    """

    store: LatentStore
    spec: CodecSpec
    selection: Selection
    teacher_id: str | None
    start: LoadedNetwork | None
    classes: tuple[str, ...]


def train(job: Job, ranks: Ranks = ALONE) -> FitResult:
    """Trains one network from a store, together with other ranks where there are any.

    Raises:
        LatentStoreError: If the flags contradict each other or the store lacks what they ask for;
            see `Trainer.fit` for what can happen later.
    """
    tell_where_none(job.output, resume=job.resume)
    config, task = job.trainer, find_task(job.model.task)
    require_batch_norm(task, job.loader, config)
    inputs = find_inputs(job)
    torch.manual_seed(config.seed)
    network = build_network(network_config(job, inputs))
    source = StoreSource(source_spec(job, inputs, job.data.split))
    pinned = ranks.device(config.device).type == "cuda"
    loader = CropLoader(source, job.loader, seed=config.seed, pin_memory=pinned, share=ranks)
    codec_id = inputs.spec.codec_id
    folder = RunFolder(
        job.output,
        meta=make_meta(job, inputs, network.config),
        config=job.resolved(),
        free=FREE,
        # The first rank alone writes it.
        codec_bytes=inputs.store.codec_checkpoint(codec_id) if ranks.first else None,
        safetensors=config.safetensors,
    )
    # What there is to refuse comes before minutes go into a computed start.
    folder.require_room(resume=job.resume)
    validator = make_validator(job, inputs, ranks)
    start = find_start(network, job, source)
    objective = make_objective(network, job, start)

    def give_weights() -> None:
        initialise_network(network, job, inputs, source)
        if start != FRESH and not folder.holds_run():
            start_transform(objective, job, inputs, source, ranks.device(config.device), start)

    ranks.start_alike(network, give_weights)
    with contextlib.closing(loader):
        trainer = Trainer(objective, loader, config, folder, validate=validator, ranks=ranks)
        return trainer.fit(resume=job.resume)


def find_inputs(job: Job) -> Inputs:
    """Opens the store and finds codec, ranking, teacher and the classes' names.

    Raises:
        LatentStoreError: If one of them is missing or unfit, or there is nothing to learn from;
            names the remedy.
    """
    store = latent_store.open(job.data.store)
    name = f"{job.data.dataset}/{job.data.split}"
    if name not in store.splits():
        raise StoreNotFoundError(
            f"{store.url} has no split {name} (it has: {', '.join(store.splits()) or 'none'}): "
            "give another --dataset or --split, or encode it with encode-to-store"
        )
    split = store[name]  # Its plan comes first: where that was lost, a teacher is missing too.
    annotations = find_task(job.model.task).annotations().open(split)
    spec = store.codec(job.data.codec)
    kind = find_selection(job.model.selection)
    selection = kind(
        latent_channels=spec.channels,
        gate_pool=job.model.gate_pool,
        gate_bias=job.model.gate_bias,
        **kind.find_channels(job.model, store, spec),
    )
    teacher_id = _teacher_id(job, store, name)
    start = None
    if job.model.init_from is not None:
        start = load_network(job.model.init_from)
    elif job.model.init == "teacher" and teacher_id is not None:
        start = load_network(store.teacher_checkpoint(teacher_id), kind="teacher")
    return Inputs(
        store=store,
        spec=spec,
        selection=selection,
        teacher_id=teacher_id,
        start=start,
        classes=annotations.class_names or class_names(job.data.dataset),
    )


def require_batch_norm(task: Task, loader: LoaderConfig, trainer: TrainerConfig) -> None:
    """Refuses batches that batch norm cannot be trained on.

    Raises:
        LatentStoreError: If there is one image in a batch, and that is too few for the task.
    """
    if task.why_not_one_image and loader.batch_size == 1 and not trainer.freeze_batch_norm:
        raise LatentStoreError(
            f"{task.why_not_one_image}: use --batch_size 2 or more, or --freeze_batch_norm"
        )


def network_config(job: Job, inputs: Inputs) -> NetworkConfig:
    """Returns the network's shape; what is not asked for is taken from what it starts from."""
    start = NetworkConfig() if inputs.start is None else inputs.start.config
    classes, selection = len(inputs.classes), vars(inputs.selection)
    return start.with_flags(job.model, num_classes=classes, **selection)


def source_spec(job: Job, inputs: Inputs, split: str, *, held: bool = False) -> SourceSpec:
    """Returns what is read for training, of another split, or of what is `held` out of training."""
    training = split == job.data.split and not held
    model = job.model
    distils = training and model.domain == "latent" and model.lambda_kd > 0
    features = None
    if distils and inputs.teacher_id is not None:
        features = features_id(inputs.teacher_id, model.entry)
    return SourceSpec(
        url=job.data.store,
        split=f"{job.data.dataset}/{split}",
        annotations=find_task(model.task).annotations(num_classes=len(inputs.classes)),
        domain=model.domain,
        codec_id=inputs.spec.codec_id,
        stored=inputs.selection.stored(model.mask),
        teacher_id=features,
        hold_out=(job.data.hold_out or ()) if split == job.data.split else (),
        held=held,
        views=training and job.loader.views,
        max_samples=job.loader.max_samples if training else job.data.val_max_samples,
        cache_mb=job.loader.cache_mb,
    )


def initialise_network(network: Network, job: Job, inputs: Inputs, source: StoreSource) -> None:
    """Gives the network the weights and the statistics that it starts with."""
    if isinstance(network, LatentNetwork):
        initialise.set_statistics(network, source)
    if inputs.start is not None and job.model.init_from is not None:
        if fresh := initialise.start_from_network(network, inputs.start):
            _LOG.info("stay fresh: %s", ", ".join(fresh))
    elif inputs.start is not None:
        if fresh := initialise.start_from_teacher(network, inputs.start):
            task, names = inputs.start.config.task, ", ".join(fresh)
            _LOG.info("the teacher was trained for %s: stay fresh: %s", task, names)
    elif job.model.pretrained != NONE:
        initialise.start_from_pretrained(network, job.model.pretrained)
        initialise.unfold_pretrained(network, source, job.loader, seed=job.trainer.seed)


def make_objective(network: Network, job: Job, start: str) -> Objective:
    """Returns what is minimised, with the schedules that go with it."""
    model, task = job.model, find_task(job.model.task)
    rate = model.transform_rate
    if rate is None:
        rate = 1.0 if start == FRESH else computed_start.TRANSFORM_RATE
    first, last = model.temperature, model.temperature_end
    return Objective(
        task,
        network,
        task.loss(lambda_kd=model.lambda_kd, rate_weight=model.rate_weight),
        seed=job.trainer.seed,
        temperature=(first, first if last is None else last),
        transform_rate=rate,
    )


def find_start(network: Network, job: Job, source: StoreSource) -> str:
    """Returns which of `TRANSFORM_INITS` the network's transform starts with.

    Raises:
        LatentStoreError: If one is asked for and the network, or the store, has not what it needs.
    """
    how = job.model.transform_init
    possible = isinstance(network, LatentNetwork) and source.teacher is not None
    possible = possible and job.model.init_from is None
    if how == FRESH or (how is None and not possible):
        return FRESH
    if not possible:
        raise LatentStoreError(
            f"--transform_init {how} fits the transform to a teacher's features: it goes with "
            "--domain latent, stored features, --lambda_kd above 0 and without --init_from; else "
            "give --transform_init fresh"
        )
    if how == "computed" and not computed_start.can_be_computed(network):
        raise LatentStoreError(
            f"--transform_init computed is for --transform deconv, got {job.model.transform}: give "
            "--transform_init distilled, or fresh"
        )
    return how or "distilled"


def start_transform(
    objective: Objective,
    job: Job,
    inputs: Inputs,
    source: StoreSource,
    device: torch.device,
    start: str,
) -> None:
    """Computes, or distils, the weights that the transform starts with, and settles the network.

    The first rank does it, on whole batches.

    Args:
        start: What `find_start` has found, not `fresh`.
    """
    network = objective.network.to(device)
    assert isinstance(network, LatentNetwork)  # what else has no start
    if computed_start.can_be_computed(network):
        codec = codec_from_store(inputs.store, inputs.spec.codec_id)
        images = job.model.fit_images
        computed_start.compute_start(network, source, codec, images=images, device=device)
    with contextlib.closing(CropLoader(source, job.loader, seed=job.trainer.seed)) as loader:
        if start == "distilled" and job.model.distil_steps:
            computed_start.distil(
                network,
                loader.stream(0, 0),
                steps=job.model.distil_steps,
                learning_rate=job.trainer.learning_rate * computed_start.DISTIL_RATE,
                seed=job.trainer.seed,
                device=device,
            )
        if job.trainer.freeze_batch_norm:
            return
        some = itertools.islice(loader.stream(0, 0), SETTLING_BATCHES)
        objective.settle(to_device(batch, device) for batch in some)


def make_validator(job: Job, inputs: Inputs, ranks: Ranks) -> Validator | None:
    """Returns the validator, or None without a split to validate on.

    Raises:
        StoreNotFoundError: If a split was asked for by name and is not there.
    """
    held = bool(job.data.hold_out) and job.data.val_split is None
    split = job.data.split if held else job.data.val_split or "val"
    name = f"{job.data.dataset}/{split}"
    present = name in inputs.store.splits()
    if split == NONE or (job.data.val_split is None and not present):
        return None
    if not present:
        raise StoreNotFoundError(
            f"{inputs.store.url} has no split {name} (it has: {', '.join(inputs.store.splits())}): "
            "give another --val_split, or --val_split none"
        )
    source = StoreSource(source_spec(job, inputs, split, held=held))
    whole = WholeImages(source, share=ranks)
    task, drawn = find_task(job.model.task), job.trainer.tensorboard
    return Validator(task, whole, inputs.classes, ranks=ranks, drawn=drawn)


def make_meta(job: Job, inputs: Inputs, config: NetworkConfig) -> dict[str, Any]:
    """Returns the checkpoint's meta, see `LoadedNetwork`."""
    return {
        "kind": "network",
        "dataset": job.data.dataset,
        "codec_id": inputs.spec.codec_id,
        "codec_identity": inputs.spec.identity,
        "ranking_id": job.model.mask,
        "channels": config.to_dict()["channels"],
        "teacher_id": inputs.teacher_id,
        "class_names": list(inputs.classes),
        "label": job.model.label or _default_label(job.model),
    }


def _default_label(model: ModelConfig) -> str:
    if model.domain == "pixel":
        return "pixel (trained on decoded)"
    name = find_selection(model.selection).label(model)
    name += " res" if model.transform == "res" else ""
    name += f" at {model.entry}" if model.entry != STEM else ""
    return name + (" fine-tuned" if model.init_from is not None else "")


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
        chosen = known[0]
    if chosen in known:
        return chosen if distils or starts else None
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
            f"them: --teacher none --lambda_kd 0{' --init scratch' * starts}"
        )
    if starts:
        raise MissingComponentError(
            f"--init teacher starts the tail from a teacher, and {store.url} keeps none: add one "
            "with encode-to-store --teacher_checkpoint FILE, or give --init scratch"
        )
    return None
