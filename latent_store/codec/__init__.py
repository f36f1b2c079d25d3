"""The frozen codec and its streams.

Owns what the stored numbers mean: a codec (`hyperprior`) of one of the kinds in `families` and
where its checkpoints come from, entropy tables, streams of any channels in any order and what each
channel costs, stream files, and pictures in and out. It never opens a store, it is handed bytes and
arrays; and it loads torch, so `import latent_store` never loads it. CompressAI is loaded by what
codes, when it first does (`stock`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latent_store.codec.checkpoints import codec_from_bytes as codec_from_bytes
    from latent_store.codec.checkpoints import codec_from_store as codec_from_store
    from latent_store.codec.checkpoints import load_codec as load_codec
    from latent_store.codec.hyperprior import Codec as Codec
    from latent_store.codec.hyperprior import Latents as Latents
    from latent_store.codec.ledger import channel_bits as channel_bits
    from latent_store.codec.ledger import hyper_bits as hyper_bits
    from latent_store.codec.packing import DecodedStream as DecodedStream
    from latent_store.codec.packing import cut_stream as cut_stream
    from latent_store.codec.packing import pack_stream as pack_stream
    from latent_store.codec.packing import unpack_stream as unpack_stream
    from latent_store.codec.pictures import image_to_tensor as image_to_tensor
    from latent_store.codec.pictures import pad_image as pad_image
    from latent_store.codec.pictures import psnr as psnr
    from latent_store.codec.pictures import read_image as read_image
    from latent_store.codec.pictures import tensor_to_image as tensor_to_image
    from latent_store.codec.stream_file import StreamFile as StreamFile
    from latent_store.codec.stream_file import read_stream_file as read_stream_file
    from latent_store.codec.stream_file import write_stream_file as write_stream_file
    from latent_store.codec.streams import decode_scalable as decode_scalable
    from latent_store.codec.streams import decode_y as decode_y
    from latent_store.codec.streams import decode_z as decode_z
    from latent_store.codec.streams import encode_scalable as encode_scalable
    from latent_store.codec.streams import encode_y as encode_y
    from latent_store.codec.streams import encode_z as encode_z
    from latent_store.codec.symbols import crc32c as crc32c
    from latent_store.codec.symbols import indexes_crc32c as indexes_crc32c
    from latent_store.codec.symbols import symbols_crc32c as symbols_crc32c
    from latent_store.codec.tables import EntropyTables as EntropyTables

_HOMES = {
    "checkpoints": ("codec_from_bytes", "codec_from_store", "load_codec"),
    "hyperprior": ("Codec", "Latents"),
    "ledger": ("channel_bits", "hyper_bits"),
    "packing": ("DecodedStream", "cut_stream", "pack_stream", "unpack_stream"),
    "pictures": ("image_to_tensor", "pad_image", "psnr", "read_image", "tensor_to_image"),
    "stream_file": ("StreamFile", "read_stream_file", "write_stream_file"),
    "streams": (
        "decode_scalable",
        "decode_y",
        "decode_z",
        "encode_scalable",
        "encode_y",
        "encode_z",
    ),
    "symbols": ("crc32c", "indexes_crc32c", "symbols_crc32c"),
    "tables": ("EntropyTables",),
}
_NAMES = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Imports a name's module when it is first asked for, so that one needs not load all."""
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    globals()[name] = value
    return value
