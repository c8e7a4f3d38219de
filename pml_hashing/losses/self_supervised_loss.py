"""PML's SelfSupervisedLoss for the pair and triplet losses of this library."""

from pytorch_metric_learning import losses
from torch import nn

from pml_hashing.losses.cross_batch_memory import check_loss_of_pairs


class SelfSupervisedLoss(losses.SelfSupervisedLoss):
    """PML's `SelfSupervisedLoss`, for losses of this library: two views of a sample are similar.

    It is called with the codes of both views, `loss_func(embeddings, ref_emb)`, without labels.

    Args:
        loss: A loss of pairs or triplets, of this library or one that PML's `SelfSupervisedLoss`
            takes.
        symmetric: Pair all views with each other, not the first with the second alone.

    Raises:
        ValueError: If the loss is of samples, not of pairs, or has discrete variables.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import DPSHLoss, SelfSupervisedLoss
        >>> codes = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
        >>> SelfSupervisedLoss(DPSHLoss())(codes, codes)  # log(1 + e^-1)
        tensor(0.3133)
    """

    def __init__(self, loss: nn.Module, symmetric: bool = True) -> None:
        check_loss_of_pairs(loss, losses.SelfSupervisedLoss)
        super().__init__(loss, symmetric)

    @classmethod
    def check_loss_support(cls, loss_name: str) -> None:
        """Pass: the loss itself was checked, which PML knows by its name alone."""
