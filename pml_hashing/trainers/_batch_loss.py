"""From the data of a batch to its loss: by one network or two, in one process or several."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pml_hashing.codes import at_least_float32
from pml_hashing.trainers._parts import Parts
from pml_hashing.trainers._precision import Precision
from pml_hashing.trainers._processes import (
    Codes,
    ParallelNetworks,
    gather_batch,
    shared_random_numbers,
)


class Batch(NamedTuple):
    """This process's part of a batch, and the places of all its samples in the data set."""

    data: Any
    labels: Tensor
    sample_indices: Tensor


class BatchLoss:
    """The loss of a batch, of the whole of it in every process.

    Args:
        parts: Networks, loss and miner.
        compute_codes: Calls the networks, from data on the device to codes.
        precision: Of the networks. The loss is computed in float32 at least.
        dtype: Which data are converted to. As they are if `None`.
    """

    def __init__(
        self,
        parts: Parts,
        compute_codes: Callable[[Any], Codes],
        precision: Precision,
        dtype: torch.dtype | None,
    ) -> None:
        self.parts, self.precision, self.dtype = parts, precision, dtype
        self._compute_codes = compute_codes
        self._parallel: ParallelNetworks | None = None

    @contextmanager
    def averaged_gradients(self) -> Iterator[None]:
        """Average the gradients over all processes within this context."""
        self._parallel = ParallelNetworks(self.parts.networks, self._codes_of)
        try:
            yield
        finally:  # what holds a process group must not outlive it
            self._parallel = None

    def averaging(self, enabled: bool) -> AbstractContextManager[None]:
        """Return the context of a forward and backward pass: see `ParallelNetworks.averaging`."""
        return nullcontext() if self._parallel is None else self._parallel.averaging(enabled)

    def __call__(self, batch: Batch, seed: int) -> Tensor:
        """Return the loss of a batch.

        Args:
            batch: The batch.
            seed: Of the random numbers of loss and miner in several processes.
        """
        compute = self._codes_of if self._parallel is None else self._parallel
        codes, second = compute(batch.data)
        labels = batch.labels.to(self.precision.device, non_blocking=True)
        codes, labels, second = gather_batch(codes, labels, second, len(batch.sample_indices))
        # Views, since PML takes the same object on both sides for a batch paired with itself.
        sides: dict[str, Any] = (
            {} if second is None else {"ref_emb": second, "ref_labels": labels.view_as(labels)}
        )
        with shared_random_numbers(seed, codes.device):
            if (miner := self.parts.mining_funcs.get("tuple_miner")) is not None:
                sides["indices_tuple"] = miner(codes, labels, **sides)
            if self.parts.code_bank is not None:
                sides["sample_indices"] = batch.sample_indices.to(codes.device, non_blocking=True)
            return self.parts.loss_funcs["metric_loss"](codes, labels, **sides)

    def _codes_of(self, data: Any) -> Codes:
        data = self.precision.to_device(data, self.dtype)
        with self.precision.autocast():
            codes, second = self._compute_codes(data)
        return at_least_float32(codes), None if second is None else at_least_float32(second)
