"""DSAHA (ICANN 2019): one network and codes of the database, in the space of coded labels."""

from typing import Any, cast

from torch.nn.functional import binary_cross_entropy_with_logits

from pml_hashing._checks import check_weights
from pml_hashing.code_bank import CodeBank
from pml_hashing.losses._classes import check_sizes
from pml_hashing.losses._discrete import DiscreteLoss
from pml_hashing.losses._similar_weight import SimilarWeight
from pml_hashing.losses.terms import (
    InnerProduct,
    LabelAgreement,
    LabelCodes,
    LabelDistance,
    LabelGuidance,
    LabelNetwork,
    Quantization,
)


class DSAHALoss(DiscreteLoss):
    r"""The terms of ADSH, with the network's codes led by codes of an auto-encoder of labels.

    Reconstructed: the poster and the abstract name an auto-encoder of labels, a network of images,
    constraints between them, and codes of the database that are learned directly; all formulas and
    weights are ours, after ADSH and DSEH. The paper was not available to us.

    $$
    \begin{aligned}
    J = {} & \frac{1}{n^2 K^2} \sum_{i, j} \left[ \left( u_i^\top v_j - K S_{ij} \right)^2
            + \alpha\, \ell_{ij}(u_i, h_j) \right] \\
        & + \frac{1}{n K^2} \sum_i \left( \gamma \lVert v_i - u_i \rVert^2
            + \beta \lVert u_i - h_i \rVert^2 + \mu \lVert v_i - h_i \rVert^2 \right) \\
        & + \frac{1}{n^2} \sum_{i, j} \ell_{ij}(h_i, h_j)
            + \frac{0.01}{n K} \sum_{i, k} \bigl\lvert \lvert h_{ik} \rvert - 1 \bigr\rvert
            - \frac{1}{n C} \sum_{i, c} \left( y_{ic} \log \hat y_{ic}
                + (1 - y_{ic}) \log(1 - \hat y_{ic}) \right)
    \end{aligned}
    $$

    with $\ell_{ij}(x, z) = w_{ij} [\log(1 + e^{x^\top z / 2}) - s_{ij}\, x^\top z / 2]$, weights
    $w_{ij}$ of the pairs, ours, that have a mean of 1 (`similar_weight`), and
    $v_i \in \{-1, 1\}^K$, where $u_i = \tanh f(x_i)$ is the network's code of sample $i$, $v_i$ its
    learned code (`binary_codes` of the code bank), $h_i = g(y_i)$ the code of its label $y_i$ by
    the encoder, $\hat y_i = \sigma(W^\top h_i + c)$ what the decoder reads back, $s_{ij}$ is 1 for
    similar samples and else 0, and $S_{ij}$ is 1 for similar samples and else $-r$, $r$ the number
    of similar pairs over that of dissimilar pairs.

    The auto-encoder is `label_network`, a module of the loss. Its parameters are variables of $J$,
    for an optimizer of the loss (`metric_loss_optimizer` in PML's trainers); the gradient of
    $\alpha$, $\beta$ and $\mu$ reaches them too. Its first fit needs no optimizer: it is to labels
    alone, by the last line of $J$, and the learned codes start from the signs of $h$. Without an
    optimizer it stays so; then set `loss_func.label_network.requires_grad_(False)`, which saves
    time.

    *Mini-batch mode*: the samples are those of the batch, and $V$ is solved for in every call. The
    auto-encoder is fitted to single classes when the loss is made. *Data-set mode*: they are those
    of a `CodeBank`, to whose labels it is fitted in the first call, and whose codes `update_codes`
    improves by coordinate descent. Sums over $h_j$ are over distinct labels, each weighted by how
    many samples have it; or over the labels of the batch, where these are fewer. Inner products are
    summed as in ADSH, at a cost that does not depend on $n$. The objective that `update_codes`
    returns is that of the terms in which $V$ stands. Queries are encoded by the network, the
    database is $V$.

    Sub-losses: `inner_product_loss`, `quantization_loss`, `guidance_loss` (that of $\alpha$),
    `distance_loss` (that of $\beta$), `agreement_loss` (that of $\mu$), `label_loss` (the last
    line). The latter two are constant in the codes of the batch.

    Args:
        num_classes: Number of classes $C$.
        code_length: Number of bits $K$.
        quantization_weight: Weight $\gamma$ of the quantization: as in ADSH.
        guidance_weight: Weight $\alpha$ of the likelihood with codes of labels.
        distance_weight: Weight $\beta$ of the distance from the code of the label.
        agreement_weight: Weight $\mu$ of the pull of codes of labels on the learned codes. Samples
            of equal labels are pulled to one code.
        soft_similarity: Dissimilar pairs have $S_{ij} = -r$. If `False`, -1, with which bits become
            constant unless $\gamma$ is near $K$.
        similar_weight: Weight of a similar pair over that of a dissimilar one in each likelihood;
            all are scaled to a mean of 1. `"balanced"`, ours: the number of dissimilar pairs over
            that of similar ones, in the data set or, in mini-batch mode, in the batch. 1: that of
            the poster.
        label_widths: Widths of the layers between a label and its code.
        fit_steps: Steps of the fit to labels alone.
        seed: Seed of the auto-encoder, and of its fit.
        code_bank: The bank of data-set mode. Mini-batch mode if `None`.
        **kwargs: Arguments of `DiscreteLoss` (`sweeps`), and of PML's losses (`reducer`,
            `embedding_regularizer`, ...).

    Raises:
        ValueError: If a weight is negative, `similar_weight` is not positive, a width or `sweeps`
            is less than 1, or the code bank is of other classes or bits.

    Note: Differences from the paper
        The common space of images and labels is that of the codes before their signs: a loss sees
        no other features of images. That is less loss than it seems: a linear map of $u_i$ into a
        wider space, in an inner product with features of a label there, is a linear map of these
        to $K$ numbers, which is what the last layer of the encoder is, but for its tanh. The
        network learns from all samples, and the auto-encoder in the same steps. Codes of a second
        network (`ref_emb`) add the same terms over again. A miner weighs the
        samples.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import DSAHALoss
        >>> loss_func = DSAHALoss(
        ...     num_classes=2, code_length=8, label_widths=(16,), quantization_weight=0
        ... )
        >>> _ = [p.data.zero_() for p in loss_func.label_network.parameters()]
        >>> codes = torch.zeros(4, 8)  # as those of labels: every pair has probability ½
        >>> loss_func(codes, torch.tensor([0, 0, 1, 1])).detach()
        tensor(2.4071)

        That is 1, the inner products; ln 2 / 64; and of the labels, ln 2, 0.01 and ln 2.

    References:
        [Deep Semantic Asymmetric Hashing](https://doi.org/10.1007/978-3-030-30487-4_29), ICANN
        2019, LNCS 11727. Label network: Li et al., [Deep Joint Semantic-Embedding
        Hashing](https://www.ijcai.org/proceedings/2018/0331.pdf), IJCAI 2018. Inner products and
        learned codes: Jiang and Li, [Asymmetric Deep Supervised
        Hashing](https://arxiv.org/abs/1707.08325), AAAI 2018.
    """

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        *,
        quantization_weight: float = 200 / 59_000,
        guidance_weight: float = 1.0,
        distance_weight: float = 0.1,
        agreement_weight: float = 0.0,
        soft_similarity: bool = True,
        similar_weight: SimilarWeight = "balanced",
        label_widths: tuple[int, ...] = (4096, 512),
        fit_steps: int = 30,
        seed: int = 0,
        code_bank: CodeBank | None = None,
        **kwargs: Any,
    ) -> None:
        check_sizes(num_classes, code_length)
        check_weights(
            quantization_weight=quantization_weight,
            guidance_weight=guidance_weight,
            distance_weight=distance_weight,
            agreement_weight=agreement_weight,
        )
        network = LabelNetwork(
            num_classes,
            code_length,
            label_widths,
            fit_steps,
            seed,
            quantization=0.01,
            reconstruction=binary_cross_entropy_with_logits,
            similar_weight=similar_weight,
        )
        terms = {
            "inner_product": (1.0, InnerProduct(soft_similarity)),
            "quantization": (quantization_weight / code_length, Quantization()),
            "guidance": (guidance_weight / code_length**2, LabelGuidance(network)),
            "distance": (distance_weight / code_length, LabelDistance(network)),
            "agreement": (agreement_weight / code_length, LabelAgreement(network)),
            "label": (1.0, LabelCodes(network)),
        }
        super().__init__(num_classes, code_length, terms, seed=seed, code_bank=code_bank, **kwargs)

    @property
    def label_network(self) -> LabelNetwork:
        """The auto-encoder of labels."""
        return cast(LabelCodes, self.terms["label"]).network
