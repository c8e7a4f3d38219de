"""Curves of a Hamming ranking: precision and recall by radius, precision by rank."""

from torch import Tensor

from pml_hashing.evaluation.ranking import HammingRanking


def precision_recall_by_radius(
    query_codes: Tensor,
    query_labels: Tensor,
    database_codes: Tensor,
    database_labels: Tensor,
    *,
    query_in_database: bool = False,
    block_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Precision and recall of the items within every Hamming radius, as means over all queries.

    This is the precision-recall curve of hash lookup. A query with no item within a radius counts
    with precision 0 there, and one without any relevant item with recall 0.

    Args:
        query_codes: Codes of the queries, as for `average_precision`.
        query_labels: Their class ids or multi-hot rows.
        database_codes: Codes of the database.
        database_labels: Their class ids or multi-hot rows.
        query_in_database: Whether item `i` of the database is query `i`, and does not count.
        block_size: Pairs of a query and an item that are held at a time.

    Returns:
        Precision and recall at radius 0, 1, ..., `code_length`, float64. The bits that pad packed
        codes are counted in `code_length`: the curve stays as it is from the last true bit on.

    Raises:
        TypeError: As `average_precision`.
        ValueError: As `average_precision`.

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
    ranking = HammingRanking(
        query_codes,
        query_labels,
        database_codes,
        database_labels,
        query_in_database=query_in_database,
        block_size=block_size,
    )
    return ranking.precision_by_radius().mean(dim=0), ranking.recall_by_radius().mean(dim=0)


def precision_by_rank(
    query_codes: Tensor,
    query_labels: Tensor,
    database_codes: Tensor,
    database_labels: Tensor,
    top_k: int | None = None,
    *,
    query_in_database: bool = False,
    block_size: int | None = None,
) -> Tensor:
    """P@N for every N up to `top_k`, as a mean over all queries and all orders inside ties.

    Args:
        query_codes: Codes of the queries, as for `average_precision`.
        query_labels: Their class ids or multi-hot rows.
        database_codes: Codes of the database.
        database_labels: Their class ids or multi-hot rows.
        top_k: The largest N. The whole database if `None`, or if it is smaller.
        query_in_database: Whether item `i` of the database is query `i`, and does not count.
        block_size: Pairs of a query and an item that are held at a time.

    Returns:
        Element `i` is what `precision_at_k` is for `i + 1`, float64, `(top_k,)`.

    Raises:
        TypeError: As `average_precision`.
        ValueError: As `average_precision`.
    """
    ranking = HammingRanking(
        query_codes,
        query_labels,
        database_codes,
        database_labels,
        query_in_database=query_in_database,
        block_size=block_size,
    )
    return ranking.precision_by_rank(top_k)
