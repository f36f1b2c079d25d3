"""Processes that train one network together, as `torchrun` starts them: everything about groups.

    torchrun --standalone --nproc_per_node 4 -m training.train --store cv.zarr --output runs/one ...

Every rank holds the whole network and its own equal part of each batch. Sums of the loss are
divided by counts of the whole step, so the gradient is the SUM over ranks: it is added up in one
piece between backward and the optimiser's step. DistributedDataParallel would overlap the exchange
with backward, but it divides by the number of ranks, exchanges at every backward, where accumulated
batches need it once a step, and puts a wrapper around the network that is compiled and saved.

Numbers that the loop itself looks at (counts, "stop", "save") go over gloo between CPUs also where
gradients go over NCCL, so that no GPU is waited for, and a rank that died is noticed at once.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn

from latent_store.codec.numerics import choose_device
from latent_store.errors import JobFailedError, LatentStoreError
from training.data.shares import Share, Value
from training.selection.cut_norm import CutBatchNorm2d

# Validation is shared, so that no rank works alone for long: who is waited for longer hangs.
PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class Ranks(Share):
    """This process among those that train together. Every method that exchanges is called by all.

    Attributes:
        rank: Its number, from 0.
        world: How many there are.
        local_rank: Its number on its machine, which is its GPU's.
    """

    local_rank: int = 0

    @property
    def first(self) -> bool:
        """True for the rank that writes files and talks."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """Returns the device called `name`, see `choose_device`; each rank its own GPU.

        Raises:
            LatentStoreError: If there is no such device, or not one for each rank.
        """
        device = choose_device(name)
        if self.world == 1 or device.type != "cuda":
            return device
        if device.index is not None or self.local_rank >= torch.cuda.device_count():
            raise LatentStoreError(
                f"every rank needs a GPU of its own: got --device {name} and local rank "
                f"{self.local_rank} of {torch.cuda.device_count()} GPUs; give --device cuda and "
                "torchrun --nproc_per_node as many as there are GPUs"
            )
        device = torch.device("cuda", self.local_rank)
        torch.cuda.set_device(device)
        return device

    def prepare(self, network: nn.Module, device: torch.device, *, frozen: bool) -> None:
        """Makes batch norms in training see the whole batch, and all ranks start equal.

        Args:
            network: On `device`; its batch norms are replaced in place.
            device: Of this rank.
            frozen: Whether batch norm keeps its statistics.

        Raises:
            LatentStoreError: If batch norm cannot see the whole batch here.
        """
        if self.world == 1:
            return
        if not frozen:
            self._synchronise_batch_norm(network, device)
        # Machines may differ in the last bit of an initial weight, and it would never go away.
        for tensor in network.state_dict().values():
            same = tensor.contiguous()
            self._exchange(distributed.broadcast, same, 0)
            tensor.copy_(same)

    def _synchronise_batch_norm(self, network: nn.Module, device: torch.device) -> None:
        remedy = "train with --freeze_batch_norm, or in one process without torchrun"
        if device.type != "cuda":
            raise LatentStoreError(
                f"batch norm learns its statistics from the whole batch, which {self.world} ranks "
                f"can share on GPUs only, and --device is {device.type}: {remedy}"
            )
        if any(isinstance(module, CutBatchNorm2d) for module in network.modules()):
            raise LatentStoreError(
                "batch norm of --selection any has statistics for every N, which "
                f"{self.world} ranks cannot learn together: {remedy}"
            )
        nn.SyncBatchNorm.convert_sync_batchnorm(network)

    # -- exchanges --------------------------------------------------------------------------

    def sum_numbers(self, numbers: Mapping[str, int]) -> dict[str, int]:
        """Returns each number's sum over the ranks."""
        if self.world == 1:
            return dict(numbers)
        sums = torch.tensor(list(numbers.values()), dtype=torch.int64)
        self._exchange(distributed.all_reduce, sums)
        return dict(zip(numbers, sums.tolist(), strict=True))

    def sum_step(
        self, network: nn.Module, parts: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Adds up the gradients of a step in place, and returns the sums of the loss's parts.

        Args:
            network: After backward.
            parts: Numbers and vectors whose sum is the step's; of "kept" [B] each rank has the
                numbers of its own images, and gets those of all.
        """
        if self.world == 1:
            return dict(parts)
        sums = {name: part.clone() for name, part in parts.items()}
        if "kept" in parts:
            own_B = parts["kept"]
            sums["kept"] = own_B.new_zeros(self.world, len(own_B))
            sums["kept"][self.rank] = own_B
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        with torch.no_grad():
            self._sum_tensors([*gradients, *sums.values()])
        return {name: part.flatten() if name == "kept" else part for name, part in sums.items()}

    def gather(self, value: Value) -> list[Value]:
        """Returns every rank's value, by rank; plain types and CPU tensors."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        self._exchange(distributed.all_gather_object, values, value)
        return values

    def wait(self) -> None:
        """Returns when all ranks are here."""
        self.sum_numbers({"here": 1})

    def _sum_tensors(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replaces tensors on the device by their sums over the ranks, in one exchange.

        All are added as float32: integers are exact up to 2^24.
        """
        flat = torch.cat([tensor.flatten().float() for tensor in tensors])
        self._exchange(distributed.all_reduce, flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def _exchange(self, call: Any, *values: Any) -> None:
        try:
            call(*values)
        except RuntimeError as error:
            cause = str(error).split(". ")[0]
            raise JobFailedError(
                f"rank {self.rank} of {self.world} lost the others ({cause}): one of them "
                "stopped, and its own error says why; go on from the last checkpoint with --resume"
            ) from error


ALONE = Ranks()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Joins the processes that `torchrun` started with this one, and leaves them at the end.

    Without `torchrun`, or with one process, there is no group and nothing to exchange. A script
    that joined before, to train several networks one after another, stays in its group.

    Raises:
        LatentStoreError: If the others cannot be found.
    """
    # torchrun's contract: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if distributed.is_initialized():
        yield _here()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        distributed.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise LatentStoreError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but the other ranks are not to be found "
            f"({str(error).splitlines()[0]}): start all of them with torchrun, or unset WORLD_SIZE"
        ) from error
    try:
        yield _here()
    finally:
        distributed.destroy_process_group()


def _here() -> Ranks:
    return Ranks(
        rank=distributed.get_rank(),
        world=distributed.get_world_size(),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
    )
