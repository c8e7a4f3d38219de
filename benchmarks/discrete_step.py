"""Time the discrete step in several processes: whole in each, or sharded by rows and gathered.

    torchrun --nproc-per-node 2 benchmarks/discrete_step.py [SAMPLES [BITS [CLASSES]]]

Seconds are those of the slowest process, the least of three runs: CPU time, including sending and
receiving, where each process has one thread; wall time where each has a GPU.
"""

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from unittest import mock

import torch
from torch import distributed

from pml_hashing import CodeBank, DSAHLoss
from pml_hashing.distributed import gather_rows, of_all_ranks, parts, rank, world_size
from pml_hashing.losses import ADSHLoss
from pml_hashing.trainers._processes import share_state


def make_bank(samples: int, bits: int, classes: int, device: str) -> CodeBank:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (samples,), generator=generator)
    bank = CodeBank(labels, bits, num_classes=classes)
    bank.query_codes.copy_(torch.randn(samples, bits, generator=generator).tanh())
    return bank.to(device)


class Sharded:
    """A loss that improves the codes of this process's rows, then gathers all codes."""

    def improve_codes(self, bank: CodeBank, progress: bool = False) -> None:
        mine = parts(len(bank))[rank()]

        def row_blocks(progress: bool = False) -> Iterator[slice]:
            for start in range(mine.start, mine.stop, 65536):
                yield slice(start, min(start + 65536, mine.stop))

        with mock.patch.object(bank, "row_blocks", row_blocks):
            super().improve_codes(bank)  # type: ignore[misc]
        sizes = [part.stop - part.start for part in parts(len(bank))]
        bank.binary_codes.copy_(gather_rows(bank.binary_codes[mine], sizes))


class ShardedDSAHLoss(Sharded, DSAHLoss):
    """DSAH whose step is sharded."""


class ShardedADSHLoss(Sharded, ADSHLoss):
    """ADSH whose step is sharded."""


def seconds(function: Callable[[], object]) -> float:
    on_gpu, least = torch.cuda.is_available(), float("inf")
    clock = time.perf_counter if on_gpu else time.process_time
    for _ in range(3):
        distributed.barrier()
        start = clock()
        function()
        if on_gpu:
            torch.cuda.synchronize()
        least = min(least, max(of_all_ranks(clock() - start)))
    return least


def main(samples: int = 100_000, bits: int = 64, classes: int = 100) -> None:
    distributed.init_process_group()
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    say = print if rank() == 0 else str
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU ({platform.machine()})"
    arguments = " ".join(map(str, (samples, bits, classes)))
    say(
        f"command: torchrun --nproc-per-node {world_size()} benchmarks/discrete_step.py {arguments}"
    )
    say(f"device: {name}; torch {torch.__version__}, Python {platform.python_version()}\n")
    say("loss          whole  sharded  broadcast  same codes")
    for loss_types in ((DSAHLoss, ShardedDSAHLoss), (ADSHLoss, ShardedADSHLoss)):
        times, codes = [], []
        for loss_type in loss_types:
            bank = make_bank(samples, bits, classes, device)
            loss_func = loss_type(classes, bits, code_bank=bank).to(device)
            loss_func.update_codes()
            codes.append(bank.binary_codes.clone())
            times.append(seconds(loss_func.update_codes))
        times.append(seconds(partial(share_state, [bank])))
        cells = "".join(f"{t:7.2f} s" for t in times)
        say(f"{loss_types[0].__name__:10}{cells}    {'yes' if torch.equal(*codes) else 'no'}")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
