"""ADSQ (Yang et al., 2019): two networks and learned codes, led by a network of labels."""

from typing import Any, cast

from torch.nn.functional import mse_loss

from pml_hashing._checks import check_weights
from pml_hashing.code_bank import CodeBank
from pml_hashing.losses._classes import check_sizes
from pml_hashing.losses._discrete import DiscreteLoss
from pml_hashing.losses._similar_weight import SimilarWeight
from pml_hashing.losses.terms import (
    BitBalance,
    InnerProduct,
    LabelAgreement,
    LabelCodes,
    LabelGuidance,
    LabelNetwork,
    PairLikelihood,
    Quantization,
)


class ADSQLoss(DiscreteLoss):
    r"""The terms of DADH, with both networks and the learned codes led by codes of the labels.

    Reconstructed: a survey names the terms, the abstract the networks; formulas and weights are
    those of [DADH](dadh.md) and, for the label network, of DSEH. The paper was not available to us.

    $$
    \begin{aligned}
    J = {} & \frac{1}{n^2 K^2} \Big[ \lVert U B^\top - K S \rVert^2
            + \lVert V B^\top - K S \rVert^2
            + \tau \sum_{i, j} \ell_{ij}(u_i, v_j)
            + \eta \lVert U^\top 1 \rVert^2 + \eta \lVert V^\top 1 \rVert^2 \\
        & \qquad + \alpha \sum_{i, j} \left( \ell_{ij}(u_i, h_j) + \ell_{ij}(v_i, h_j) \right)
            \Big] \\
        & + \frac{1}{n K^2} \left( \gamma \lVert U - B \rVert^2 + \gamma \lVert V - B \rVert^2
            + \mu \lVert H - B \rVert^2 \right) \\
        & + \frac{1}{n^2} \sum_{i, j} \ell_{ij}(h_i, h_j)
            + \frac{0.005}{n K} \sum_{i, k} \bigl\lvert \lvert h_{ik} \rvert - 1 \bigr\rvert
            + \frac{1}{n C} \lVert Y - H W - 1 c^\top \rVert^2
    \end{aligned}
    $$

    with $\ell_{ij}(x, z) = w_{ij} [\log(1 + e^{x^\top z / 2}) - s_{ij}\, x^\top z / 2]$, weights
    $w_{ij}$ of the pairs, ours, that have a mean of 1 (`similar_weight`), and
    $B \in \{-1, 1\}^{n \times K}$, where $U$ holds the codes $u_i = \tanh f(x_i)$ of the first
    network, $V$ those of the second (`ref_emb`), $H$ the codes $h_i = g(y_i)$ of the label network,
    $B$ the learned codes (`binary_codes` of the code bank), $s_{ij}$ is 1 for similar samples and
    else 0, and $S_{ij}$ is 1 for similar samples and else $-r$, $r$ the number of similar pairs
    over that of dissimilar pairs. With one network, the terms of $V$ are absent and the likelihood
    is of all pairs of different samples of $U$.

    The label network is `label_network`, a module of the loss with the decoder $W, c$. Its
    parameters are variables of $J$, for an optimizer of the loss (`metric_loss_optimizer` in PML's
    trainers); the gradient of $\alpha$ and $\mu$ reaches them too. The first of the paper's two
    steps needs no optimizer: the network is fitted to labels alone, by the last line of $J$, and
    $B$ starts from the signs of $H$. Without an optimizer it stays so; then set
    `loss_func.label_network.requires_grad_(False)`, which saves time.

    *Mini-batch mode*: the samples are those of the batch, and $B$ is solved for in every call. The
    label network is fitted to single classes when the loss is made. *Data-set mode*: they are those
    of a `CodeBank`, to whose labels the network is fitted in the first call, and whose codes
    `update_codes` improves by coordinate descent. Sums over $h_j$ are over distinct labels, each
    weighted by how many samples have it; or over the labels of the batch, where these are fewer.
    All else is as in DADH. The objective that `update_codes` returns is that of the terms in which
    $B$ stands, and balance.

    Sub-losses: `inner_product_loss`, `likelihood_loss`, `quantization_loss`, `balance_loss`,
    `guidance_loss` (that of $\alpha$), `agreement_loss` (that of $\mu$), `label_loss` (the last
    line). The latter two are constant in the codes of the batch.

    Args:
        num_classes: Number of classes $C$.
        code_length: Number of bits $K$.
        likelihood_weight: Weight $\tau$ of the likelihood.
        quantization_weight: Weight $\gamma$ of the quantization, over $n$: as in DADH.
        balance_weight: Weight $\eta$ of the bit balance: ours; 10 in DADH as published. As there,
            balance must not outweigh the inner products, which lose their scale as $1 / C$.
        guidance_weight: Weight $\alpha$ of the likelihood with codes of labels.
        agreement_weight: Weight $\mu$ of the pull of codes of labels on the learned codes. The
            default is a tenth of $\gamma$.
        soft_similarity: Dissimilar pairs have $S_{ij} = -r$. If `False`, -1, with which bits become
            constant unless $\gamma$ is near $K$.
        similar_weight: Weight of a similar pair over that of a dissimilar one in each likelihood;
            all are scaled to a mean of 1. `"balanced"`, ours: the number of dissimilar pairs over
            that of similar ones, in the data set or, in mini-batch mode, in the batch. 1: that of
            DADH as published.
        bank_samples: Samples of the code bank, drawn anew in every call, whose latest codes the
            batch is paired with in the likelihood; at least $n$: all. 0: those of the batch.
        label_widths: Widths of the layers between a label and its code.
        fit_steps: Steps of the fit to labels alone.
        seed: Seed of the label network, and of its fit.
        code_bank: The bank of data-set mode. Mini-batch mode if `None`.
        **kwargs: Arguments of `DiscreteLoss` (`sweeps`), and of PML's losses (`reducer`,
            `embedding_regularizer`, ...).

    Raises:
        ValueError: If a weight is negative, `similar_weight` is not positive, a width or `sweeps`
            is less than 1, or the code bank is of other classes or bits.

    Note: Differences from the paper
        The paper's label network leads features of the images, too. A loss sees codes alone: a
        linear map of a code to the width of the features, in an inner product with features of a
        label, is a linear map of the latter to $K$ numbers, which is what the last layer of the
        label network is, but for its tanh. So images are led by $h_j$ alone. Activations of the
        label network, its start, all weights, and the scale of every term are ours. All networks
        learn from the same batch at once. A miner's pairs, if given, replace those of the
        likelihood of $\tau$.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import ADSQLoss
        >>> loss_func = ADSQLoss(
        ...     num_classes=2,
        ...     code_length=8,
        ...     label_widths=(16,),
        ...     quantization_weight=0,
        ...     agreement_weight=0,
        ... )
        >>> _ = [p.data.zero_() for p in loss_func.label_network.parameters()]
        >>> codes = torch.zeros(4, 8)  # as those of labels: every pair has probability ½
        >>> loss_func(codes, torch.tensor([0, 0, 1, 1])).detach()
        tensor(2.3173)

        That is 1, the inner products; (10 + 1) / 64 of ln 2; and of the labels, ln 2, 0.005 and ½.

    References:
        Yang et al., [Asymmetric Deep Semantic Quantization for Image
        Retrieval](https://arxiv.org/abs/1903.12493), IEEE Access 7, 2019. Label network: Li et al.,
        [Deep Joint Semantic-Embedding Hashing](https://www.ijcai.org/proceedings/2018/0331.pdf),
        IJCAI 2018.
    """

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        *,
        likelihood_weight: float = 10.0,
        quantization_weight: float = 0.02,
        balance_weight: float = 1.0,
        guidance_weight: float = 1.0,
        agreement_weight: float = 0.002,
        soft_similarity: bool = True,
        similar_weight: SimilarWeight = "balanced",
        bank_samples: int = 0,
        label_widths: tuple[int, ...] = (4096, 512),
        fit_steps: int = 30,
        seed: int = 0,
        code_bank: CodeBank | None = None,
        **kwargs: Any,
    ) -> None:
        check_sizes(num_classes, code_length)
        check_weights(
            likelihood_weight=likelihood_weight,
            quantization_weight=quantization_weight,
            balance_weight=balance_weight,
            guidance_weight=guidance_weight,
            agreement_weight=agreement_weight,
        )
        network = LabelNetwork(
            num_classes,
            code_length,
            label_widths,
            fit_steps,
            seed,
            quantization=0.005,
            reconstruction=mse_loss,
            similar_weight=similar_weight,
        )
        per_pair, per_bit = code_length**-2, 1 / code_length
        terms = {
            "inner_product": (1.0, InnerProduct(soft_similarity)),
            "likelihood": (
                likelihood_weight * per_pair,
                PairLikelihood(bank_samples, similar_weight=similar_weight),
            ),
            "quantization": (quantization_weight * per_bit, Quantization()),
            "balance": (balance_weight * per_bit, BitBalance()),
            "guidance": (guidance_weight * per_pair, LabelGuidance(network)),
            "agreement": (agreement_weight * per_bit, LabelAgreement(network)),
            "label": (1.0, LabelCodes(network)),
        }
        super().__init__(num_classes, code_length, terms, seed=seed, code_bank=code_bank, **kwargs)

    @property
    def label_network(self) -> LabelNetwork:
        """The network of labels."""
        return cast(LabelCodes, self.terms["label"]).network
