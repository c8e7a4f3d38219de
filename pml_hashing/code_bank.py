"""What a discrete method remembers of a data set: labels, binary codes, the networks' codes."""

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pml_hashing._checks import check_at_least, check_choice, check_label_values
from pml_hashing.pairs import LabelGroups
from pml_hashing.solvers import class_sums, label_counts, label_sums

ROWS_OF_A_BLOCK = 65536

Rows: TypeAlias = Tensor | slice
"""Some samples of a data set: their places, or a slice of it."""


def moments(values: Tensor) -> Tensor:
    r"""Return $(1, v_i, \lVert v_i \rVert^2)$ of every row, `(n, 1 + width + 1)`.

    Weighted sums of these rows give weighted sums of squared distances: see `spread`.
    """
    square = values.square().sum(dim=1, keepdim=True)
    return torch.cat([torch.ones_like(square), values, square], dim=1)


def spread(values: Tensor, sums: Tensor) -> Tensor:
    r"""Return $\sum_j A_{ij} \lVert x_i - v_j \rVert^2$ of every row, from sums of moments.

    Args:
        values: The rows $x_i$, `(n, width)`.
        sums: The sums $\sum_j A_{ij}\,(1, v_j, \lVert v_j \rVert^2)$, `(n, 1 + width + 1)`.

    Returns:
        One value a row, `(n,)`.
    """
    weight, mean, square = sums[:, 0], sums[:, 1:-1], sums[:, -1]
    return weight * values.square().sum(dim=1) - 2 * (values * mean).sum(dim=1) + square


def gram_of(values: Tensor) -> Tensor:
    r"""Return $(1, V)^\top (1, V)$, `(1 + width, 1 + width)`."""
    rows = torch.cat([torch.ones_like(values[:, :1]), values], dim=1)
    return rows.T @ rows


class CodeBank(nn.Module):
    r"""The labels, binary codes and latest network outputs of all $n$ samples of a data set.

    A loss with discrete variables reads and writes it, sample by sample through `sample_indices`,
    and improves the binary codes once a round (`update_codes` of the loss). As an entry of a
    trainer's `models` (`models={"trunk": ..., "code_bank": bank}`) it is saved and resumed there.

    Memory is $O(nK + nC)$, and no $n \times n$ matrix exists: samples see each other through the
    class-structure weights

    $$Q = \operatorname{diag}(1 / \lvert y_i \rvert)\, Y \operatorname{diag}(1 / n_c)\, Y^\top$$

    whose products cost $O(nK)$ by class sums. Equal label rows are stored once. A sample without
    any label has no similar sample: its row and column of $Q$ are 0.

    Args:
        labels: Class ids `(n,)` or multi-hot rows `(n, num_classes)`, in the order of the data set.
        code_length: Number of bits $K$.
        num_classes: Number of classes. The largest class id plus 1, or the width, if `None`.
        num_networks: 2 where a second network encodes the database, else 1.
        query_binary_codes: Keep a set of binary codes for the first network too, for the losses
            that learn one for each.

    Attributes:
        binary_codes: The codes $B$, -1 and 1, int8 `(n, code_length)`: all 1 until a loss starts.
            They are the codes to search in.
        query_binary_codes: Those of the first network, alike; `None` where there is one set.
        query_codes: Latest codes $U$ of the first network, float32 `(n, code_length)`.
        database_codes: Those of the second network, $V$; `None` with one network.
        group_labels: The distinct labels; beside it `groups`, that of every sample, and
            `group_sizes`, how many samples have each.
        code_sums: $Y^\top B$, `(num_classes, code_length)`; beside it `code_total`, $B^\top 1$, and
            `code_gram`, $B^\top B$.
        query_gram: $(1, U)^\top (1, U)$, `(1 + code_length, 1 + code_length)`: how many samples
            there are, the sums of their bits, and those of products of two bits.
        database_gram: That of $V$; `None` with one network.
        similar_sums: Sums over similar samples, of a loss with an inner-product term.
        class_weights: Matrices that regress labels on codes or codes on labels, as the loss has
            it: `(2, code_length, num_classes)`.
        started: Whether a loss has set the codes that training starts from.

    Raises:
        TypeError: If class ids are no integers.
        ValueError: If `labels` is empty or of a wrong shape, or holds a class out of range.

    Examples:
        >>> import torch
        >>> from pml_hashing import CodeBank
        >>> bank = CodeBank(torch.tensor([0, 1, 1]), code_length=8)
        >>> bank.binary_codes.shape, bank.num_classes
        (torch.Size([3, 8]), 2)
    """

    group_labels: Tensor
    groups: Tensor
    group_sizes: Tensor
    class_counts: Tensor
    binary_codes: Tensor
    query_binary_codes: Tensor | None
    query_codes: Tensor
    database_codes: Tensor | None
    code_sums: Tensor
    code_total: Tensor
    code_gram: Tensor
    query_sums: Tensor
    database_sums: Tensor | None
    query_gram: Tensor
    database_gram: Tensor | None
    similar_sums: Tensor
    class_weights: Tensor

    def __init__(
        self,
        labels: Tensor,
        code_length: int,
        *,
        num_classes: int | None = None,
        num_networks: int = 1,
        query_binary_codes: bool = False,
    ) -> None:
        super().__init__()
        labels = torch.as_tensor(labels)
        if labels.ndim not in (1, 2) or 0 in labels.shape:
            raise ValueError(
                "Expected `labels` of shape (n,) with class ids or (n, num_classes) with multi-hot "
                f"rows, not empty, got {tuple(labels.shape)}."
            )
        check_at_least(code_length, 1, "code_length")
        check_choice(num_networks, (1, 2), "num_networks")
        if num_classes is None:
            num_classes = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
        check_label_values(labels, num_classes, "labels")
        shape = (len(labels), code_length)
        codes = [torch.zeros(shape, device=labels.device) for _ in range(num_networks)]
        self._register(LabelGroups.unique(labels, num_classes), num_classes, *codes)
        if query_binary_codes:
            self.query_binary_codes = torch.ones_like(self.binary_codes)

    @classmethod
    def of_batch(cls, labels: Tensor, num_classes: int, *codes: Tensor) -> "CodeBank":
        """Return the bank of one batch, reading nothing back from the device.

        Args:
            labels: Labels of the batch.
            num_classes: Number of classes.
            *codes: Codes of the batch by the first network, and by the second where there is one.
        """
        bank = cls.__new__(cls)
        nn.Module.__init__(bank)
        bank._register(LabelGroups.each(labels, num_classes), num_classes, *codes)
        bank.refresh()
        return bank

    def _register(self, groups: LabelGroups, num_classes: int, *codes: Tensor) -> None:
        code_length = codes[0].shape[1]
        self.num_classes, self.code_length = num_classes, code_length
        self.register_buffer("group_labels", groups.labels)
        self.register_buffer("groups", groups.membership)
        self.register_buffer("binary_codes", torch.ones_like(codes[0], dtype=torch.int8))
        self.register_buffer("query_binary_codes", None)
        self.register_buffer("query_codes", codes[0])
        self.register_buffer("database_codes", codes[1] if len(codes) == 2 else None)
        zeros = codes[0].new_zeros
        sizes = self.group_sums(zeros(len(self), 1) + 1)
        self.register_buffer("group_sizes", sizes.flatten())
        counts = class_sums(sizes, self.group_labels, num_classes)
        self.register_buffer("class_counts", counts.flatten())
        self.register_buffer("code_sums", zeros(num_classes, code_length))
        self.register_buffer("code_total", zeros(code_length))
        self.register_buffer("code_gram", zeros(code_length, code_length))
        sums, gram = (2, num_classes, code_length + 2), (1 + code_length, 1 + code_length)
        self.register_buffer("query_sums", zeros(sums))
        self.register_buffer("query_gram", zeros(gram))
        self.register_buffer("database_sums", zeros(sums) if len(codes) == 2 else None)
        self.register_buffer("database_gram", zeros(gram) if len(codes) == 2 else None)
        self.register_buffer("similar_sums", zeros(len(groups.labels), code_length + 1))
        self.register_buffer("class_weights", zeros(2, code_length, num_classes))
        self.started = False

    def __len__(self) -> int:
        return len(self.groups)

    def get_extra_state(self) -> dict[str, bool]:
        return {"started": self.started}

    def set_extra_state(self, state: dict[str, bool]) -> None:
        self.started = state["started"]

    def extra_repr(self) -> str:
        return f"{len(self)} samples, {self.code_length} bits, {self.num_classes} classes"

    @property
    def networks(self) -> list[tuple[Tensor, Tensor]]:
        """The codes of each network, with their class sums."""
        pairs = ((self.query_codes, self.query_sums), (self.database_codes, self.database_sums))
        return [(codes, sums) for codes, sums in pairs if codes is not None and sums is not None]

    @property
    def network_grams(self) -> list[Tensor]:
        r"""$(1, U)^\top (1, U)$ of each network."""
        return [gram for gram in (self.query_gram, self.database_gram) if gram is not None]

    def labels_of(self, rows: Rows) -> Tensor:
        """Return the labels of some samples, class ids or multi-hot rows as they were given."""
        return self.group_labels[self.groups[rows]]

    def row_blocks(self, progress: bool = False) -> Iterator[slice]:
        """Yield slices that cover all samples, with a progress bar if asked."""
        starts: Iterable[int] = range(0, len(self), ROWS_OF_A_BLOCK)
        if progress and len(self) > ROWS_OF_A_BLOCK:
            starts = tqdm(starts, desc="updating codes", leave=False)
        for start in starts:
            yield slice(start, start + ROWS_OF_A_BLOCK)

    def row_average(self, sums: Tensor, labels: Tensor) -> Tensor:
        r"""Return $(Q V)_i$ for samples of these labels, from the class sums $Y^\top V$."""
        average = self.column_average(sums, labels)
        return average / label_counts(labels, sums.dtype).clamp(min=1)[:, None]

    def column_average(self, sums: Tensor, labels: Tensor) -> Tensor:
        r"""Return $(Q^\top V)_i$, from the class sums $Y^\top \operatorname{diag}(1/|y|) V$."""
        return label_sums(sums / self.class_counts.clamp(min=1)[:, None], labels)

    def label_gram(self) -> Tensor:
        r"""Return $Y^\top Y$, how often two classes occur together."""
        if self.group_labels.ndim == 1:
            return self.class_counts.diag()
        labels = self.group_labels.to(self.group_sizes)
        return labels.T @ (labels * self.group_sizes[:, None])

    def graph_sums(self, values: Tensor, groups: Tensor | None = None) -> Tensor:
        r"""Return the class sums of `moments` for the rows of $Q$, and those for its columns."""
        groups = self.groups if groups is None else groups
        rows = moments(values)
        sizes = label_counts(self.group_labels[groups], rows.dtype).clamp(min=1)[:, None]
        return torch.stack([self.class_sums(r, groups) for r in (rows, rows / sizes)])

    def group_sums(self, values: Tensor, groups: Tensor | None = None) -> Tensor:
        r"""Return the sum of the rows of `values` over each group of equal labels."""
        sums = values.new_zeros(len(self.group_labels), values.shape[1])
        return sums.index_add(0, self.groups if groups is None else groups, values)

    def class_sums(self, values: Tensor, groups: Tensor | None = None) -> Tensor:
        r"""Return $Y^\top V$ for samples of these groups, of all samples if `None`."""
        if len(values) < len(self.group_labels):
            labels = self.group_labels[self.groups if groups is None else groups]
            return class_sums(values, labels, self.num_classes)
        return class_sums(self.group_sums(values, groups), self.group_labels, self.num_classes)

    @torch.no_grad()
    def store(self, rows: Tensor, *codes: Tensor) -> None:
        """Remember the latest codes of some samples, and their class sums.

        Args:
            rows: Places of the samples in the data set, `(batch_size,)`. Of a sample that occurs
                more than once, as some samplers have it, the last code counts.
            *codes: Codes by the first network, and by the second where there is one. Values that
                are not finite, as of a step that float16 skips, are not remembered.
        """
        ordered, order = rows.sort(stable=True)
        last = order[torch.searchsorted(ordered, rows, right=True) - 1]
        once = (last == torch.arange(len(rows), device=rows.device))[:, None]
        network_codes = zip(self.networks, self.network_grams, codes, strict=True)
        for (kept, sums), gram, new in network_codes:
            groups, earlier, latest = self.groups[rows], kept[rows], new.to(kept.dtype)[last]
            latest = torch.where(latest.isfinite(), latest, earlier)  # else all sums would be NaN
            counted = torch.where(once, latest, earlier)
            sums.add_(self.graph_sums(counted, groups) - self.graph_sums(earlier, groups))
            gram.add_(gram_of(counted) - gram_of(earlier))
            kept[rows] = latest

    @torch.no_grad()
    def refresh(self) -> None:
        """Sum all codes anew, so that rounding does not add up."""
        self.refresh_binary_codes()
        for (codes, sums), gram in zip(self.networks, self.network_grams, strict=True):
            sums.zero_()
            gram.zero_()
            for block in self.row_blocks():
                sums.add_(self.graph_sums(codes[block], self.groups[block]))
                gram.add_(gram_of(codes[block]))

    @torch.no_grad()
    def refresh_binary_codes(self) -> None:
        """Sum the binary codes anew: after a discrete step."""
        for sums in (self.code_sums, self.code_total, self.code_gram):
            sums.zero_()
        for block in self.row_blocks():
            codes = self.binary_codes[block].to(self.code_sums)
            self.code_sums += self.class_sums(codes, self.groups[block])
            self.code_total += codes.sum(dim=0)
            self.code_gram += codes.T @ codes
