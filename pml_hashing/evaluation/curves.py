"""Curves of a Hamming ranking: precision and recall by radius, precision by rank."""

from typing import Unpack

from torch import Tensor

from pml_hashing.evaluation.ranking import HammingRanking, LookupOptions, RankingOptions


def precision_recall_by_radius(
    query_codes: Tensor,
    query_labels: Tensor | None,
    database_codes: Tensor,
    database_labels: Tensor | None,
    **options: Unpack[LookupOptions],
) -> tuple[Tensor, Tensor]:
    """Precision and recall of the items within every Hamming radius, as means over all queries.

    This is the precision-recall curve of hash lookup. A query with no item within a radius counts
    with precision 0 there, and one without relevant items with recall 0.

    Args:
        query_codes: Codes of the queries, as for `average_precision`.
        query_labels: Their class ids or multi-hot rows.
        database_codes: Codes of the database.
        database_labels: Their class ids or multi-hot rows.
        **options: As for `precision_within_radius`.

    Returns:
        Precision and recall at radius 0, 1, ..., `code_length`, float64. The bits that pad packed
        codes are counted in `code_length`: the curve stays as it is from the last true bit on.

    Raises:
        TypeError: As `HammingRanking`.
        ValueError: As `HammingRanking`.

    Examples:
        >>> import torch
        >>> from pml_hashing.evaluation import precision_recall_by_radius
        >>> database = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, -1.0]])
        >>> labels = torch.tensor([0, 0, 0, 1])
        >>> precision, recall = precision_recall_by_radius(
        ...     database[:1], labels[:1], database, labels
        ... )
        >>> precision  # 1 of 1, 2 of 2, 3 of 4
        tensor([1.0000, 1.0000, 0.7500], dtype=torch.float64)
        >>> recall
        tensor([0.3333, 0.6667, 1.0000], dtype=torch.float64)
    """
    data = query_codes, query_labels, database_codes, database_labels
    ranking = HammingRanking(*data, **options)
    return ranking.precision_by_radius().mean(dim=0), ranking.recall_by_radius().mean(dim=0)


def precision_by_rank(
    query_codes: Tensor,
    query_labels: Tensor | None,
    database_codes: Tensor,
    database_labels: Tensor | None,
    top_k: int | None = None,
    **options: Unpack[RankingOptions],
) -> Tensor:
    """P@N for every N up to `top_k`, as a mean over all queries.

    Args:
        query_codes: Codes of the queries, as for `average_precision`.
        query_labels: Their class ids or multi-hot rows.
        database_codes: Codes of the database.
        database_labels: Their class ids or multi-hot rows.
        top_k: The largest N. The whole database if `None`, or if it is smaller.
        **options: As for `average_precision`.

    Returns:
        Element `i` is what `precision_at_k` is for `i + 1`, float64, `(top_k,)`.

    Raises:
        TypeError: As `average_precision`.
        ValueError: As `average_precision`.
    """
    data = query_codes, query_labels, database_codes, database_labels
    return HammingRanking(*data, **options).precision_by_rank(top_k)
