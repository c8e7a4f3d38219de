"""Encoding: from images to packed codes, a batch at a time."""

from collections.abc import Iterable, Sized
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from pml_hashing._checks import check_at_least
from pml_hashing.codes import pack
from pml_hashing.models._eval_mode import eval_mode


def encode(
    model: nn.Module,
    inputs: Tensor | Dataset[Any] | Iterable[Any],
    *,
    batch_size: int,
    device: str | torch.device | None,
    amp: bool,
    progress: bool,
) -> Tensor:
    """Return the packed codes of `inputs`. `HashingModel.encode` documents the arguments."""
    batches = _to_batches(inputs, batch_size)
    home = next(model.parameters()).device
    target = home if device is None else torch.device(device)
    packed: list[Tensor] = []
    num_samples = 0
    try:
        model.to(target)
        with (
            eval_mode(model),
            torch.inference_mode(),
            torch.autocast(target.type, torch.bfloat16, enabled=amp),
        ):
            for batch in tqdm(batches, desc="encode", unit="batch", disable=not progress):
                samples = _samples_of(batch)
                codes = model(samples.to(target, non_blocking=True))
                packed.append(_pack(codes, num_samples))
                num_samples += len(samples)
    finally:
        model.to(home)
    if not packed:
        raise ValueError("Expected `inputs` with at least one sample, got none.")
    return torch.cat(packed)


def _to_batches(inputs: Tensor | Dataset[Any] | Iterable[Any], batch_size: int) -> Iterable[Any]:
    check_at_least(batch_size, 1, "batch_size")
    if isinstance(inputs, Tensor):
        if inputs.ndim < 2 or len(inputs) == 0:
            raise ValueError(
                "Expected `inputs` of shape (n, ...) with at least one sample, "
                f"got {tuple(inputs.shape)}."
            )
        return inputs.split(batch_size)
    if isinstance(inputs, Dataset):
        if isinstance(inputs, Sized) and len(inputs) == 0:
            raise ValueError("Expected `inputs` with at least one sample, got an empty data set.")
        return DataLoader(inputs, batch_size)
    if isinstance(inputs, Iterable):
        return inputs
    raise TypeError(
        "Expected `inputs` to be a tensor, a data set or an iterable of batches, "
        f"got {type(inputs).__name__}."
    )


def _samples_of(batch: Any) -> Tensor:
    samples = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(samples, Tensor):
        raise TypeError(
            "Expected batches of `inputs` to be tensors or tuples that start with one, "
            f"got {type(batch).__name__}."
        )
    if samples.ndim < 2 or len(samples) == 0:
        raise ValueError(
            "Expected batches of `inputs` of shape (n, ...) with at least one sample, "
            f"got {tuple(samples.shape)}."
        )
    return samples


def _pack(codes: Tensor, first_sample: int) -> Tensor:
    try:
        return pack(codes).cpu()
    except ValueError as error:
        rows = (~codes.isfinite()).any(dim=1).nonzero().flatten()
        raise ValueError(
            f"Expected finite codes in `encode`, got NaN or infinity for {len(rows)} samples of a "
            f"batch, the first of them sample {first_sample + int(rows[0])} of `inputs`."
        ) from error
