"""One picture from a camera to a prediction: what each side does, how long each stage takes.

    camera   picture ─ pad ─ g_a ─ h_a ─ h_s ─ gate (dynamic) ─ entropy coding ─► stream file
    server   stream file ─ entropy decoding (with h_s) ─ g_s (pixels) ─ network ─► prediction

The server has the stream file and the checkpoint, nothing else.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latent_store.codec import (
    Codec,
    StreamFile,
    codec_from_bytes,
    cut_stream,
    image_to_tensor,
    load_codec,
    pack_stream,
    pad_image,
    tensor_to_image,
    unpack_stream,
)
from latent_store.errors import CheckpointError, LatentStoreError, RankingError
from training.transmission.inference import ServerNetwork, require_stops


class Stopwatch:
    """Times consecutive stages; on a GPU each ends when its work has.

    Attributes:
        milliseconds: Of each stage, in order; a stage that occurs twice is summed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.milliseconds: dict[str, float] = {}
        self._start = self._now()

    def restart(self) -> None:
        """Begins a stage here: what came before is not counted."""
        self._start = self._now()

    def lap(self, stage: str) -> None:
        """Ends a stage here and begins the next one."""
        now = self._now()
        self.milliseconds[stage] = self.milliseconds.get(stage, 0) + 1000 * (now - self._start)
        self._start = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@dataclass(frozen=True, kw_only=True, eq=False)
class Transmission:
    """Camera and server of one checkpoint, with its codec.

    Attributes:
        network: Runs at the server; its gate, if it has one, at the camera.
        codec: On the network's device.
        keep: The number of channels that is to be sent or used; None for the network's.
    """

    network: ServerNetwork
    codec: Codec
    keep: int | None = None

    def send(self, image_HWC: np.ndarray, watch: Stopwatch) -> StreamFile:
        """Turns a picture, uint8 RGB of any size, into streams; see `Selection.sent` for which.

        The watch gets the stages "pad", "g_a", "h_a", "h_s", "gate" and "entropy coding".
        """
        watch.restart()
        x_BCHW = image_to_tensor(pad_image(image_HWC))
        watch.lap("pad")
        model = self.codec.model
        with (
            model.g_a.register_forward_hook(lambda *_: watch.lap("g_a")),
            model.h_a.register_forward_hook(lambda *_: watch.lap("h_a")),
        ):
            latents = self.codec.encode(x_BCHW)
        watch.lap("h_s")
        selection = self.network.config.channel_selection
        chosen = selection.sent(latents.y_hat_BCHW, self.keep, self.network.gate)
        watch.lap("gate")
        stream = pack_stream(
            self.codec,
            latents.symbols_BCHW[0].cpu().numpy(),
            latents.z_symbols_BNHW[0].cpu().numpy(),
            latents.indexes_BCHW[0].cpu().numpy(),
            size=(image_HWC.shape[0], image_HWC.shape[1]),
            **chosen,
        )
        if cuts := chosen.get("cuts"):
            stream = cut_stream(stream, cuts[-1])
        watch.lap("entropy coding")
        return stream

    def receive(self, stream: StreamFile, watch: Stopwatch) -> tuple[Any, np.ndarray]:
        """Turns a picture's streams into the task's prediction, at the server.

        The watch gets the stages "entropy decoding" and "network" (for pixels with g_s).

        Returns:
            The prediction at the picture's original size, and the decoded ŷ [M, h, w], with
            zeros where nothing was sent.

        Raises:
            IdentityError: The stream is another codec's.
            RankingError: It does not carry the channels that the network takes.
        """
        keep = self._require_channels(stream)
        watch.restart()
        decoded = unpack_stream(self.codec, stream, keep)
        y_hat_CHW = decoded.full()
        y_hat_KHW = decoded.y_hat_KHW if self.network.config.channels else y_hat_CHW
        watch.lap("entropy decoding")
        sizes = [(stream.height, stream.width)]
        (prediction,) = self.network.predict(y_hat_KHW[None], sizes, self.codec)
        watch.lap("network")
        return prediction, y_hat_CHW

    def until_confident(self, stream: StreamFile, confidence: float) -> StreamFile:
        """Returns the part of a stream that a server reads that stops when it is sure.

        It asks for the channels up to one cut after the other, as long as the network is less sure
        (see `Task.confidences`) of what it has; cuts are nested, so nothing comes twice.

        Raises:
            LatentStoreError: See `require_stops`.
        """
        require_stops(self.network.name, self.network.config)
        selection = self.network.config.channel_selection
        most, sizes = self._require_channels(stream), [(stream.height, stream.width)]
        for cut in (n for n in selection.accepts if n <= most and n in stream.cuts):
            y_hat_KHW = unpack_stream(self.codec, stream, cut).y_hat_KHW
            _, (sure,) = self.network.predict_surely(y_hat_KHW[None], sizes, self.codec)
            if sure >= confidence:
                return cut_stream(stream, cut)
        return cut_stream(stream, most)

    def _require_channels(self, stream: StreamFile) -> int:
        """Returns how many of a stream's channels the network takes."""
        self.codec.spec.require_digest(stream.codec_digest, "the stream file")
        keep = self.network.config.channel_selection.accepted(stream, self.keep)
        if keep is None:
            raise RankingError(
                f"{self.network.name} ({self.network.config}) cannot use this stream, "
                f"which carries {len(stream.channels)} channels by selection {stream.selection!r}; "
                "encode the picture with this checkpoint, or decode with the one that encoded it"
            )
        return keep

    def decoded_picture(self, y_hat_CHW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Returns the picture that received channels give, uint8 [H, W, 3] at original size."""
        x_hat_BCHW = self.codec.reconstruct(torch.from_numpy(y_hat_CHW)[None])
        return tensor_to_image(x_hat_BCHW)[0, : size[0], : size[1]]


def open_transmission(
    checkpoint: Path,
    device: str = "cpu",
    codec_checkpoint: Path | bytes | None = None,
    keep: int | None = None,
) -> Transmission:
    """Loads a checkpoint and the codec that it carries.

    Args:
        checkpoint: A file of train-from-store, or of train-teacher with `codec_checkpoint`.
        device: Where both run.
        codec_checkpoint: For a teacher, which was trained without a codec: its file, or the bytes.
        keep: One of the cuts of a network for any N; see `Transmission`.

    Raises:
        CheckpointError: A file is none of ours, or carries no codec and none is given.
        LatentStoreError: `keep` is no cut of the network.
        IdentityError: `codec_checkpoint` is not the codec that the network was trained on.
    """
    network = ServerNetwork(checkpoint, device)
    selection = network.config.channel_selection
    if keep is not None and keep not in (selection.cuts or ()):
        raise LatentStoreError(
            f"--keep {keep} goes with a network for any N that has this cut, and {checkpoint} is "
            f"one with {network.config}; leave --keep out, or give one of its cuts"
        )
    if isinstance(codec_checkpoint, Path):
        codec = load_codec(checkpoint=codec_checkpoint)
    elif (held := network.codec_bytes or codec_checkpoint) is not None:
        codec = codec_from_bytes(held)
    else:
        raise CheckpointError(
            f"{checkpoint} carries no codec (it is a {network.meta['kind']}): name one with "
            "--codec_checkpoint, or give a file of train-from-store"
        )
    if network.meta["codec_identity"] is not None:
        codec.spec.require_identity(network.meta["codec_identity"], str(checkpoint))
    return Transmission(network=network, codec=codec.to(device), keep=keep)
