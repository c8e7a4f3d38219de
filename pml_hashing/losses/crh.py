"""CRH (Yin et al., AAAI 2026): hash centers from a codebook, given anew to classes in training."""

import math
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from pml_hashing._checks import check_at_least, check_choice, check_positive
from pml_hashing.codes import binarize, bits_to_signs
from pml_hashing.label_rows import one_of_each
from pml_hashing.losses._base import BaseHashingLoss, LossDict
from pml_hashing.losses._classes import (
    batch_of_classes,
    check_sizes,
    margin_cosine_losses,
    sums_by_class,
)
from pml_hashing.pairs import IndicesTuple

Assignment: TypeAlias = Literal["hungarian", "greedy"]


class CRHLoss(BaseHashingLoss):
    r"""Cross entropy of cosines to hash centers that move to where their classes are.

    Reconstructed from the abstract and a description of the paper: its text and code were not
    available to us.

    $$
    \mathcal{L} = \frac{1}{n} \sum_i \left[ - \frac{1}{\lvert y_i \rvert} \sum_c y_{ic} \log
        \frac{e^{s (\cos(u_i, c_c) - m\, y_{ic})}}{\sum_k e^{s (\cos(u_i, c_k) - m\, y_{ik})}}
        + \frac{\lambda}{K} \sum_k \left( \lvert \tanh u_{ik} \rvert - 1 \right)^2 \right]
    $$

    where $u_i \in \mathbb{R}^K$ is the code of sample $i$ (no tanh bounds it), $y_i \in \{0, 1\}^C$
    its labels, and $c_c \in \{-1, 1\}^K$ the hash center of class $c$. The sub-losses are
    `class_loss` and `quantization_loss`. A sample without labels has only the second. Codes of a
    second network (`ref_emb`) add a loss of their own. Codes shorter than 0.001 are divided by
    that, not by their norm.

    A center is one sub-code of each of $H = K / d$ heads, whose codebooks $Z^h$ have $M = 2C$
    sub-codes of $d$ bits, drawn at random without repetition; $d$ is the smallest divisor of $K$
    with $2^d \ge M$. The discrete step, `reassign`, gives every class another sub-code of each
    head,

    $$
    \min_{a_h \text{ injective}} \sum_c \frac{1}{n_c} \sum_i \frac{y_{ic}}{\lvert y_i \rvert}
        \left\lVert \operatorname{sign}(u_i)^h - Z^h_{a_h(c)} \right\rVert^2,
        \quad n_c = \sum_i \frac{y_{ic}}{\lvert y_i \rvert}
    $$

    so that classes with similar codes get similar centers. `CRHSchedule` does it between epochs.
    Without it, centers stay as they were drawn.

    Args:
        num_classes: Number of classes $C$.
        code_length: Number of bits $K$.
        scale: Scale $s$ of the cosines. $\sqrt 2 \log(C - 1)$ if `None`; of two classes, for which
            this is 0, that of three.
        margin: Margin $m$.
        quantization_weight: Weight $\lambda$. The paper has 0 for several labels.
        seed: Seed of the codebooks, and of the first centers.
        **kwargs: Arguments of PML's losses: `reducer`, `embedding_regularizer`, ...

    Raises:
        ValueError: If a size is too small, there are fewer than $2C$ codes of $K$ bits, `scale` is
            not positive, or the margin or the weight is negative.

    Note: Differences from the paper
        Whether the samples' signs are those of the training steps, and what becomes of a class
        without samples, the description does not say: here they come from a pass of their own,
        and the class keeps its sub-codes if no other class takes them.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import CRHLoss
        >>> loss_func = CRHLoss(2, 2, scale=1, margin=0, quantization_weight=0)
        >>> loss_func.codebook.shape  # heads, sub-codes, bits
        torch.Size([1, 4, 2])
        >>> sums = torch.tensor([[3.0, 3.0], [2.0, -2.0]])
        >>> loss_func.reassign(sums, torch.tensor([3.0, 2.0]))
        >>> loss_func.class_codes
        tensor([[ 1.,  1.],
                [ 1., -1.]])
        >>> loss_func(torch.tensor([[3.0, 3.0]]), torch.tensor([0]))  # cosines 1, 0: log(1 + 1/e)
        tensor(0.3133)

    References:
        Yin et al., [Codebook-Centric Deep Hashing: End-to-End Joint Learning of Semantic Hash
        Centers and Neural Hash Function](https://arxiv.org/abs/2511.12162), AAAI 2026: abstract.
    """

    codebook: Tensor
    of_pairs = False
    class_codes: Tensor

    def __init__(
        self,
        num_classes: int,
        code_length: int,
        *,
        scale: float | None = None,
        margin: float = 0.2,
        quantization_weight: float = 0.1,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_sizes(num_classes, code_length)
        if scale is None:
            scale = math.sqrt(2) * math.log(max(num_classes - 1, 2))
        check_positive(scale, "scale")
        check_at_least(margin, 0, "margin")
        check_at_least(quantization_weight, 0, "quantization_weight")
        self.num_classes, self.code_length = num_classes, code_length
        self.scale, self.margin, self.quantization_weight = scale, margin, quantization_weight
        self.add_to_recordable_attributes(list_of_names=["scale", "margin"], is_stat=False)
        codebook = make_codebook(num_classes, code_length, seed)
        self.register_buffer("codebook", codebook)
        self.register_buffer("class_codes", torch.cat(list(codebook[:, :num_classes]), dim=1))

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        codes, rows = batch_of_classes(self.class_codes, embeddings, ref_emb, labels)
        losses = margin_cosine_losses(codes, self.class_codes, rows, self.scale, self.margin)
        quantization = (codes.tanh().abs() - 1).square().mean(dim=2).sum(dim=0)
        return {
            "class_loss": self.element_loss(losses),
            "quantization_loss": self.element_loss(self.quantization_weight * quantization),
        }

    def _sub_loss_names(self) -> list[str]:
        return ["class_loss", "quantization_loss"]

    @torch.no_grad()
    def reassign(
        self,
        code_sums: Tensor,
        class_counts: Tensor,
        *,
        assignment: Assignment = "hungarian",
        seed: int = 0,
    ) -> None:
        r"""Give every class, in each head, the sub-code that its samples' codes are nearest to.

        All squared distances of a class and its sub-codes are a constant less twice the inner
        product with the mean of the samples' binary codes, so sums are all that is needed.

        Args:
            code_sums: $\sum_i \frac{y_{ic}}{\lvert y_i \rvert} \operatorname{sign}(u_i)$,
                `(num_classes, code_length)`.
            class_counts: $n_c$, `(num_classes,)`. Where it is 0, the class keeps its sub-codes if
                no other class takes them.
            assignment: `"hungarian"` takes the least sum over the classes, in $O(C^2 M)$;
                `"greedy"` lets classes choose in random order, for thousands of them.
            seed: Seed of that order.

        Raises:
            ValueError: If a shape or `assignment` is wrong.
        """
        check_choice(assignment, ("hungarian", "greedy"), "assignment")
        shape = (self.num_classes, self.code_length)
        if code_sums.shape != shape or class_counts.shape != shape[:1]:
            raise ValueError(
                f"Expected `code_sums` of shape {shape} and `class_counts` of shape {shape[:1]}, "
                f"got {tuple(code_sums.shape)} and {tuple(class_counts.shape)}."
            )
        counts = class_counts[:, None].to(self.class_codes)
        means = code_sums.to(self.class_codes) / counts.clamp(min=1e-6)
        # So little that it only says which of equal sub-codes an absent class takes.
        means = torch.where(counts > 0, means, 1e-3 * self.class_codes)
        solve = _hungarian if assignment == "hungarian" else _greedy
        heads = means.chunk(len(self.codebook), dim=1)
        generator = torch.Generator("cpu").manual_seed(seed)  # of one head after the other
        chosen = [
            sub_codes[solve(head @ sub_codes.T, generator)]
            for head, sub_codes in zip(heads, self.codebook, strict=True)
        ]
        self.class_codes.copy_(torch.cat(chosen, dim=1))


def make_codebook(num_classes: int, code_length: int, seed: int) -> Tensor:
    """Return sub-codes, -1 and 1, float32 `(heads, 2 * num_classes, bits)`, on the CPU.

    Raises:
        ValueError: If there are fewer than `2 * num_classes` codes of `code_length` bits.
    """
    size = 2 * num_classes
    needed = (size - 1).bit_length()
    lengths = [d for d in range(needed, code_length + 1) if code_length % d == 0]
    if not lengths:
        raise ValueError(
            f"Expected `code_length` of at least {needed}, that 2 * num_classes = {size} codes are "
            f"distinct, got {code_length}."
        )
    length = lengths[0]
    generator = torch.Generator("cpu").manual_seed(seed)
    heads = [_distinct_codes(size, length, generator) for _ in range(code_length // length)]
    return torch.stack(heads)


def _distinct_codes(num_codes: int, length: int, generator: torch.Generator) -> Tensor:
    """Return random codes of which no two are equal: rows are drawn until there are enough."""
    codes = torch.empty(0, length, dtype=torch.long, device="cpu")
    while len(codes) < num_codes:
        more = torch.randint(2, (num_codes, length), generator=generator, device="cpu")
        codes = torch.cat([codes, more])
        distinct, groups = torch.unique(codes, dim=0, return_inverse=True)
        codes = codes[one_of_each(groups, len(distinct)).sort().values]
    return bits_to_signs(codes[:num_codes])


def _hungarian(agreement: Tensor, generator: torch.Generator) -> Tensor:
    """Return the column of each row, no two the same, with the largest sum."""
    columns = linear_sum_assignment(agreement.cpu().numpy(), maximize=True)[1]
    return torch.as_tensor(columns, device=agreement.device)


def _greedy(agreement: Tensor, generator: torch.Generator) -> Tensor:
    """Let rows choose the largest of the columns that are free, in random order."""
    free = agreement.cpu().clone()
    columns = torch.zeros(len(free), dtype=torch.long, device="cpu")
    for row in torch.randperm(len(agreement), generator=generator, device="cpu").tolist():
        columns[row] = free[row].argmax()
        free[:, columns[row]] = float("-inf")
    return columns.to(agreement.device)


class CRHSchedule:
    """The reassignment of CRH's centers between epochs.

    Call `step` at the end of every epoch, or give it to a trainer of PML as
    `lr_schedulers={"metric_loss_scheduler_by_epoch": ...}`, which saves and resumes it (the
    centers are saved with the loss).

    Args:
        loss_func: The loss.
        model: Maps inputs to codes: a `HashingModel`, or `torch.nn.Sequential(trunk, embedder)`.
        batches: Inputs and labels of the training set, such as a `DataLoader`; gone through once
            a reassignment.
        every_epoch_until: Centers are reassigned after each of the first so many epochs, ...
        then_every: ... and then after every so many.
        assignment: As for `CRHLoss.reassign`.
        seed: Seed of the order in which classes choose, where `assignment` is `"greedy"`.

    Raises:
        ValueError: If a number is too small, or `assignment` is no such name.

    Examples:
        >>> import torch
        >>> from pml_hashing.losses import CRHLoss, CRHSchedule
        >>> batches = [(torch.tensor([[1.0, 2.0], [3.0, -1.0]]), torch.tensor([0, 1]))]
        >>> loss_func = CRHLoss(2, 2)
        >>> CRHSchedule(loss_func, torch.nn.Identity(), batches).step()
        >>> loss_func.class_codes
        tensor([[ 1.,  1.],
                [ 1., -1.]])
    """

    def __init__(
        self,
        loss_func: CRHLoss,
        model: nn.Module,
        batches: Iterable[Any],
        *,
        every_epoch_until: int = 20,
        then_every: int = 5,
        assignment: Assignment = "hungarian",
        seed: int = 0,
    ) -> None:
        check_at_least(every_epoch_until, 0, "every_epoch_until")
        check_at_least(then_every, 1, "then_every")
        check_choice(assignment, ("hungarian", "greedy"), "assignment")
        self.loss_func, self.model, self.batches = loss_func, model, batches
        self.every_epoch_until, self.then_every = every_epoch_until, then_every
        self.assignment: Assignment = assignment
        self.seed, self.epoch = seed, 0

    def step(self) -> None:
        """End an epoch, and reassign the centers where it is time."""
        self.epoch += 1
        if self.epoch <= self.every_epoch_until or self.epoch % self.then_every == 0:
            self.reassign_centers()

    def reassign_centers(self) -> None:
        """Reassign the centers by the codes of all samples, with the model in eval mode.

        Raises:
            ValueError: If a label is out of range.
        """
        centers = self.loss_func.class_codes
        sums, counts = sums_by_class(self.model, self.batches, centers, binarize, shared=True)
        # One order an epoch, whatever came before: a resumed training goes on alike.
        seed = self.seed + self.epoch
        self.loss_func.reassign(sums, counts, assignment=self.assignment, seed=seed)

    def state_dict(self) -> dict[str, int]:
        """Return what `load_state_dict` takes: the number of epochs that have ended."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on after an epoch."""
        self.epoch = state_dict["epoch"]
