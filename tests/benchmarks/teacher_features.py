"""What each encoding of a teacher's features costs: bytes, error, time to read a crop.

    python -m tests.benchmarks.teacher_features --data_root D --teacher teacher/last.pt --images 16

Every encoding is written by the encoding job's own code into a store of its own and read back by
the reader. Without `--teacher` the stem is a ResNet-18's with seeded random weights.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from latent_store.catalogue import codecs
from latent_store.codec import image_to_tensor, pad_image
from latent_store.components import creation
from latent_store.components.features import STEM, teacher_spec
from latent_store.components.finalize import finalize
from latent_store.console import make_parser, progress, run_command
from latent_store.format import schema
from latent_store.format.feature_encoding import BITROUND, FLOAT16, FeatureEncoding
from latent_store.format.plan import make_plan
from latent_store.format.plan_files import write_plan
from latent_store.format.samples import Sample
from latent_store.storage.location import Location
from latent_store.store import LatentStore
from pipelines.datasets.base import DatasetReader, read_picture
from pipelines.datasets.registry import DatasetFlags, open_dataset
from pipelines.jobs.encoding import EncodeJob, Encoder, encode_features, load_stem
from tests.benchmarks.table import markdown
from training.networks.network_config import NetworkConfig
from training.tasks.registry import build_network
from training.trainer.checkpoints import load_network, save_checkpoint

SAMPLES_PER_SHARD = 16
CROP = 512 // schema.FEATURE_STRIDE
HEADER = ("encoding", "bytes an image", "relative error of F", "read of a crop [ms]")


@dataclass(frozen=True, kw_only=True)
class FeatureCost:
    """What one encoding costs.

    Attributes:
        image_bytes: On disk, all objects of the component's arrays, a picture.
        error: `‖F - F̂‖ / ‖F‖` over all pictures.
        read_ms: Median time of one picture's crop of 512×512 pixels, or of all of it.
    """

    encoding: FeatureEncoding
    image_bytes: float
    error: float
    read_ms: float

    def cells(self) -> tuple[str, ...]:
        """Returns the table's row."""
        numbers = (f"{self.image_bytes:,.0f}", f"{self.error:.5f}", f"{self.read_ms:.1f}")
        return str(self.encoding), *numbers


def measure_features(
    data_root: Path,
    split: str,
    teacher: bytes,
    encodings: Sequence[FeatureEncoding],
    images: int,
    work: Path,
) -> list[FeatureCost]:
    """Writes and reads the features of the first `images` pictures in every encoding."""
    dataset = open_dataset(DatasetFlags(dataset="cityscapes", data_root=str(data_root)))
    samples = dataset.manifest(split)[:images]
    costs = []
    for number, encoding in enumerate(progress(encodings, desc="encodings", unit="encoding")):
        location = Location(work / f"{number}.zarr")
        encode = functools.partial(_encode, location, dataset, split, samples)
        costs.append(_cost(location, dataset, encode(teacher, encoding), encoding))
    return costs


def _encode(
    location: Location,
    dataset: DatasetReader,
    split: str,
    samples: Sequence[Sample],
    teacher: bytes,
    encoding: FeatureEncoding,
) -> str:
    """Writes one encoding's store and returns the component's key."""
    loaded = load_network(teacher, kind="teacher")
    teacher_id, channels = loaded.teacher_id, loaded.config.feature_channels
    plan = make_plan("cityscapes", split, samples, SAMPLES_PER_SHARD)
    spec = teacher_spec(teacher_id, *plan.canvas, channels, encoding)
    creation.create_store(location)
    write_plan(location, plan)
    codecs.register_teacher(location, teacher_id, teacher)
    creation.create_component(location, plan, spec)
    make = functools.partial(encode_features, location, teacher_id, STEM, encoding, "cpu")
    job = EncodeJob(
        store=location,
        split=plan.name,
        reader=dataset,
        encoders=(Encoder(spec=spec, make=make),),
    )
    for shard in range(plan.num_shards):
        job.write_shard(shard)
    finalize(location, plan.name, spec.key)
    return f"{plan.name}/{spec.key}"


def _cost(
    location: Location, dataset: DatasetReader, key: str, encoding: FeatureEncoding
) -> FeatureCost:
    split_name, _, teacher_id = key.rpartition("/teacher/")
    split = LatentStore(location)[split_name]
    reader = split.teacher(teacher_id)
    stem = load_stem(location, teacher_id)
    window = (0, 0, *(min(CROP, side) for side in reader.array("features").shape[2:]))
    wrong = total = 0.0
    seconds = []
    for row, sample in zip(split.plan.rows, split.plan.samples, strict=True):
        image_HWC, _ = read_picture(dataset, sample)
        with torch.inference_mode():
            exact = stem(image_to_tensor(pad_image(image_HWC)))[0].double().numpy()
        wrong += float(((reader.read([row])[0] - exact) ** 2).sum())
        total += float((exact**2).sum())
        start = time.perf_counter()
        reader.read([row], window)
        seconds.append(time.perf_counter() - start)
    stored = sum(n for name, n in location.sizes(key).items() if "/c/" in name)
    return FeatureCost(
        encoding=encoding,
        image_bytes=stored / len(seconds),
        error=float(np.sqrt(wrong / total)),
        read_ms=1000 * float(np.median(seconds)),
    )


def random_teacher(path: Path) -> bytes:
    """Returns the checkpoint file of a ResNet-18 teacher with seeded random weights."""
    torch.manual_seed(0)
    config = NetworkConfig(domain="pixel", backbone="resnet18", num_classes=19)
    save_checkpoint(path, build_network(config), meta={"kind": "teacher"})
    return path.read_bytes()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; see `--help`."""
    return run_command("teacher_features", lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    parser = make_parser("python -m tests.benchmarks.teacher_features", __doc__ or "")
    add = parser.add_argument
    add("--data_root", type=Path, required=True, help="data root in Cityscapes' layout")
    add("--split", default="val", help="split of the data root")
    add("--teacher", type=Path, help="file that train-teacher wrote (default: random weights)")
    add("--images", type=int, default=16, help="pictures to measure on")
    add("--keepbits", type=int, nargs="+", default=[3, 4, 5], help="of float16-bitround")
    flags = parser.parse_args(argv)
    rounded = [FeatureEncoding(name=BITROUND, keepbits=bits) for bits in flags.keepbits]
    encodings = [FeatureEncoding(), FeatureEncoding(name=FLOAT16), *rounded]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        teacher = flags.teacher.read_bytes() if flags.teacher else random_teacher(work / "r.pt")
        costs = measure_features(
            flags.data_root, flags.split, teacher, encodings, flags.images, work
        )
    print(markdown(HEADER, [cost.cells() for cost in costs]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
