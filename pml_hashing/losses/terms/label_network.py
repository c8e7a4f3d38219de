"""Networks that turn labels into codes, and the terms that lead codes of images to them."""

import copy
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pml_hashing._checks import MOST_CLASSES, check_at_least, check_code_length, check_num_classes
from pml_hashing.code_bank import CodeBank, Variables
from pml_hashing.label_rows import LabelRows
from pml_hashing.losses._pair_blocks import signed_logits
from pml_hashing.losses._similar_weight import (
    SimilarWeight,
    check_similar_weight,
    kind_weights,
)
from pml_hashing.losses.terms._base import Batch, Quadratic, Term, sum_of
from pml_hashing.pairs import similarity

LABELS_OF_A_STEP = 256
"""Labels in a step of `fit`: drawn by how many samples have them, where there are more."""
LABELS_OF_A_BLOCK = 8192
"""Labels that are turned into codes at a time."""
LEARNING_RATE = 1e-3
"""The learning rate of `fit`."""

Reconstruction: TypeAlias = Callable[..., Tensor]
"""`mse_loss` or `binary_cross_entropy_with_logits` of `torch.nn.functional`."""


class LabelNetwork(nn.Module):
    """Layers from labels to codes in (-1, 1), and a linear one from the codes back to labels.

    With tanh between the layers and no bias at first, different labels start with different codes.
    With ReLU and torch's own start, the codes of 100 classes all but coincide, and part late.

    Args:
        num_classes: Number of classes.
        code_length: Number of bits.
        widths: Widths of the layers between the labels and the codes.
        fit_steps: Steps of `fit`.
        seed: Seed of the weights, and of the labels that `fit` draws where there are many.
        quantization: Weight of the distance of codes from -1 and 1 in `losses`.
        reconstruction: Loss of a label that is read back from its code.
        similar_weight: Weight of similar pairs, as of `PairLikelihood`: in `losses`, and in those
            of codes of images with codes of labels.
    """

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        widths: tuple[int, ...],
        fit_steps: int,
        seed: int,
        *,
        quantization: float,
        reconstruction: Reconstruction,
        similar_weight: SimilarWeight = "balanced",
    ) -> None:
        super().__init__()
        check_num_classes(num_classes, most=MOST_CLASSES)
        check_code_length(code_length)
        for width in widths:
            check_at_least(width, 1, "label_widths")
        check_at_least(fit_steps, 0, "fit_steps")
        check_similar_weight(similar_weight)
        self.fit_steps, self.seed = fit_steps, seed
        self.similar_weight: SimilarWeight = similar_weight
        self.quantization, self.reconstruction = quantization, reconstruction
        generator, sizes = torch.Generator("cpu").manual_seed(seed), (*widths, code_length)
        # A row of labels holds a few ones, however long it is: the first layer is not scaled.
        layers = [_start(_LayerOfLabels(num_classes, sizes[0]), 1.0, generator)]
        layers += [_start(nn.Linear(m, n), m**-0.5, generator) for m, n in pairwise(sizes)]
        # By names that do not begin with a digit: PML's hooks record parameters in tables of them.
        self.layers = nn.ModuleDict({f"layer_{i}": layer for i, layer in enumerate(layers)})
        decoder = nn.Linear(code_length, num_classes)
        self.decoder = _start(decoder, code_length**-0.5, generator)

    def forward(self, labels: Tensor) -> Tensor:
        """Return the codes of labels, class ids `(d,)` or multi-hot rows `(d, num_classes)`."""
        codes = labels
        for layer in self.layers.values():
            codes = torch.tanh(layer(codes))
        return codes

    def losses(self, codes: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
        r"""Return the loss of the network itself, for every label, `(d,)`.

        $$
        \frac{1}{n} \sum_q n_q\, w_{pq}\, \ell(\tfrac{1}{2} h_p^\top h_q)
            + \frac{\rho}{K} \sum_k \bigl\lvert \lvert h_{pk} \rvert - 1 \bigr\rvert
            + \frac{1}{C} \sum_c r(y_{pc}, \hat y_{pc})
        $$

        Args:
            codes: The codes $h_p$ of the labels, `(d, code_length)`.
            labels: Class ids `(d,)` or multi-hot rows `(d, num_classes)`.
            counts: How many samples $n_q$ have each of them, `(d,)`.
        """
        similar, counts = similarity(labels, labels), counts.to(codes)
        weights = self.pair_weights(similar, counts)
        likelihood = _likelihood(codes, codes, similar, counts, weights)
        read_back = self.decoder(codes)
        if labels.ndim == 1:  # rows of the size of what is read back
            labels = torch.zeros_like(read_back).scatter_(1, labels.long()[:, None], 1)
        errors = self.reconstruction(read_back, labels.to(read_back.dtype), reduction="none")
        distance = (codes.abs() - 1).abs().mean(dim=1)
        return likelihood + self.quantization * distance + errors.mean(dim=1)

    def pair_weights(self, similar: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights of a similar and of a dissimilar pair of samples.

        Args:
            similar: Which labels are similar, `(d, d)`.
            counts: How many samples have each, `(d,)`.
        """
        num_similar = counts @ (similar.to(counts) @ counts)
        return kind_weights(self.similar_weight, num_similar, counts.sum().square() - num_similar)

    def fit(self, labels: Tensor | LabelRows, counts: Tensor) -> None:
        """Fit the network to labels alone, with Adam. Gradients it already has stay as they are.

        Args:
            labels: Distinct class ids `(d,)` or multi-hot rows `(d, num_classes)`.
            counts: How many samples have each, `(d,)`.
        """
        device = next(self.parameters()).device  # where an older Adam counts by the default one
        with torch.inference_mode(False), torch.enable_grad(), device:  # gradients, wherever
            fitted = copy.deepcopy(self).requires_grad_(True)
            optimizer = torch.optim.Adam(fitted.parameters(), LEARNING_RATE)
            counts = counts.clone()
            for chosen, weights in _batches(labels, counts, self.fit_steps, self.seed):
                losses = fitted.losses(fitted(chosen), chosen, weights)
                loss = (losses * weights.to(losses)).sum() / weights.sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self.load_state_dict(fitted.state_dict())


class _LayerOfLabels(nn.Linear):
    """A linear layer of multi-hot rows. Class ids have the same results as their one-hot rows.

    Those of an id are its column of the weight, and the bias: rows that are made to be multiplied
    would be far larger.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's name
        if input.ndim == 1:
            return self.weight.T[input.long()] + self.bias
        return super().forward(input.to(self.weight.dtype))


def _start(layer: nn.Linear, scale: float, generator: torch.Generator) -> nn.Linear:
    """Return the layer with random weights of this scale."""
    with torch.no_grad():
        start = torch.randn(layer.weight.shape, generator=generator, device="cpu")
        layer.weight.copy_(scale * start)
        layer.bias.zero_()
    return layer


def _batches(
    labels: Tensor | LabelRows, counts: Tensor, steps: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield labels and their counts for every step of a fit, in tensors of their own."""
    if steps == 0:  # nothing is drawn, and no table of all labels made
        return
    if len(labels) <= LABELS_OF_A_STEP:
        rows = labels.dense() if isinstance(labels, LabelRows) else labels.clone()
        yield from [(rows, counts)] * steps
        return
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = counts.cpu().multinomial(LABELS_OF_A_STEP * steps, True, generator=generator)
    places = drawn.to(counts.device).split(LABELS_OF_A_STEP)
    for some in places:
        rows = labels.dense(some) if isinstance(labels, LabelRows) else labels[some]
        yield rows, torch.ones_like(counts[some])


def _likelihood(
    codes: Tensor,
    ref_codes: Tensor,
    similar: Tensor,
    counts: Tensor,
    weights: tuple[Tensor, Tensor],
) -> Tensor:
    """Return the mean over all samples of every code's losses of pairs, `(n,)`.

    Args:
        codes: Codes, `(n, code_length)`.
        ref_codes: Codes of the labels that they are paired with, `(d, code_length)`.
        similar: Which pairs are similar, `(n, d)`.
        counts: How many samples have each of these labels, `(d,)`.
        weights: Weights of a similar and of a dissimilar pair.
    """
    logits = signed_logits(codes / 2 @ ref_codes.T, 1 - 2 * similar.to(codes.dtype))
    losses = F.softplus(logits) * torch.where(similar, *weights)
    return losses @ counts / counts.sum().clamp(min=1)


def codes_of_groups(network: LabelNetwork, bank: CodeBank) -> Tensor:
    """Return the codes of all distinct labels of a bank, `(d, code_length)`.

    Those of one batch are computed once, and with gradient: its losses take them too.
    """
    if bank.is_batch:
        with torch.enable_grad():
            return bank.once(network, lambda: network(bank.labels_of_groups()))
    with torch.no_grad():
        starts = range(0, len(bank.group_labels), LABELS_OF_A_BLOCK)
        parts = (slice(start, start + LABELS_OF_A_BLOCK) for start in starts)
        blocks = [network(bank.labels_of_groups(part)) for part in parts]
        return torch.cat(blocks).to(bank.query_codes)


class BatchLabels(NamedTuple):
    """The labels that the samples of a batch are held against, with their codes."""

    labels: Tensor
    """Class ids `(d,)` or multi-hot rows `(d, num_classes)`."""
    counts: Tensor
    """How many samples have each, `(d,)`."""
    own: Tensor
    """The place of every sample's own label, `(batch_size,)`."""
    codes: Tensor
    """The codes of the labels by the network, `(d, code_length)`."""

    @classmethod
    def of(cls, network: LabelNetwork, batch: Batch) -> "BatchLabels":
        """Return the distinct labels of the bank, or those of the batch where these are fewer.

        All terms of a batch take the same codes.
        """
        return batch.once(network, lambda: cls._of(network, batch))

    @classmethod
    def _of(cls, network: LabelNetwork, batch: Batch) -> "BatchLabels":
        bank = batch.bank
        if len(bank.group_labels) > len(batch.codes[0]):
            own = torch.arange(len(batch.labels), device=batch.labels.device)
            return cls(batch.labels, torch.ones_like(own), own, network(batch.labels))
        labels = bank.labels_of_groups()
        codes = codes_of_groups(network, bank) if bank.is_batch else network(labels)
        return cls(labels, bank.group_sizes, bank.groups[batch.rows], codes)


class LabelCodes(Term):
    r"""The loss of the label network itself, for the label of every sample.

    $$
    \frac{1}{n} \sum_j w_{ij}\, \ell(\tfrac{1}{2} h_i^\top h_j)
        + \frac{\rho}{K} \sum_k \bigl\lvert \lvert h_{ik} \rvert - 1 \bigr\rvert
        + \frac{1}{C} \sum_c r(y_{ic}, \hat y_{ic})
    $$

    It holds the network, whose parameters are parameters of the loss, and the binary codes start
    from its codes. It is fitted to the labels of a data set before training, and is not in the
    objective that `update_codes` returns.

    Args:
        network: The label network.
    """

    in_objective = False

    def __init__(self, network: LabelNetwork) -> None:
        super().__init__()
        self.network, self.is_fitted = network, False

    def get_extra_state(self) -> dict[str, bool]:
        return {"is_fitted": self.is_fitted}

    def set_extra_state(self, state: dict[str, bool]) -> None:
        self.is_fitted = state["is_fitted"]

    def losses(self, batch: Batch, variables: Variables) -> Tensor:
        labels, counts, own, codes = BatchLabels.of(self.network, batch)
        return self.network.losses(codes, labels, counts)[own]

    def prepare(self, bank: CodeBank) -> None:
        if not self.is_fitted:
            self.network.fit(bank.group_labels, bank.group_sizes)
            self.is_fitted = True

    def first_codes(self, bank: CodeBank) -> Tensor:
        return codes_of_groups(self.network, bank)


class _LedByLabels(Term):
    """A term that takes the codes of labels by a network that another term, `LabelCodes`, holds."""

    def __init__(self, network: LabelNetwork) -> None:
        super().__init__()
        self._held = (network,)  # in a tuple, so that its parameters are not listed twice

    @property
    def network(self) -> LabelNetwork:
        """The label network."""
        return self._held[0]


class LabelGuidance(_LedByLabels):
    r"""The likelihood of pairs of the networks' codes with codes of labels.

    $$\frac{1}{n} \sum_j w_{ij} \left( \ell_{ij}(u_i, h_j) + \ell_{ij}(v_i, h_j) \right)$$

    with the weights of similar pairs of the label network.
    It is not in the objective that `update_codes` returns.
    """

    in_objective = False

    def losses(self, batch: Batch, variables: Variables) -> Tensor:
        labels, counts, own, codes = BatchLabels.of(self.network, batch)
        codes = codes.to(batch.codes[0])
        similar, counts = similarity(labels, labels), counts.to(codes)
        weights = self.network.pair_weights(similar, counts)
        of_batch = similar[own]
        return sum_of([_likelihood(u, codes, of_batch, counts, weights) for u in batch.codes])


class LabelDistance(_LedByLabels):
    r"""The squared distance of the networks' codes from the code of the label, per bit.

    $$\frac{1}{K} \left( \lVert u_i - h_i \rVert^2 + \lVert v_i - h_i \rVert^2 \right)$$

    It is not in the objective that `update_codes` returns.
    """

    in_objective = False

    def losses(self, batch: Batch, variables: Variables) -> Tensor:
        _, _, own, codes = BatchLabels.of(self.network, batch)
        distances = [(u - codes[own]).square().sum(dim=1) for u in batch.codes]
        return sum_of(distances) / codes.shape[1]


class LabelAgreement(_LedByLabels):
    r"""The squared distance of the binary code from the code of the label, per bit.

    $$\frac{1}{K} \lVert h_i - b_i \rVert^2$$
    """

    def losses(self, batch: Batch, variables: Variables) -> Tensor:
        _, _, own, codes = BatchLabels.of(self.network, batch)
        return (codes[own] - batch.binary_codes).square().sum(dim=1) / codes.shape[1]

    def quadratic(self, bank: CodeBank, variables: Variables) -> Quadratic:
        return Quadratic(targets=codes_of_groups(self.network, bank) / bank.code_length)
