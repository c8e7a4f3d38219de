"""Networks that turn labels into codes, to which the codes of images are led."""

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pml_hashing._checks import check_at_least
from pml_hashing.code_bank import CodeBank, Rows
from pml_hashing.losses._discrete import mean_over_bank
from pml_hashing.losses._likelihood import pair_likelihood
from pml_hashing.pairs import similarity

LABELS_OF_A_STEP = 256
"""Labels in a step of `fit`: drawn by how many samples have them, where there are more."""
LEARNING_RATE = 1e-3
"""Of `fit`."""

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
        seed: Of the weights, and of the labels that `fit` draws where there are many.
        quantization: Weight of the distance of codes from -1 and 1 in `losses`.
        reconstruction: Loss of a label that is read back from its code.
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
    ) -> None:
        super().__init__()
        for width in widths:
            check_at_least(width, 1, "label_widths")
        check_at_least(fit_steps, 0, "fit_steps")
        self.fit_steps, self.seed = fit_steps, seed
        self.quantization, self.reconstruction = quantization, reconstruction
        generator, sizes = torch.Generator("cpu").manual_seed(seed), (*widths, code_length)
        # A row of labels holds a few ones, however long it is: the first layer is not scaled.
        layers = [_linear(num_classes, sizes[0], 1.0, generator)]
        layers += [_linear(m, n, m**-0.5, generator) for m, n in pairwise(sizes)]
        self.layers = nn.ModuleList(layers)
        self.decoder = _linear(code_length, num_classes, code_length**-0.5, generator)

    def forward(self, labels: Tensor) -> Tensor:
        """Return the codes of labels, class ids `(d,)` or multi-hot rows `(d, num_classes)`."""
        codes = self._rows(labels)
        for layer in self.layers:
            codes = torch.tanh(layer(codes))
        return codes

    def losses(self, codes: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
        r"""Return the loss of the network itself, for every label, `(d,)`.

        $$
        \frac{1}{n} \sum_q n_q\, \ell(\tfrac{1}{2} h_p^\top h_q)
            + \frac{\rho}{K} \sum_k \bigl\lvert \lvert h_{pk} \rvert - 1 \bigr\rvert
            + \frac{1}{C} \sum_c r(y_{pc}, \hat y_{pc})
        $$

        Args:
            codes: The codes $h_p$ of the labels, `(d, code_length)`.
            labels: Class ids `(d,)` or multi-hot rows `(d, num_classes)`.
            counts: How many samples $n_q$ have each of them, `(d,)`.
        """
        similar = similarity(labels, labels)
        likelihood = pair_likelihood(codes, codes, similar, counts.to(codes)[None])
        errors = self.reconstruction(self.decoder(codes), self._rows(labels), reduction="none")
        distance = (codes.abs() - 1).abs().mean(dim=1)
        return likelihood + self.quantization * distance + errors.mean(dim=1)

    def fit(self, labels: Tensor, counts: Tensor) -> None:
        """Fit the network to labels alone, with Adam. Gradients it already has stay as they are.

        Args:
            labels: Distinct class ids `(d,)` or multi-hot rows `(d, num_classes)`.
            counts: How many samples have each, `(d,)`.
        """
        fitted = copy.deepcopy(self).requires_grad_(True)
        optimizer = torch.optim.Adam(fitted.parameters(), LEARNING_RATE)
        for chosen, weights in _batches(labels, counts, self.fit_steps, self.seed):
            with torch.enable_grad():
                losses = fitted.losses(fitted(chosen), chosen, weights)
                loss = (losses * weights.to(losses)).sum() / weights.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.load_state_dict(fitted.state_dict())

    def _rows(self, labels: Tensor) -> Tensor:
        """Return labels as rows of zeros and ones, in the dtype of the weights."""
        if labels.ndim == 1:
            labels = F.one_hot(labels.long(), self.decoder.out_features)
        return labels.to(self.decoder.weight.dtype)


def _linear(inputs: int, outputs: int, scale: float, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.copy_(scale * torch.randn(outputs, inputs, generator=generator, device="cpu"))
        layer.bias.zero_()
    return layer


def _batches(labels: Tensor, counts: Tensor, steps: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return labels and their counts for every step of a fit."""
    if len(labels) <= LABELS_OF_A_STEP or steps == 0:
        return [(labels, counts)] * steps
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = counts.cpu().multinomial(LABELS_OF_A_STEP * steps, True, generator=generator)
    places = drawn.to(labels.device).split(LABELS_OF_A_STEP)
    return [(labels[some], torch.ones_like(counts[some])) for some in places]


@torch.no_grad()
def codes_of_groups(network: LabelNetwork, bank: CodeBank, block_size: int = 8192) -> Tensor:
    """Return the codes of all distinct labels of a bank, `(d, code_length)`."""
    blocks = [network(labels) for labels in bank.group_labels.split(block_size)]
    return torch.cat(blocks).to(bank.code_sums)


def mean_with_labels(
    bank: CodeBank,
    network: LabelNetwork,
    terms: Callable[[CodeBank, Rows, list[Tensor], Tensor], dict[str, Tensor]],
) -> Tensor:
    """Return `mean_over_bank` of terms that also take the codes of the samples' labels."""
    label_codes = codes_of_groups(network, bank)
    return mean_over_bank(
        bank, lambda bank, rows, codes: terms(bank, rows, codes, label_codes[bank.groups[rows]])
    )


class BatchLabels(NamedTuple):
    """The labels that the samples of a batch are held against."""

    labels: Tensor
    """Class ids `(d,)` or multi-hot rows `(d, num_classes)`."""
    counts: Tensor
    """How many samples have each, `(d,)`."""
    own: Tensor
    """The place of every sample's own label, `(batch_size,)`."""

    @classmethod
    def of(cls, bank: CodeBank, rows: Tensor) -> "BatchLabels":
        """Return the distinct labels of the bank, or those of the batch where these are fewer."""
        if len(bank.group_labels) <= len(rows):
            return cls(bank.group_labels, bank.group_sizes, bank.groups[rows])
        labels = bank.labels_of(rows)
        own = torch.arange(len(labels), device=labels.device)
        return cls(labels, torch.ones_like(own), own)

    def likelihood(self, codes: list[Tensor], label_codes: Tensor) -> Tensor:
        """Return the mean loss of every sample's codes, by each network, with codes of labels."""
        similar, label_codes = (
            similarity(self.labels[self.own], self.labels),
            label_codes.to(codes[0]),
        )
        counts = self.counts.to(label_codes)[None]
        losses = [pair_likelihood(u, label_codes, similar, counts) for u in codes]
        return torch.stack(losses).sum(dim=0)

    def losses(self, network: LabelNetwork, label_codes: Tensor) -> Tensor:
        """Return the loss that the label network has for every sample's own label."""
        return network.losses(label_codes, self.labels, self.counts)[self.own]
