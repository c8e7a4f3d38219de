"""What losses over the pairs and triplets of a batch share."""

from typing import Any

import torch
from torch import Tensor

from pml_hashing._compat import loss_and_miner_utils as lmu
from pml_hashing.codes import binarize_unchecked
from pml_hashing.losses._base import BaseHashingLoss, LossDict
from pml_hashing.losses._pair_blocks import Labels, losses_of_pairs, pair_sums
from pml_hashing.losses._similar_weight import SimilarWeight, kind_weights
from pml_hashing.losses._triplet_blocks import Penalty, pair_penalties, triplet_sums
from pml_hashing.pairs import IndicesTuple, to_pairs


def likelihood_losses(
    loss_func: BaseHashingLoss,
    codes: Tensor,
    ref_codes: Tensor,
    indices_tuple: IndicesTuple | None,
    labels: Tensor | None,
    ref_labels: Tensor | None,
    similar_weight: SimilarWeight,
) -> LossDict:
    r"""Return $w_{ij} (\log(1 + e^{\theta_{ij}}) - s_{ij} \theta_{ij})$ of both kinds of pair.

    Each is scaled by the share of its kind, so that the two means add up to one over all pairs.

    Args:
        loss_func: The loss whose terms these are.
        codes: Codes of the batch, scaled such that the logit $\theta_{ij}$ is the inner product.
        ref_codes: Codes of the reference set.
        indices_tuple: Pairs of a miner. All pairs if `None`.
        labels: Labels of the batch.
        ref_labels: Labels of the reference set.
        similar_weight: How $w_{ij}$ weighs similar pairs: see `kind_weights`.
    """
    if indices_tuple is None and loss_func.takes_means("pos_loss", "neg_loss"):
        sums = pair_sums(codes, ref_codes, Labels.of(labels, ref_labels))
        counts = sums.num_similar.sum(), sums.num_dissimilar.sum()
        # Their mean over the samples is that over all pairs.
        scale = len(codes) / (counts[0] + counts[1]).clamp(min=1)
        weights = kind_weights(similar_weight, *counts)
        return {
            "pos_loss": loss_func.element_loss(sums.similar * (weights[0] * scale)),
            "neg_loss": loss_func.element_loss(sums.dissimilar * (weights[1] * scale)),
        }
    a1, p, a2, n = pairs = to_pairs(indices_tuple, labels, ref_labels)
    similar, dissimilar = losses_of_pairs(codes @ ref_codes.T, pairs)
    weights = kind_weights(similar_weight, *(codes.new_tensor(len(a)) for a in (a1, a2)))
    num_pairs = max(1, len(a1) + len(a2))
    similar = similar * (weights[0] * len(a1) / num_pairs)
    dissimilar = dissimilar * (weights[1] * len(a2) / num_pairs)
    return {
        "pos_loss": loss_func.pair_loss(similar, (a1, p), "pos"),
        "neg_loss": loss_func.pair_loss(dissimilar, (a2, n), "neg"),
    }


def quantization_losses(codes: Tensor) -> Tensor:
    """Return the mean squared distance of every code to its bits, over the bits."""
    return (codes - binarize_unchecked(codes)).square().mean(dim=1)


def triplet_loss(
    loss_func: BaseHashingLoss,
    codes: Tensor,
    ref_codes: Tensor,
    indices_tuple: IndicesTuple | None,
    labels: Tensor | None,
    ref_labels: Tensor | None,
    penalty: Penalty,
) -> dict[str, Any]:
    r"""Return one entry of the loss dict: the penalty of every triplet.

    Without triplets of a miner, all dissimilar samples of every similar pair are taken, and the
    entry holds one loss a sample, or one a similar pair where the reducer or a miner asks for
    pairs, scaled so that their mean is that over all triplets.

    Args:
        loss_func: The loss whose term this is.
        codes: Codes of the batch, such that $s$ is the inner product: the larger, the more similar.
        ref_codes: Codes of the reference set.
        indices_tuple: Triplets, or pairs, of a miner. All triplets if `None`.
        labels: Labels of the batch.
        ref_labels: Labels of the reference set.
        penalty: The penalty.
    """
    if indices_tuple is None and loss_func.takes_means("triplet_loss"):
        sums = triplet_sums(codes, ref_codes, Labels.of(labels, ref_labels), penalty)
        scale = len(codes) / sums.counts.sum().clamp(min=1)
        return loss_func.element_loss(sums.losses * scale)
    scores = codes @ ref_codes.T
    if indices_tuple is not None and len(indices_tuple) == 3:
        a, p, n = lmu.convert_to_triplets(indices_tuple, labels, ref_labels)
        losses = penalty.value(penalty.margin - scores[a, p] + scores[a, n])
        if len(losses) == 0:
            return loss_func.zero_loss()
        return {"losses": losses, "indices": (a, p, n), "reduction_type": "triplet"}
    a1, p, a2, n = to_pairs(indices_tuple, labels, ref_labels)
    dissimilar = torch.zeros_like(scores, dtype=torch.bool)
    dissimilar[a2, n] = True
    num_triplets = dissimilar.sum(dim=1)[a1]
    a1, p = a1[num_triplets > 0], p[num_triplets > 0]
    # Infinitely far samples have no loss and no gradient.
    farther = (scores + penalty.margin).masked_fill(~dissimilar, -torch.inf)
    losses = pair_penalties(scores[a1, p], farther, a1, penalty)
    return loss_func.pair_loss(losses * (len(a1) / num_triplets.sum()), (a1, p), "pos")
