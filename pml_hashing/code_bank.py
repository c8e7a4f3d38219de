"""What a discrete method remembers of a data set: labels, binary codes, the networks' codes."""

from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from pml_hashing._arrays import to_labels
from pml_hashing._checks import (
    check_choice,
    check_code_length,
    check_kind_of_labels,
    check_label_values,
    check_num_classes,
    check_sample_indices,
    num_classes_of,
)
from pml_hashing._kept_variables import KeptVariables, Variables
from pml_hashing._progress import progress_bar
from pml_hashing.codes import binarize_unchecked
from pml_hashing.label_rows import LabelRows
from pml_hashing.moments import gram_of, moments
from pml_hashing.pairs import LabelGroups
from pml_hashing.solvers import class_sums, label_counts, label_sums

ROWS_OF_A_BLOCK = 65536

Rows: TypeAlias = Tensor | slice
"""Some samples of a data set: their places, or a slice of it."""

Statistic: TypeAlias = Literal["code_sums", "code_gram", "class_moments", "network_gram"]
"""What a bank can sum over all samples: see `CodeBank.sums`."""

OF_BINARY_CODES = ("code_sums", "code_gram")
OF_NETWORKS = ("class_moments", "network_gram")

T = TypeVar("T")


class CodeBank(nn.Module):
    r"""The labels, binary codes and latest network outputs of all $n$ samples of a data set.

    A loss with discrete variables reads and writes it, sample by sample through `sample_indices`,
    and improves the binary codes once per round (`update_codes` of the loss). As an entry of a
    trainer's `models` (`models={"trunk": ..., "code_bank": bank}`) it is saved and resumed there.

    Memory is $O(nK)$ and a few numbers for each label, and no $n \times n$ matrix exists: samples
    see each other through the class-structure weights

    $$Q = \operatorname{diag}(1 / \lvert y_i \rvert)\, Y \operatorname{diag}(1 / n_c)\, Y^\top$$

    whose products cost $O(nK)$ by class sums. Equal label rows are stored once, and of multi-hot
    rows the ones alone. A sample without any label has no similar sample: its row and column of $Q$
    are 0.

    The terms of an objective keep here what they learn of the data set, each under its name
    (`keep`, `variables`), and ask for sums over it, which are kept up to date from then on
    (`sums`). A term that comes later, as that of another loss, starts from the codes that it finds.

    Args:
        labels: Class ids `(n,)` or multi-hot rows `(n, num_classes)`, in the order of the data set.
        code_length: Number of bits $K$.
        num_classes: Number of classes. The largest class id plus 1, or the width, if `None`.
        num_networks: 2 where a second network encodes the database, else 1.

    Attributes:
        binary_codes: The codes $B$, -1 and 1, int8 `(n, code_length)`: all 1 until a loss starts.
            They are the codes to search in. After writing to them call `codes_changed`.
        query_codes: Latest codes $U$ of the first network, float32 `(n, code_length)`.
        database_codes: Those of the second network, $V$; `None` with one network.
        groups: Which of the distinct labels every sample has, `(n,)`; beside it `group_sizes`,
            how many samples have each.
        class_counts: How many samples have each class, `(num_classes,)`.
        started: Whether a loss has set the binary codes that training starts from.
        version: How often the binary codes have changed.

    Raises:
        TypeError: If class ids are no integers.
        ValueError: If `labels` is empty or of a wrong shape, or holds a class out of range, which
            without `num_classes` is one of more than 16 million, or there are absurdly many classes
            or bits.

    Examples:
        >>> import torch
        >>> from pml_hashing import CodeBank
        >>> bank = CodeBank(torch.tensor([0, 1, 1]), code_length=8)
        >>> bank.binary_codes.shape, bank.num_classes
        (torch.Size([3, 8]), 2)
    """

    groups: Tensor
    group_sizes: Tensor
    class_counts: Tensor
    binary_codes: Tensor
    query_codes: Tensor
    database_codes: Tensor | None
    started: bool
    version: int

    def __init__(
        self,
        labels: Tensor,
        code_length: int,
        *,
        num_classes: int | None = None,
        num_networks: int = 1,
    ) -> None:
        super().__init__()
        labels = to_labels(labels, "labels")
        if labels.ndim not in (1, 2) or 0 in labels.shape:
            raise ValueError(
                "Expected `labels` of shape (n,) with class ids or (n, num_classes) with multi-hot "
                f"rows, not empty, got {tuple(labels.shape)}."
            )
        check_code_length(code_length)
        check_choice(num_networks, (1, 2), "num_networks")
        check_kind_of_labels(labels, "labels")
        if num_classes is None:
            num_classes = num_classes_of(labels)
        check_num_classes(num_classes)
        check_label_values(labels, num_classes, "labels")
        shape = (len(labels), code_length)
        codes = [torch.zeros(shape, device=labels.device) for _ in range(num_networks)]
        self._once: dict[object, Any] | None = None
        self._register(LabelGroups.unique(labels, num_classes), num_classes, *codes)

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
        bank._once = {}
        bank._register(LabelGroups.each(labels, num_classes), num_classes, *codes)
        return bank

    def _register(self, groups: LabelGroups, num_classes: int, *codes: Tensor) -> None:
        self.num_classes, self.code_length = num_classes, codes[0].shape[1]
        self._register_labels(groups.labels)
        self.register_buffer("groups", groups.membership)
        self.register_buffer("binary_codes", torch.ones_like(codes[0], dtype=torch.int8))
        self.register_buffer("query_codes", codes[0])
        self.register_buffer("database_codes", codes[1] if len(codes) == 2 else None)
        sizes = self.group_sums(codes[0].new_ones(len(self), 1))
        self.register_buffer("group_sizes", sizes.flatten())
        counts = class_sums(sizes, self.group_labels, num_classes)
        self.register_buffer("class_counts", counts.flatten())
        self.started, self.version = False, 0
        self._kept = KeptVariables()

    def _register_labels(self, labels: Tensor | LabelRows) -> None:
        self._most_labels = labels.most if isinstance(labels, LabelRows) else None
        if isinstance(labels, LabelRows):
            buffers = {"rows": labels.rows, "classes": labels.classes, "starts": labels.starts}
        else:
            buffers = {"labels": labels}
        for name, buffer in buffers.items():
            self.register_buffer(f"_group_{name}", buffer)

    def __len__(self) -> int:
        return len(self.groups)

    def get_extra_state(self) -> dict[str, Any]:
        return {
            "started": self.started,
            "version": self.version,
            "most_labels": self._most_labels,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.started, self.version = state["started"], state["version"]
        self._most_labels = state["most_labels"]

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        self._kept.make_room(state_dict, f"{prefix}_kept.", self.groups.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        return f"{len(self)} samples, {self.code_length} bits, {self.num_classes} classes"

    @property
    def is_batch(self) -> bool:
        """Whether these are the samples of one batch, and live no longer than it does."""
        return self._once is not None

    @property
    def group_labels(self) -> Tensor | LabelRows:
        """The distinct labels: class ids `(d,)`, or multi-hot rows; dense ones of a batch."""
        if self._most_labels is None:
            return self.get_buffer("_group_labels")
        rows, classes, starts = map(
            self.get_buffer, ("_group_rows", "_group_classes", "_group_starts")
        )
        return LabelRows(rows, classes, starts, self.num_classes, self._most_labels)

    @property
    def networks(self) -> list[Tensor]:
        """The codes of each network."""
        both = (self.query_codes, self.database_codes)
        return [codes for codes in both if codes is not None]

    def labels_of(self, rows: Rows) -> Tensor:
        """Return the labels of some samples, class ids or multi-hot rows as they were given."""
        return self.labels_of_groups(self.groups[rows])

    def labels_of_groups(self, groups: Rows = slice(None)) -> Tensor:
        """Return the labels of some groups, class ids or multi-hot rows as they were given."""
        labels = self.group_labels
        return labels.dense(groups) if isinstance(labels, LabelRows) else labels[groups]

    def check_labels(self, labels: Tensor, rows: Tensor) -> None:
        """Raise if labels of a batch are not those that the bank has for the same samples.

        Labels of two kinds are not compared, nor labels on a GPU: reading values back would stop
        it.

        Raises:
            ValueError: If they are others.
        """
        known = self.labels_of(rows)
        if labels.device.type != "cpu" or labels.shape != known.shape:
            return
        wrong = (labels.long() != known.long()).view(len(labels), -1).any(dim=1)
        if wrong.any():
            raise ValueError(
                "Expected `labels` of the samples at `sample_indices` as the code bank has them, "
                f"got others for {wrong.sum()} of {len(labels)}: is the data set in the bank's "
                "order?"
            )

    def check_rows(self, sample_indices: Tensor | None, size: int) -> Tensor:
        """Return `sample_indices` as rows of this bank, int64 and on its device.

        Raises:
            TypeError: If they are no tensor of integers.
            ValueError: If they are missing, not as many as `size`, or out of range.
        """
        rows = check_sample_indices(sample_indices, size, len(self))
        return rows.to(self.groups.device).long()  # uint8 would be a mask

    def row_blocks(self, progress: bool = False) -> Iterator[slice]:
        """Yield slices that cover all samples, with a progress bar if asked."""
        starts = range(0, len(self), ROWS_OF_A_BLOCK)
        shown = progress and len(starts) > 1
        with progress_bar(starts, "updating codes", shown=shown, leave=False) as bar:
            for start in bar:
                yield slice(start, start + ROWS_OF_A_BLOCK)

    def row_average(self, sums: Tensor, labels: Tensor | LabelRows) -> Tensor:
        r"""Return $(Q V)_i$ for samples of these labels, from the class sums $Y^\top V$."""
        average = self.column_average(sums, labels)
        return average / label_counts(labels, sums.dtype).clamp(min=1)[:, None]

    def column_average(self, sums: Tensor, labels: Tensor | LabelRows) -> Tensor:
        r"""Return $(Q^\top V)_i$, from the class sums $Y^\top \operatorname{diag}(1/|y|) V$."""
        return label_sums(sums / self.class_counts.clamp(min=1)[:, None], labels)

    def label_gram(self) -> Tensor:
        r"""Return $Y^\top Y$, how often two classes occur together."""
        labels = self.group_labels
        if isinstance(labels, LabelRows):
            return labels.gram(self.group_sizes)
        if labels.ndim == 1:
            return self.class_counts.diag()
        rows = labels.to(self.group_sizes)
        return rows.T @ (rows * self.group_sizes[:, None])

    def group_sums(self, values: Tensor, groups: Tensor | None = None) -> Tensor:
        r"""Return the sum of the rows of `values` over each group of equal labels."""
        sums = values.new_zeros(len(self.group_labels), values.shape[1])
        return sums.index_add(0, self.groups if groups is None else groups, values)

    def class_sums(self, values: Tensor, groups: Tensor | None = None) -> Tensor:
        r"""Return $Y^\top V$ for samples of these groups, of all samples if `None`."""
        if len(values) < len(self.group_labels):
            labels = self.labels_of_groups(self.groups if groups is None else groups)
            return class_sums(values, labels, self.num_classes)
        return class_sums(self.group_sums(values, groups), self.group_labels, self.num_classes)

    def once(self, key: object, compute: Callable[[], T]) -> T:
        """Return what `compute` gives: of one batch it is called once, of a data set each time."""
        if self._once is None:
            return compute()
        if key not in self._once:
            self._once[key] = compute()
        return self._once[key]

    def variables(self, name: str) -> Variables:
        """Return what the term of this name keeps here; nothing as long as it has not started."""
        return self._kept.of(name)

    def keeps(self, name: str, kind: str, *, current: bool = False) -> bool:
        """Return whether a term has variables here.

        Args:
            name: Its name.
            kind: What its variables mean.
            current: Whether they must be those of the binary codes as they are now.
        """
        return self._kept.has(name, kind, self.version if current else None)

    def keep(self, name: str, variables: Variables, kind: str) -> None:
        """Keep the variables of a term, for the binary codes as they are now."""
        if self.is_batch and not variables:
            return  # nobody asks again whether it has started
        self._kept.keep(name, variables, kind, self.version)

    @torch.no_grad()
    def sums(self, statistic: Statistic) -> list[Tensor]:
        r"""Return a sum over all samples, which is kept up to date from now on.

        Args:
            statistic: One sum of the binary codes: `"code_sums"`, $Y^\top B$,
                `(num_classes, code_length)`, or `"code_gram"`, $(1, B)^\top (1, B)$,
                `(1 + code_length, 1 + code_length)`; or a sum for each network:
                `"class_moments"`, the class sums of `moments` for the rows of $Q$, and those for
                its columns, `(2, num_classes, code_length + 2)`; or `"network_gram"`, like
                `"code_gram"`.
        """
        if not self.keeps(statistic, "sum", current=statistic in OF_BINARY_CODES):
            self._sum_anew(statistic)
        return list(self.variables(statistic).values())

    def _sum_anew(self, statistic: str) -> None:
        totals: Variables = {}
        sources = [self.binary_codes] if statistic in OF_BINARY_CODES else self.networks
        for place, codes in enumerate(sources):
            parts = (
                self._sum(statistic, codes[block].to(self.query_codes), self.groups[block])
                for block in self.row_blocks()
            )
            totals[f"sum_{place}"] = reduce(torch.add, parts)
        self.keep(statistic, totals, "sum")

    def _sum(self, statistic: str, codes: Tensor, groups: Tensor) -> Tensor:
        """Return a statistic of some samples, given their codes and groups."""
        if statistic in ("code_gram", "network_gram"):
            return gram_of(codes)
        if statistic == "code_sums":
            return self.class_sums(codes, groups)
        rows = moments(codes)
        sizes = label_counts(self.group_labels, rows.dtype)[groups].clamp(min=1)[:, None]
        both = self.class_sums(torch.cat([rows, rows / sizes], dim=1), groups)
        return torch.stack(both.tensor_split(2, dim=1))

    @torch.no_grad()
    def store(self, rows: Tensor, *codes: Tensor) -> None:
        """Remember the latest codes of some samples, and what is summed of them.

        Args:
            rows: Places of the samples in the data set, `(batch_size,)`. Of a sample that occurs
                more than once, as some samplers have it, the last code counts.
            *codes: Codes by the first network, and by the second where there is one. Values that
                are not finite, as of a step that float16 skips, are not remembered.
        """
        ordered, order = rows.sort(stable=True)
        last = order[torch.searchsorted(ordered, rows, right=True) - 1]
        once = (last == torch.arange(len(rows), device=rows.device))[:, None]
        groups = self.groups[rows]
        for place, (held, new) in enumerate(zip(self.networks, codes, strict=True)):
            earlier, latest = held[rows], new.to(held.dtype)[last]
            latest = torch.where(latest.isfinite(), latest, earlier)  # else all sums would be NaN
            counted = torch.where(once, latest, earlier)
            for statistic in filter(self._kept.__contains__, OF_NETWORKS):
                change = self._sum(statistic, counted, groups)
                total = self.variables(statistic)[f"sum_{place}"]
                total.add_(change - self._sum(statistic, earlier, groups))
            held[rows] = latest

    @torch.no_grad()
    def refresh(self) -> None:
        """Sum the networks' codes anew, so that rounding does not add up."""
        for statistic in filter(self._kept.__contains__, OF_NETWORKS):
            self._sum_anew(statistic)

    @torch.no_grad()
    def start_codes(self, codes: Tensor) -> None:
        """Set the binary codes that training starts from.

        Args:
            codes: Codes whose signs they are, one row for each group of equal labels.
        """
        self.binary_codes.copy_(binarize_unchecked(codes)[self.groups])
        self.started = True
        self.codes_changed()

    def codes_changed(self) -> None:
        """Tell that `binary_codes` have been written to: what depends on them is out of date."""
        self.version += 1
