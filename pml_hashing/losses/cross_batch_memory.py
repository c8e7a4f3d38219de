"""PML's CrossBatchMemory for the pair and triplet losses of this library."""

from typing import Any

import torch
from pytorch_metric_learning import losses
from torch import Tensor, nn

from pml_hashing._checks import check, check_codes, check_labels
from pml_hashing._compat import common_functions as c_f
from pml_hashing._compat import loss_and_miner_utils as lmu
from pml_hashing.codes import at_least_float32
from pml_hashing.losses._base import BaseHashingLoss
from pml_hashing.losses._discrete import DiscreteLoss
from pml_hashing.pairs import IndicesTuple, to_pairs


class CrossBatchMemory(losses.CrossBatchMemory):
    """PML's `CrossBatchMemory`, for losses of this library and for labels of both kinds.

    The batch is paired with the latest codes of earlier batches and with its own, no sample with
    itself: the loss is that of the batch and the codes seen, as `ref_emb`. Which losses it takes is
    in the [table](compatibility.md). The first batch decides whether labels are class ids or
    multi-hot rows. What is remembered is saved with the state of the module.

    Args:
        loss: A loss of pairs or triplets, of this library or one that PML's `CrossBatchMemory`
            takes.
        embedding_size: The code length.
        memory_size: Number of codes that are remembered.
        miner: Chooses the pairs or triplets of the batch and the memory. All pairs if `None`. The
            memory holds the batch too: a miner that takes the `k` nearest takes a sample itself as
            one of them, which is then left out.
        **kwargs: PML's other argument, `collect_stats`.

    Raises:
        ValueError: If the loss is of samples, not of pairs, or has discrete variables. When called,
            if labels are of another kind than those remembered, or there are more samples to
            remember than the memory holds.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import CrossBatchMemory, DPSHLoss
        >>> loss_func = CrossBatchMemory(DPSHLoss(), embedding_size=2, memory_size=4)
        >>> loss_func(torch.ones(1, 2), torch.tensor([0]))  # a binary code without a pair
        tensor(0.)
        >>> loss_func(torch.ones(1, 2), torch.tensor([0]))  # half of log(1 + e^-1)
        tensor(0.1566)

    References:
        Wang et al., [Cross-Batch Memory for Embedding
        Learning](https://arxiv.org/abs/1912.06798), CVPR 2020.
    """

    def __init__(
        self,
        loss: nn.Module,
        embedding_size: int,
        memory_size: int = 1024,
        miner: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        check_loss_of_pairs(loss, losses.CrossBatchMemory)
        super().__init__(loss, embedding_size, memory_size, miner, **kwargs)

    @classmethod
    def check_loss_support(cls, loss_name: str) -> None:
        """Pass: the loss itself was checked, which PML knows by its name alone."""

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: IndicesTuple | None = None,
        enqueue_mask: Tensor | None = None,
    ) -> Tensor:
        """Remember the batch, and return the loss of it and the memory.

        Args:
            embeddings: Codes of the batch, `(batch_size, embedding_size)`, at most `memory_size`.
            labels: Class ids or multi-hot rows.
            indices_tuple: More pairs or triplets, of the batch as anchors and, as in PML, of the
                memory as all else.
            enqueue_mask: Which samples are remembered, `(batch_size,)`, as in PML: all others are
                the batch. Where there are none the loss is 0.
        """
        check_codes(embeddings, "embeddings", self.embedding_size)
        check_labels(labels, embeddings, "labels")
        self._prepare_label_memory(labels)
        num_remembered = self._num_remembered(embeddings, enqueue_mask)
        if enqueue_mask is None or indices_tuple is not None:  # PML refuses both
            return super().forward(embeddings, labels, indices_tuple, enqueue_mask)
        if num_remembered == len(embeddings):
            return self._remember_all(embeddings, labels)
        if num_remembered == 0 and self._is_empty():
            none = torch.empty(0, dtype=torch.long, device=embeddings.device)
            return self.loss(embeddings, labels, (none, none, none, none))
        return super().forward(embeddings, labels, None, enqueue_mask)

    def _is_empty(self) -> bool:
        return not (self.has_been_filled or self.queue_idx > 0)

    def _remember_all(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Remember a batch of which no sample is left to be compared, and return a loss of 0."""
        self.reset_stats()
        self.embedding_memory = self.embedding_memory.to(embeddings)
        self.label_memory = self.label_memory.to(embeddings.device, labels.dtype)
        self.add_to_memory(embeddings, labels.to(embeddings.device), len(embeddings))
        return self.loss.reducer(self.loss.zero_losses(), at_least_float32(embeddings), labels)

    def _prepare_label_memory(self, labels: Tensor) -> None:
        """Make the memory one of labels of this kind, or raise if it holds those of another."""
        if labels.shape[1:] == self.label_memory.shape[1:]:
            return
        if not self._is_empty():
            raise ValueError(
                f"Expected `labels` of shape {('batch_size', *self.label_memory.shape[1:])}, "
                f"as those remembered are, got {tuple(labels.shape)}."
            )
        self.label_memory = labels.new_zeros(self.memory_size, *labels.shape[1:])

    def _num_remembered(self, embeddings: Tensor, enqueue_mask: Tensor | None) -> int:
        """Return how many samples are to be remembered, or raise if there is no place for them."""
        count, limit = len(embeddings), f"at most `memory_size`={self.memory_size}"
        if enqueue_mask is None:
            check(count <= self.memory_size, f"{limit} codes in `embeddings`", count)
            return count
        is_mask = enqueue_mask.dtype == torch.bool and enqueue_mask.shape == (count,)
        got = f"{enqueue_mask.dtype} of shape {tuple(enqueue_mask.shape)}"
        check(is_mask, f"a boolean `enqueue_mask` of shape ({count},)", got)
        chosen = int(enqueue_mask.sum())
        check(chosen <= self.memory_size, f"{limit} samples chosen by `enqueue_mask`", chosen)
        return chosen

    def add_to_memory(self, embeddings: Tensor, labels: Tensor, batch_size: int) -> None:
        """Remember a batch, unless it is empty: PML would take the memory for filled by it."""
        if batch_size > 0:
            super().add_to_memory(embeddings, labels, batch_size)

    def create_indices_tuple(
        self,
        embeddings: Tensor,
        labels: Tensor,
        E_mem: Tensor,  # noqa: N803 (PML's name)
        L_mem: Tensor,  # noqa: N803
        input_indices_tuple: IndicesTuple | None,
        do_remove_self_comparisons: bool,
    ) -> IndicesTuple:
        """Return the pairs or triplets of the batch and the memory: `forward` of PML calls this."""
        if self.miner is None:
            chosen = to_pairs(None, labels, L_mem)
        else:
            chosen = self.miner(embeddings, labels, E_mem, L_mem)
        if do_remove_self_comparisons:
            chosen = self._without_self(chosen)
        if input_indices_tuple is None:
            return chosen
        convert = lmu.convert_to_triplets if len(chosen) == 3 else lmu.convert_to_pairs
        return c_f.concatenate_indices_tuples(chosen, convert(input_indices_tuple, labels))

    def _without_self(self, chosen: IndicesTuple) -> IndicesTuple:
        """Leave out all that pairs a sample of the batch with its own place in the memory.

        PML's function for it keeps those of a batch of one, and of empty multi-hot rows.
        """
        own = self.curr_batch_idx
        if len(chosen) == 3:
            a, p, n = chosen
            kept = (own[a] != p) & (own[a] != n)
            return a[kept], p[kept], n[kept]
        a1, p, a2, n = chosen
        similar, dissimilar = own[a1] != p, own[a2] != n
        return a1[similar], p[similar], a2[dissimilar], n[dissimilar]

    def get_extra_state(self) -> dict[str, Any]:
        return {"queue_idx": self.queue_idx, "has_been_filled": self.has_been_filled}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.queue_idx, self.has_been_filled = state["queue_idx"], state["has_been_filled"]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        labels = state_dict.get(f"{prefix}label_memory")
        if isinstance(labels, Tensor):  # of the kind and dtype that were remembered
            self.label_memory = self.label_memory.new_zeros(labels.shape, dtype=labels.dtype)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def check_loss_of_pairs(loss: nn.Module, wrapper: Any) -> None:
    """Raise unless a wrapper of PML, which pairs samples with others, can take the loss.

    Raises:
        Exception: If PML's wrapper refuses a loss of PML.
        ValueError: If a loss of this library is of samples, or has discrete variables.
    """
    name, kind = wrapper.__name__, type(loss).__name__
    if not isinstance(loss, BaseHashingLoss):
        wrapper.check_loss_support(kind)
    elif isinstance(loss, DiscreteLoss):
        raise ValueError(
            f"Expected a loss of pairs or triplets in {name}, got {kind}, whose binary codes are "
            "those of the samples of a batch: give it a `code_bank`, which remembers the codes of "
            "all samples."
        )
    elif not loss.of_pairs:
        raise ValueError(
            f"Expected a loss of pairs or triplets in {name}, got {kind}, which holds each sample "
            "against its classes, not against others, and needs no memory: use it alone, or a "
            "loss with a `code_bank`."
        )
