"""One of two processes that share a batch: runs every case of a file through PML's wrapper."""

import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from pytorch_metric_learning.utils.distributed import (
    DistributedLossWrapper,
    DistributedMinerWrapper,
)
from torch import distributed
from torch.nn.parallel import DistributedDataParallel


def run(
    loss_func: torch.nn.Module, batch: dict[str, torch.Tensor], efficient: bool
) -> dict[str, Any]:
    """Return the loss of this process's half of a batch, and the gradients, or the error."""
    half = {name: value.chunk(2)[distributed.get_rank()] for name, value in batch.items()}
    codes = {
        name: half[name].requires_grad_() for name in ("embeddings", "ref_emb") if name in half
    }
    wrapper: torch.nn.Module = DistributedLossWrapper(loss_func, efficient=efficient)
    if list(loss_func.parameters()):
        wrapper = DistributedDataParallel(wrapper)
    try:
        loss = wrapper(**half)
        loss.backward()
    except (TypeError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {
        "loss": loss.item(),
        "codes": {name: value.grad for name, value in codes.items()},
        "parameters": {name: value.grad for name, value in loss_func.named_parameters()},
    }


def run_steps(case: dict[str, Any]) -> list[dict[str, Any]]:
    """Return loss and gradient of this process's half of each batch of a case."""
    rank, efficient = distributed.get_rank(), case["efficient"]
    loss_func: torch.nn.Module = DistributedLossWrapper(case["loss"], efficient)
    miner = case["miner"] and DistributedMinerWrapper(case["miner"], efficient)
    found = []
    for batch in case["batches"]:
        half = {name: value.chunk(2)[rank] for name, value in batch.items()}
        codes = half.pop("embeddings").clone().requires_grad_()
        if miner is not None:
            half["indices_tuple"] = miner(codes, half["labels"])
        loss = loss_func(codes, **half)
        loss.backward()
        found.append({"loss": loss.item(), "gradient": codes.grad})
    return found


def main() -> None:
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=(folder / "store").as_uri(),
        rank=rank,
        world_size=2,
        timeout=timedelta(minutes=2),
    )
    cases = torch.load(folder / "cases.pt", weights_only=False)
    found = {
        key: run_steps(case) if isinstance(case, dict) else run(*case)
        for key, case in cases.items()
    }
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
