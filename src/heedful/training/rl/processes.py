"""Several processes as one: each rolls out and trains on its share, and all take the same step.

Losses are divided by counts of the whole mini-batch, so gradients only have to be added up: two processes do what one
does (`tests/unit/test_rl_processes.py`). Sharded models (FSDP, DeepSpeed) are another matter, see docs/rl.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import torch

from heedful.errors import ConfigError

T = TypeVar("T")


class Processes:
    """This process among those that `torchrun` or `accelerate launch` started; alone where none did.

    Raises:
        ConfigError: the launcher asks for a sharded model.
    """

    def __init__(self) -> None:
        self.rank, self.count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        for variable in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
            if os.environ.get(variable, "").lower() == "true":
                raise ConfigError(
                    "Reinforcement learning runs data-parallel: every process holds the whole model. Launch it with "
                    "recipes/accelerate/data-parallel.yaml; FSDP and DeepSpeed serve method: sft."
                )
        if self.count > 1 and torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        if self.count > 1 and not torch.distributed.is_initialized():
            # Records travel as objects over gloo, gradients as tensors over whatever the devices have.
            torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")

    @cached_property
    def _records(self) -> Any:
        return torch.distributed.new_group(backend="gloo")

    @property
    def first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def slice(self, count: int) -> range:
        """This process's places among `count`, side by side."""
        return range(self.rank * count // self.count, (self.rank + 1) * count // self.count)

    def share(self, part: Sequence[T], *, size: int) -> Iterator[Sequence[T]]:
        """This process's part of a mini-batch, `size` at a time."""
        mine = self.slice(len(part))
        for begin in range(mine.start, mine.stop, size):
            yield part[begin : min(begin + size, mine.stop)]

    def gather(self, thing: T) -> list[T]:
        """`thing` of every process, in their order."""
        if self.count == 1:
            return [thing]
        found: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(found, thing, group=self._records)
        return found

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, in all of them."""
        if self.count == 1:
            return make()
        box: list[Any] = [make() if self.first else None]
        torch.distributed.broadcast_object_list(box, src=0, group=self._records)
        found: T = box[0]
        return found

    def sum(self, values: Mapping[str, float], *, but: Iterable[str] = ()) -> dict[str, float]:
        """Sums over processes; names in `but` are equal everywhere and stay."""
        if self.count == 1:
            return dict(values)
        out: dict[str, float] = {}
        for part in self.gather(dict(values)):
            for name, value in part.items():
                out[name] = value if name in but else out.get(name, 0.0) + value
        return out

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Add up the gradients of all processes, in place."""
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:  # no pass of this process touched it
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad, op=torch.distributed.ReduceOp.SUM)

    def agree(self, flag: bool) -> bool:
        """True where any process says so: clocks differ, and who stops alone leaves the others waiting."""
        return any(self.gather(flag))

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            torch.distributed.barrier()
