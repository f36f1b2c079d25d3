"""Processes that train one network together, as `torchrun` starts them: everything about groups.

    torchrun --standalone --nproc_per_node 4 --no-python train-from-store --store cv.zarr ...

Every rank holds the whole network and its own equal part of each batch. Sums of the loss are
divided by counts of the whole step, so the gradient is the SUM over ranks, which a hook takes where
DistributedDataParallel would take the mean. That wraps a task with its loss, not the network that
is compiled and saved; of accumulated batches the last one alone exchanges.

Numbers that the loop itself looks at (counts, "stop", "save") go over gloo between CPUs also where
gradients go over NCCL, so that no GPU is waited for, and a rank that died is noticed at once.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn

from latent_store.batches.sampling import Share, Value
from latent_store.codec.numerics import choose_device
from latent_store.errors import JobFailedError, LatentStoreError
from training.selection.cut_norm import CutBatchNorm2d
from training.trainer.checkpoints import state_on_cpu

# Validation is shared, so that no rank works alone for long: who is waited for longer hangs.
PATIENCE = timedelta(minutes=30)
# What a run starts with the first rank makes alone, on slow machines for long.
START_PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class Ranks(Share):
    """This process among those that train together. Every method that exchanges is called by all.

    Attributes:
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
        """Makes batch norms see the whole batch in training, unless `frozen`.

        Args:
            network: On `device`; they are replaced in place.
            device: Of this rank.

        Raises:
            LatentStoreError: If they cannot see the whole batch here.
        """
        if self.world == 1 or frozen:
            return
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

    def start_alike(self, network: nn.Module, give_weights: Callable[[], None]) -> None:
        """Gives the network of every rank the weights and statistics that the first one's gets.

        Args:
            network: In place.
            give_weights: Called on the first rank; others read nothing for it, and wait.
        """
        if self.world == 1:
            give_weights()
            return
        with self._lost():
            group: Any = distributed.new_group(backend="gloo", timeout=START_PATIENCE)
        if self.first:
            give_weights()
        given: list[Any] = [state_on_cpu(network) if self.first else None]
        with self._lost():
            distributed.broadcast_object_list(given, src=0, group=group)
            distributed.destroy_process_group(group)
        network.load_state_dict(given[0])

    def share_gradients(self, task: Any) -> Any:
        """Returns what is called in place of a task, a module: its backward sums gradients.

        All ranks start equal from now on: machines may differ in the last bit of an initial weight.
        """
        if self.world == 1:
            return task
        with self._lost():
            # Looking for unused parameters also keeps the order of sums, which resuming needs.
            shared = nn.parallel.DistributedDataParallel(
                task, broadcast_buffers=False, find_unused_parameters=True
            )
        shared.register_comm_hook(None, _sum_bucket)
        return shared

    def held(self, shared: Any, *, held: bool) -> Any:
        """Returns a context in which held gradients wait for others."""
        return shared.no_sync() if held and self.world > 1 else contextlib.nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Computes gradients; those of several ranks are exchanged meanwhile."""
        with self._lost() if self.world > 1 else contextlib.nullcontext():
            loss.backward()

    # -- exchanges --------------------------------------------------------------------------

    def sum_numbers(self, numbers: Mapping[str, int]) -> dict[str, int]:
        """Returns each number's sum over the ranks."""
        if self.world == 1:
            return dict(numbers)
        sums = torch.tensor(list(numbers.values()), dtype=torch.int64)
        with self._lost():
            distributed.all_reduce(sums)
        return dict(zip(numbers, sums.tolist(), strict=True))

    def sum_parts(self, parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns the sums of a loss's parts over the ranks, added as float32.

        Of "kept" [B] each rank has the numbers of its own images, and gets those of all.
        """
        if self.world == 1:
            return dict(parts)
        own = dict(parts)
        if "kept" in parts:
            own["kept"] = parts["kept"].new_zeros(self.world, len(parts["kept"]))
            own["kept"][self.rank] = parts["kept"]
        flat = torch.cat([part.flatten().float() for part in own.values()])
        with self._lost():
            distributed.all_reduce(flat)
        sums = flat.split([part.numel() for part in own.values()])
        return {
            name: total.view(-1 if name == "kept" else part.shape).to(part.dtype)
            for (name, part), total in zip(own.items(), sums, strict=True)
        }

    def gather(self, value: Value) -> list[Value]:
        """Returns every rank's value, by rank; plain types and CPU tensors."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        with self._lost():
            distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Returns when all ranks are here."""
        self.sum_numbers({"here": 1})

    @contextlib.contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise
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
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    return Ranks(distributed.get_rank(), distributed.get_world_size(), local_rank)


def _sum_bucket(
    _: None,
    bucket: distributed.GradBucket,  # type: ignore[name-defined]  # torch exports it silently
) -> torch.futures.Future[torch.Tensor]:
    work = distributed.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])
