"""What "similar" means: two samples are similar if they share at least one label."""

from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from pml_hashing._checks import check_same_kind, require_labels
from pml_hashing._compat import loss_and_miner_utils as lmu
from pml_hashing.label_rows import LabelRows, one_of_each

ROWS_COMPARED = 2048
"""Rows of which `similar_sums` looks at all pairs."""
ROWS_OF_A_TILE = 1024
""" ... so many by so many at a time: 4 MB of them."""

IndicesTuple: TypeAlias = tuple[Tensor, ...]
"""PML's pairs `(anchors, positives, anchors, negatives)` or triplets, as indices into a batch."""
OF_INDICES = (torch.int32, torch.int64)  # torch takes bytes and booleans for masks


def check_indices_tuple(
    indices_tuple: Any, what: str, num_anchors: int, num_others: int
) -> IndicesTuple:
    """Return a miner's pairs or triplets, or raise unless they are some.

    Args:
        indices_tuple: Whatever a caller passed, or a miner returned.
        what: Where they come from, for the message.
        num_anchors: Samples that the anchors are places of.
        num_others: Samples that all else are places of. Places on a GPU are not checked.

    Raises:
        TypeError: If they are no tensors of integers.
        ValueError: If there are not three tensors of one length, or four of two lengths, or a place
            is out of range.
    """
    is_several = isinstance(indices_tuple, tuple | list | Tensor)
    places = tuple(indices_tuple) if is_several else (indices_tuple,)
    kinds = [p.dtype if isinstance(p, Tensor) else type(p).__name__ for p in places]
    if not all(kind in OF_INDICES for kind in kinds):
        got = ", ".join(map(str, kinds))
        raise TypeError(f"Expected {what} to hold tensors of int64 or int32, got {got}.")
    shapes = [tuple(p.shape) for p in places]
    pairs = (shapes[:2], shapes[2:]) if len(shapes) == 4 else (shapes,)
    lengths_fit = all(len(set(shape)) == 1 and len(shape[0]) == 1 for shape in pairs)
    if len(shapes) not in (3, 4) or not lengths_fit:
        got = ", ".join(map(str, shapes)) or None
        raise ValueError(
            f"Expected {what} to hold triplets, three tensors of one length, or pairs, four "
            f"(anchors and similar, anchors and dissimilar), got shapes {got}."
        )
    for i, place in enumerate(places):
        is_anchor = i == 0 or (i == 2 and len(places) == 4)
        _check_range(
            place, num_anchors if is_anchor else num_others, f"{what} to hold in tensor {i}"
        )
    return places


def _check_range(places: Tensor, size: int, what: str) -> None:
    if places.is_cpu and len(places) > 0:  # reading values back from a GPU would stop it
        low, high = map(int, places.aminmax())
        if low < 0 or high >= size:
            raise ValueError(f"Expected {what} places from 0 to {size - 1}, got {low} to {high}.")


def similarity(labels: Tensor, ref_labels: Tensor) -> Tensor:
    """Return a boolean matrix, true where a row of `labels` and one of `ref_labels` are similar.

    Args:
        labels: Class ids `(n,)` or multi-hot rows `(n, num_classes)`.
        ref_labels: Labels of the same kind, `(m,)` or `(m, num_classes)`.

    Raises:
        ValueError: If one side holds class ids and the other multi-hot rows, or the two hold
            multi-hot rows of different widths.

    Examples:
        >>> import torch
        >>> from pml_hashing.pairs import similarity
        >>> similarity(torch.tensor([[1, 1, 0]]), torch.tensor([[0, 1, 1], [0, 0, 1]]))
        tensor([[ True, False]])
    """
    check_same_kind(labels=labels, ref_labels=ref_labels)
    if labels.ndim == 1:
        return labels[:, None] == ref_labels[None, :]
    return labels.float() @ ref_labels.float().T > 0


def both_kinds(labels: Tensor, ref_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return masks of the similar and of the dissimilar pairs.

    A sample is never paired with itself, which is known from `ref_labels` being the same object as
    `labels`.
    """
    similar = similarity(labels, ref_labels)
    dissimilar = ~similar
    if ref_labels is labels:
        similar.fill_diagonal_(False)
        dissimilar.fill_diagonal_(False)  # a multi-hot row may be empty
    return similar, dissimilar


def to_pairs(
    indices_tuple: IndicesTuple | None, labels: Tensor | None, ref_labels: Tensor | None
) -> IndicesTuple:
    """Return the miner's pairs, or all pairs of the batch where no miner chose any.

    This is PML's `convert_to_pairs` for labels of both kinds. A sample is never paired with
    itself: see `both_kinds`.

    Raises:
        ValueError: If neither labels nor pairs are given, or multi-hot rows hold other values than
            0 and 1.
    """
    if indices_tuple is not None:
        return lmu.convert_to_pairs(indices_tuple, labels, ref_labels)
    labels, ref_labels = require_both(labels, ref_labels)
    masks = both_kinds(labels, ref_labels)
    return (*torch.where(masks[0]), *torch.where(masks[1]))


def require_both(labels: Tensor | None, ref_labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the labels of both sides of all pairs, or raise if they are missing or wrong.

    Raises:
        ValueError: If they are missing or of two kinds, or multi-hot rows hold other values than 0
            and 1.
    """
    if labels is None:
        raise ValueError("Expected `labels` or `indices_tuple`, got neither.")
    if ref_labels is None:
        raise ValueError("Expected `ref_labels` or `indices_tuple` with `ref_emb`, got neither.")
    check_same_kind(labels=labels, ref_labels=ref_labels)
    return require_labels(labels), require_labels(ref_labels, "ref_labels")


def affinity(labels: Tensor, ref_labels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    r"""Return the class-structure weights between two sets of samples, as a matrix.

    $$A_{ij} = \frac{1}{\lvert y_i \rvert} \sum_c \frac{Y_{ic}\, Y^{ref}_{jc}}{n_c}$$

    where $n_c$ counts class $c$ in the reference set. A row averages over the reference samples of
    a class, and over the classes of its sample: it sums to 1 if every class of the sample occurs
    in the reference set. This is for batches: for a data set, see `CodeBank`.

    Args:
        labels: Class ids `(n,)` or multi-hot rows `(n, num_classes)`.
        ref_labels: Labels of the same kind, `(m,)` or `(m, num_classes)`.
        dtype: Of the result.

    Returns:
        Weights, `(n, m)`.

    Examples:
        >>> import torch
        >>> from pml_hashing.pairs import affinity
        >>> affinity(torch.tensor([0, 1]), torch.tensor([0, 0, 1]))
        tensor([[0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 1.0000]])
    """
    if labels.ndim == 1:
        similar = similarity(labels, ref_labels).to(dtype)
        return similar / similar.sum(dim=1, keepdim=True).clamp(min=1)
    rows, columns = labels.to(dtype), ref_labels.to(dtype)
    rows = rows / rows.sum(dim=1, keepdim=True).clamp(min=1)
    return rows @ (columns / columns.sum(dim=0).clamp(min=1)).T


def mined_affinity(
    indices_tuple: IndicesTuple,
    codes: Tensor,
    ref_codes: Tensor,
    labels: Tensor | None,
    ref_labels: Tensor | None,
) -> Tensor:
    """Return the affinity of `codes` to `ref_codes` whose edges are a miner's similar pairs."""
    anchors, similar, *_ = to_pairs(indices_tuple, labels, ref_labels)
    graph = codes.new_zeros(len(codes), len(ref_codes))
    graph[anchors, similar] = 1.0
    return graph / graph.sum(dim=1, keepdim=True).clamp(min=1)


def classes_of_batch(labels: Tensor) -> tuple[Tensor, int]:
    """Return labels of a batch with a number of classes, reading nothing back from the device.

    Class ids are replaced by the first places at which they stand in the batch.
    """
    if labels.ndim == 2:
        return labels, labels.shape[1]
    return similarity(labels, labels).int().argmax(dim=1), len(labels)


class LabelGroups(NamedTuple):
    """Samples grouped by label: work that depends on labels alone is done once per group."""

    labels: Tensor | LabelRows
    """One label of each group: class ids `(d,)` or multi-hot rows `(d, num_classes)`."""
    membership: Tensor
    """The group of every sample, `(n,)`."""

    @classmethod
    def unique(cls, labels: Tensor, num_classes: int) -> "LabelGroups":
        """Group equal labels: class ids by class, multi-hot rows by their distinct values."""
        if labels.ndim == 1:
            return cls.each(labels.clone(), num_classes)  # the caller's own may change
        return cls(*LabelRows.of(labels).distinct())

    @classmethod
    def each(cls, labels: Tensor, num_classes: int) -> "LabelGroups":
        """Group class ids by class, but leave every multi-hot row a group of its own."""
        if labels.ndim == 1:
            return cls(torch.arange(num_classes, device=labels.device), labels.long())
        return cls(labels, torch.arange(len(labels), device=labels.device))


def similar_sums(values: Tensor, labels: Tensor | LabelRows) -> Tensor:
    r"""Return $\sum_j [y_i \sim y_j]\, v_j$ of every row.

    A few rows are compared with each other. Of many, two that are similar are counted at the first
    of the classes that they share, from the most frequent class on. At class $c$ only the classes
    before it matter, which few distinct sets of rows differ in: time is far below $d^2$ where rows
    have few labels. Memory is a few numbers for each label and value.

    Args:
        values: One row $v_j$ per label, `(d, width)`.
        labels: Distinct class ids `(d,)` or multi-hot rows `(d, num_classes)`.
    """
    if isinstance(labels, Tensor) and labels.ndim == 1:  # each is similar to itself alone
        return values
    if len(labels) <= ROWS_COMPARED:
        return _sums_by_rows(values, labels)
    ones = labels if isinstance(labels, LabelRows) else LabelRows.of(labels)
    counts, order = ones.classes.bincount(minlength=ones.num_classes).sort(descending=True)
    # Before the class of rank c, rows can differ in c classes.
    sets = torch.minimum(counts, 2 ** torch.arange(len(counts), device=counts.device).clamp(max=40))
    if 2 * sets.double().square().sum() > len(labels) ** 2:
        return _sums_by_rows(values, ones)
    return _sums_by_classes(values, replace(ones, classes=order.argsort()[ones.classes]))


def _sums_by_classes(values: Tensor, labels: LabelRows) -> Tensor:
    """Return `similar_sums` of rows whose classes stand in descending order of frequency."""
    sums, sets, num_sets = torch.zeros_like(values), labels.starts.new_zeros(len(labels)), 1
    for label, rows in labels.by_class():
        # Rows with this class: groups of them have the same classes before it, in `sets`.
        of_class, groups = sets[rows].unique(return_inverse=True)
        before = labels.select(rows[one_of_each(groups, len(of_class))])
        before = before.where(before.classes < label)
        totals = values.new_zeros(len(of_class), values.shape[1]).index_add_(
            0, groups, values[rows]
        )
        apart = totals.sum(dim=0) - similar_sums(totals, before)  # no class before is shared
        sums[rows] += apart[groups]
        sets[rows] = num_sets + groups
        num_sets += len(of_class)
    return sums


def _sums_by_rows(values: Tensor, labels: Tensor | LabelRows) -> Tensor:
    """Return `similar_sums` from tiles of all pairs, in a room that is taken once."""
    sums, size = torch.zeros_like(values), min(ROWS_OF_A_TILE, len(labels))
    room = values.new_empty(size * size)
    for start in range(0, len(labels), size):
        these = slice(start, start + size)
        rows = _dense(labels, these, values.dtype)
        for ref_start in range(0, len(labels), size):
            refs = slice(ref_start, ref_start + size)
            columns = _dense(labels, refs, values.dtype)
            shared = room[: len(rows) * len(columns)].view(len(rows), len(columns))
            torch.mm(rows, columns.T, out=shared).clamp_(max=1)  # labels that both have
            sums[these].addmm_(shared, values[refs])
    return sums


def _dense(labels: Tensor | LabelRows, rows: slice, dtype: torch.dtype) -> Tensor:
    return (labels[rows] if isinstance(labels, Tensor) else labels.dense(rows)).to(dtype)
