"""The commands of `latent-store` that work with streams: decode, export, selfcheck."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from latent_store.codec.checkpoints import codec_from_store, load_codec
from latent_store.codec.hyperprior import Codec
from latent_store.codec.numerics import choose_device
from latent_store.codec.packing import cut_stream
from latent_store.codec.pictures import read_image
from latent_store.codec.stream_file import StreamFile, read_stream_file, write_stream_file
from latent_store.console import progress
from latent_store.errors import (
    DatasetError,
    IdentityError,
    LatentStoreError,
    MissingComponentError,
    RankingError,
)
from latent_store.format.ids import normal_id
from latent_store.storage.object_stores import open_location
from latent_store.store import LatentStore, Split
from latent_store.tools.decode import (
    CodedSample,
    DecodedPicture,
    Reference,
    decode_stream,
    picture_strip,
)
from latent_store.tools.selfcheck import check_store
from latent_store.views.panels import save_png


class _Source(NamedTuple):
    """One picture, of a store or of a stream file; `read` gives all its channels or the first."""

    name: str
    codec: Codec
    read: Callable[[int | None], StreamFile]
    full_psnr: float | None = None

    def decode(self, keep: int | None = None) -> DecodedPicture:
        return decode_stream(self.codec, self.read(keep), self.name)


def decode(flags: argparse.Namespace) -> int:
    """`latent-store decode`: one picture, of a store or a stream file, at one N or several."""
    if len(flags.channels) > 1 and not flags.strip and flags.output.suffix == ".png":
        raise LatentStoreError(
            f"--channels {' '.join(flags.channels)} gives {len(flags.channels)} pictures: let "
            "--output be a folder, or give --strip for one PNG"
        )
    source = _open_source(flags)
    pictures = [source.decode(_keep(channels)) for channels in flags.channels]
    reference = _reference(flags, source, pictures[0])
    for channels, picture in zip(flags.channels, pictures, strict=True):
        one = flags.strip or len(pictures) == 1
        path = flags.output if one else flags.output / f"{channels}.png"
        if not flags.strip:
            save_png(path, picture.image_HWC)
        fidelity = "no PSNR without --image" if reference is None else reference.describe(picture)
        line = f"{path}: {picture.describe()}; {fidelity}"
        if source.full_psnr is not None:
            line += f" (all channels against the original: {source.full_psnr:.2f} dB)"
        print(line)
    if flags.strip:
        save_png(flags.output, picture_strip(pictures, reference))
    return 0


def export(flags: argparse.Namespace) -> int:
    """`latent-store export`: one sample's streams as a file."""
    stream = _open_sample(flags).export(_keep(flags.channels))
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    size = write_stream_file(flags.output, stream)
    parts = ", ".join(f"{name} {length}" for name, length in stream.part_bytes.items() if length)
    cuts = ", ".join(
        f"{cut} in {length}" for cut, length in zip(stream.cuts, stream.cut_bytes, strict=True)
    )
    print(
        f"{flags.output}: {flags.sample}, {stream.selection}, {size} bytes ({parts}, rest header), "
        f"{stream.bpp:.4f} bpp; channels and bytes of y: {cuts}"
    )
    return 0


def selfcheck(flags: argparse.Namespace) -> int:
    """`latent-store selfcheck`: scale indexes under every setting; exits 1 if any differs."""
    device = str(choose_device(flags.device))
    store = LatentStore(open_location(flags.url))
    counts = flags.max_samples and dict.fromkeys(store.splits(), flags.max_samples)
    with progress(desc="selfcheck", unit="image") as bar:
        outcome = check_store(store, flags.codec, counts=counts, device=device, on_image=bar.update)
    print(outcome.describe())
    return 0 if outcome.holds else 1


def _keep(channels: str) -> int | None:
    """Returns how many channels to decode; None for all."""
    if channels == "all":
        return None
    if not channels.isdecimal() or not channels.isascii():
        raise RankingError(f"--channels must be all or a number of channels, got {channels!r}")
    return int(channels)


def _open_source(flags: argparse.Namespace) -> _Source:
    path = Path(flags.url)
    if flags.sample is not None or not path.is_file():
        sample = _open_sample(flags)
        return _Source(sample.name, sample.codec, sample.stream, sample.full_psnr)
    store = None if flags.store is None else LatentStore(open_location(flags.store))
    stream = read_stream_file(path)
    codec = _find_codec(flags.codec_checkpoint, store, stream.codec_digest)
    return _Source(path.name, codec, partial(cut_stream, stream))


def _find_codec(checkpoint: Path | None, store: LatentStore | None, digest: bytes) -> Codec:
    """Returns the codec that a stream file names, or refuses another one."""
    if checkpoint is not None:
        codec = load_codec(checkpoint=checkpoint)
        codec.spec.require_digest(digest, "the stream file")
        return codec
    if store is not None:
        for codec_id, spec in store.codecs().items():
            if spec.digest == digest:
                return codec_from_store(store, codec_id)
    codec = load_codec(demo=True)
    if codec.spec.digest != digest:
        raise IdentityError(
            f"the stream file is of the codec with digest {digest.hex()}, which neither comes with "
            "the package nor lies in a --store; give its checkpoint with --codec_checkpoint, or a "
            "store that keeps it with --store"
        )
    return codec


def _open_sample(flags: argparse.Namespace) -> CodedSample:
    if flags.sample is None:
        raise LatentStoreError(
            f"{flags.url} is no stream file; name a sample of the store with --sample"
        )
    if Path(flags.url).is_file():
        raise LatentStoreError(f"{flags.url} is a file; --sample and export go with a store")
    split = _split_of(LatentStore(open_location(flags.url)), flags.sample, flags.split)
    return CodedSample(split, flags.sample, flags.codec, flags.ranking)


def _reference(
    flags: argparse.Namespace, source: _Source, picture: DecodedPicture
) -> Reference | None:
    """Returns the original if it is given, else the full decode if the stream holds it."""
    if flags.image is None:
        full = source.decode()
        if len(full.stream.channels) < full.stream.num_channels:
            return None
        return Reference("the full decode", full.image_HWC)
    image_HWC = read_image(flags.image)
    if image_HWC.shape != picture.image_HWC.shape:
        sizes = [f"{shape[0]}x{shape[1]}" for shape in (image_HWC.shape, picture.image_HWC.shape)]
        raise DatasetError(
            f"--image {flags.image} is {sizes[0]}, the stream's picture {sizes[1]} (height x "
            "width); give the picture that was encoded"
        )
    return Reference("the original", image_HWC)


def _split_of(store: LatentStore, sample_id: str, name: str | None) -> Split:
    if name is not None:
        return store[name]
    splits = [store[name] for name in store.splits()]
    wanted = normal_id(sample_id)
    found = [s for s in splits if s.plan.row_of(wanted) is not None]
    if len(found) == 1:
        return found[0]
    where = ", ".join(s.plan.name for s in found or splits)
    if not found:
        raise MissingComponentError(f"{store.url} has no sample {sample_id!r} in any of: {where}")
    raise MissingComponentError(
        f"{store.url} has a sample {sample_id!r} in each of: {where}; name one with --split"
    )
