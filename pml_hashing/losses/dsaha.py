"""DSAHA (ICANN 2019): one network and codes of the database, in the space of coded labels."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pml_hashing._checks import check_at_least
from pml_hashing.code_bank import CodeBank, Rows
from pml_hashing.losses._base import LossDict
from pml_hashing.losses._base_discrete import BaseDiscreteLoss
from pml_hashing.losses._discrete import own_quantization
from pml_hashing.losses._inner_product import (
    improve_codes,
    inner_products_of_networks,
    start_from,
)
from pml_hashing.losses._label_networks import (
    BatchLabels,
    LabelNetwork,
    codes_of_groups,
    mean_with_labels,
)
from pml_hashing.losses.dsah_terms import of_networks
from pml_hashing.pairs import IndicesTuple


class DSAHALoss(BaseDiscreteLoss):
    r"""The terms of ADSH, with the network's codes led by codes of an auto-encoder of labels.

    Reconstructed: the poster and the abstract name an auto-encoder of labels, a network of images,
    constraints between them, and codes of the database that are learned directly; all formulas and
    weights are ours, after ADSH and DSEH. The paper was not available to us.

    $$
    \begin{aligned}
    J = {} & \frac{1}{n^2 K^2} \sum_{i, j} \left[ \left( u_i^\top v_j - K S_{ij} \right)^2
            + \alpha\, \ell_{ij}(u_i, h_j) \right]
        + \frac{1}{n K^2} \sum_i \left( \gamma \lVert v_i - u_i \rVert^2
            + \beta \lVert u_i - h_i \rVert^2 + \mu \lVert v_i - h_i \rVert^2 \right) \\
        & + \frac{1}{n^2} \sum_{i, j} \ell_{ij}(h_i, h_j)
            + \frac{0.01}{n K} \sum_{i, k} \bigl\lvert \lvert h_{ik} \rvert - 1 \bigr\rvert
            - \frac{1}{n C} \sum_{i, c} \left( y_{ic} \log \hat y_{ic}
                + (1 - y_{ic}) \log(1 - \hat y_{ic}) \right)
    \end{aligned}
    $$

    with $\ell_{ij}(x, z) = \log(1 + e^{x^\top z / 2}) - s_{ij}\, x^\top z / 2$ and
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
        gamma: Weight $\gamma$ of the quantization: as in ADSH.
        alpha: Weight $\alpha$ of the likelihood with codes of labels.
        beta: Weight $\beta$ of the distance from the code of the label.
        mu: Weight $\mu$ of the pull of codes of labels on the learned codes. Samples of equal
            labels are pulled to one code.
        soft_similarity: Dissimilar pairs have $S_{ij} = -r$. If `False`, -1, with which bits become
            constant unless $\gamma$ is near $K$.
        label_widths: Widths of the layers between a label and its code.
        fit_steps: Steps of the fit to labels alone.
        sweeps: Sweeps over the bits in a discrete step.
        seed: Of the auto-encoder, and of its fit.
        code_bank: The bank of data-set mode. Mini-batch mode if `None`.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If a weight is negative, a width or `sweeps` is less than 1, or the code bank is
            of other classes or bits.

    Note: Differences from the paper
        The common space of images and labels is that of the codes before their signs: a loss sees
        no other features of images. That is less loss than it seems: a linear map of $u_i$ into a
        wider space, in an inner product with features of a label there, is a linear map of these
        to $K$ numbers, which is what the last layer of the encoder is, but for its tanh. The
        network learns from all samples, and the auto-encoder in the same steps. Codes of a second
        network (`ref_emb`) add the same terms over again. A miner's pairs are not used.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import DSAHALoss
        >>> loss_func = DSAHALoss(num_classes=2, code_length=8, label_widths=(16,), gamma=0)
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
        gamma: float = 200 / 59_000,
        alpha: float = 1.0,
        beta: float = 0.1,
        mu: float = 0.0,
        soft_similarity: bool = True,
        label_widths: tuple[int, ...] = (4096, 512),
        fit_steps: int = 30,
        sweeps: int = 1,
        seed: int = 0,
        code_bank: CodeBank | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, code_length, code_bank=code_bank, **kwargs)
        for name, value in (("gamma", gamma), ("alpha", alpha), ("beta", beta), ("mu", mu)):
            check_at_least(value, 0, name)
        check_at_least(sweeps, 1, "sweeps")
        self.gamma, self.alpha, self.beta, self.mu = gamma, alpha, beta, mu
        self.soft_similarity, self.sweeps = soft_similarity, sweeps
        self.label_network = LabelNetwork(
            num_classes,
            code_length,
            label_widths,
            fit_steps,
            seed,
            quantization=0.01,
            reconstruction=binary_cross_entropy_with_logits,
        )
        if code_bank is None:
            self.label_network.fit(torch.arange(num_classes), torch.ones(num_classes))

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
        sample_indices: Tensor | None = None,
    ) -> LossDict:
        codes = of_networks(embeddings, ref_emb)
        bank, rows = self.bank_of(codes, labels, sample_indices)
        batch, scale = BatchLabels.of(bank, rows), self.code_length**-2
        label_codes = self.label_network(batch.labels)
        losses = self._discrete_terms(bank, rows, codes, label_codes[batch.own])
        distances = [(network - label_codes[batch.own]).square().sum(dim=1) for network in codes]
        losses["guidance_loss"] = self.alpha * scale * batch.likelihood(codes, label_codes)
        losses["distance_loss"] = self.beta * scale * torch.stack(distances).sum(dim=0)
        losses["label_loss"] = batch.losses(self.label_network, label_codes)
        return {name: self.element_loss(losses[name]) for name in self._sub_loss_names()}

    def _sub_loss_names(self) -> list[str]:
        terms = ("inner_product", "quantization", "guidance", "distance", "agreement", "label")
        return [f"{term}_loss" for term in terms]

    def _discrete_terms(
        self, bank: CodeBank, rows: Rows, codes: list[Tensor], label_codes: Tensor
    ) -> dict[str, Tensor]:
        """Return the terms of every sample in which its binary code stands."""
        scale = self.code_length**-2
        return {
            "inner_product_loss": inner_products_of_networks(bank, rows, codes),
            "quantization_loss": self.gamma * scale * own_quantization(bank, rows, codes),
            "agreement_loss": self.mu * scale * own_quantization(bank, rows, [label_codes]),
        }

    def start_codes(self, bank: CodeBank) -> None:
        self.label_network.fit(bank.group_labels, bank.group_sizes)
        start_from(bank, codes_of_groups(self.label_network, bank), self.soft_similarity)

    def solve_batch(self, bank: CodeBank) -> None:
        label_codes = codes_of_groups(self.label_network, bank)
        start_from(bank, label_codes, self.soft_similarity)
        self._improve(bank, label_codes)
        bank.refresh_binary_codes()

    def discrete_step(self, bank: CodeBank, progress: bool = False) -> None:
        self._improve(bank, codes_of_groups(self.label_network, bank), progress)

    def _improve(self, bank: CodeBank, label_codes: Tensor, progress: bool = False) -> None:
        soft, scale = self.soft_similarity, self.code_length**-2
        weight, pull = self.gamma * scale, self.mu * scale * label_codes
        improve_codes(bank, weight, soft=soft, sweeps=self.sweeps, progress=progress, pull=pull)

    def objective(self, bank: CodeBank) -> Tensor:
        return mean_with_labels(bank, self.label_network, self._discrete_terms)
