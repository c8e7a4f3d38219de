"""What losses over the pairs and triplets of a batch share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pml_hashing._compat import loss_and_miner_utils as lmu
from pml_hashing.codes import binarize_unchecked
from pml_hashing.losses._base import BaseHashingLoss, LossDict
from pml_hashing.pairs import IndicesTuple, to_pairs


def likelihood_losses(loss_func: BaseHashingLoss, logits: Tensor, pairs: IndicesTuple) -> LossDict:
    r"""Return $\log(1 + e^{\theta_{ij}}) - s_{ij} \theta_{ij}$ of similar and of dissimilar pairs.

    Each is scaled by the share of its kind, so that the two means add up to one over all pairs.

    Args:
        loss_func: The loss whose terms these are.
        logits: The logits $\theta$ of all pairs of the batch and the reference set.
        pairs: Similar and dissimilar pairs, as indices into `logits`.
    """
    a1, p, a2, n = pairs
    num_pairs = max(1, len(a1) + len(a2))
    # softplus(x) = log(1 + e^x), without overflow; softplus(x) - x = softplus(-x).
    similar = F.softplus(-logits[a1, p]) * (len(a1) / num_pairs)
    dissimilar = F.softplus(logits[a2, n]) * (len(a2) / num_pairs)
    return {
        "pos_loss": loss_func.pair_loss(similar, (a1, p), "pos"),
        "neg_loss": loss_func.pair_loss(dissimilar, (a2, n), "neg"),
    }


def quantization_losses(codes: Tensor) -> Tensor:
    """Return the mean squared distance of every code to its bits, over the bits."""
    return (codes - binarize_unchecked(codes)).square().mean(dim=1)


def triplet_loss(
    loss_func: BaseHashingLoss,
    scores: Tensor,
    indices_tuple: IndicesTuple | None,
    labels: Tensor | None,
    ref_labels: Tensor | None,
    function: Callable[[Tensor], Tensor],
) -> dict[str, Any]:
    r"""Return one entry of the loss dict: a function of $s_{ap} - s_{an}$ for every triplet.

    Without triplets of a miner, all dissimilar samples of every similar pair are taken at once, and
    the entry holds one loss a similar pair, scaled so that their mean is that over all triplets:
    six times faster than to list the triplets.

    Args:
        loss_func: The loss whose term this is.
        scores: A number $s$ for every pair of the batch and the reference set, the larger the more
            similar.
        indices_tuple: Triplets, or pairs, of a miner. All triplets if `None`.
        labels: Labels of the batch.
        ref_labels: Labels of the reference set.
        function: Of the differences, elementwise: 0 for an infinite one.
    """
    if indices_tuple is not None and len(indices_tuple) == 3:
        a, p, n = lmu.convert_to_triplets(indices_tuple, labels, ref_labels)
        losses = function(scores[a, p] - scores[a, n])
        if len(losses) == 0:
            return loss_func.zero_loss()
        return {"losses": losses, "indices": (a, p, n), "reduction_type": "triplet"}
    a1, p, a2, n = to_pairs(indices_tuple, labels, ref_labels)
    dissimilar = torch.zeros_like(scores, dtype=torch.bool)
    dissimilar[a2, n] = True
    num_triplets = dissimilar.sum(dim=1)[a1]
    a1, p = a1[num_triplets > 0], p[num_triplets > 0]
    # Infinitely far samples have no loss and no gradient.
    farther = scores.masked_fill(~dissimilar, -torch.inf)
    losses = function(scores[a1, p, None] - farther[a1]).sum(dim=1)
    return loss_func.pair_loss(losses * (len(a1) / num_triplets.sum()), (a1, p), "pos")
