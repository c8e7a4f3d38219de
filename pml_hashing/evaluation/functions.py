"""The scores and curves asked for most, as functions of codes and labels."""

from typing import Unpack

from torch import Tensor

from pml_hashing.evaluation.metrics import PrecisionWithinRadius
from pml_hashing.evaluation.ranking import HammingRanking, LookupOptions, RankingOptions


def average_precision(
    query_codes: Tensor,
    query_labels: Tensor | None,
    database_codes: Tensor,
    database_labels: Tensor | None,
    top_k: int | None = None,
    **options: Unpack[RankingOptions],
) -> Tensor:
    r"""Return the average precision of every query, as the hashing literature defines it.

    $$
    \mathrm{AP@}k = \frac{1}{R_k} \sum_{r=1}^{k} P(r)\, \delta(r), \qquad
    P(r) = \frac{1}{r} \sum_{t=1}^{r} \delta(t), \qquad R_k = \sum_{r=1}^{k} \delta(r)
    $$

    where $\delta(r)$ is 1 if the item at rank $r$ shares a label with the query. A query with no
    relevant item among the first $k$ scores 0.

    Args:
        query_codes: Codes of the queries: real (their signs count) or binary `(num_queries,
            code_length)`, or packed (uint8).
        query_labels: Class ids `(num_queries,)` or multi-hot rows `(num_queries, num_classes)`.
        database_codes: Codes of the database, of the same kind and length.
        database_labels: Labels of the database, of the same kind.
        top_k: Number $k$ of items that count. The whole database if `None`, or if it is smaller.
        **options: Options of `HammingRanking`: `ties`, `relevance`, `query_in_database`,
            `asymmetric` and `block_size`.

    Returns:
        Numbers from 0 to 1, float64, `(num_queries,)`, on the device of `query_codes`.

    Raises:
        TypeError: As `HammingRanking`, and if `top_k` is not an integer.
        ValueError: As `HammingRanking`, and if `top_k` is less than 1.

    Examples:
        One relevant item at distance 0; at distance 1 a relevant one and two others, so that it
        ranks 2nd, 3rd or 4th, where P(r) is 2/2, 2/3 or 2/4:

        >>> import torch
        >>> from pml_hashing.evaluation import average_precision
        >>> query, database = torch.ones(1, 3), torch.ones(4, 3)
        >>> database[1, 0] = database[2, 1] = database[3, 2] = -1
        >>> label, labels = torch.tensor([7]), torch.tensor([7, 1, 7, 2])
        >>> average_precision(query, label, database, labels)  # (1 + (1 + 2/3 + 1/2) / 3) / 2
        tensor([0.8611], dtype=torch.float64)
        >>> average_precision(query, label, database, labels, ties="stable")  # (1 + 2/3) / 2
        tensor([0.8333], dtype=torch.float64)
    """
    data = query_codes, query_labels, database_codes, database_labels
    return HammingRanking(*data, **options).average_precision(top_k)


def mean_average_precision(
    query_codes: Tensor,
    query_labels: Tensor | None,
    database_codes: Tensor,
    database_labels: Tensor | None,
    top_k: int | None = None,
    **options: Unpack[RankingOptions],
) -> float:
    """Return mAP, the mean of `average_precision` over all queries.

    Queries without relevant items are included.

    Args:
        query_codes: Codes of the queries, as for `average_precision`.
        query_labels: Their class ids or multi-hot rows.
        database_codes: Codes of the database.
        database_labels: Their class ids or multi-hot rows.
        top_k: Number of items that count. The whole database if `None`, or if it is smaller.
        **options: As for `average_precision`.

    Returns:
        A number from 0 to 1.

    Raises:
        TypeError: As `average_precision`.
        ValueError: As `average_precision`.

    Examples:
        >>> import torch
        >>> from pml_hashing.evaluation import mean_average_precision
        >>> codes, labels = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([0, 1])
        >>> mean_average_precision(codes, labels, codes, labels)
        1.0
        >>> mean_average_precision(codes, labels, codes, labels.flip(0))
        0.5
    """
    data = query_codes, query_labels, database_codes, database_labels
    return average_precision(*data, top_k, **options).mean().item()


def precision_at_k(
    query_codes: Tensor,
    query_labels: Tensor | None,
    database_codes: Tensor,
    database_labels: Tensor | None,
    top_k: int,
    **options: Unpack[RankingOptions],
) -> float:
    """Return P@k, the share of relevant items among the first `top_k`, averaged over queries.

    Args:
        query_codes: Codes of the queries, as for `average_precision`.
        query_labels: Their class ids or multi-hot rows.
        database_codes: Codes of the database.
        database_labels: Their class ids or multi-hot rows.
        top_k: Number of items. Where the database is smaller, the share among all of its items.
        **options: As for `average_precision`.

    Returns:
        A number from 0 to 1.

    Raises:
        TypeError: As `average_precision`.
        ValueError: As `average_precision`.
    """
    data = query_codes, query_labels, database_codes, database_labels
    return HammingRanking(*data, **options).precision(top_k).mean().item()


def precision_within_radius(
    query_codes: Tensor,
    query_labels: Tensor | None,
    database_codes: Tensor,
    database_labels: Tensor | None,
    radius: int = 2,
    **options: Unpack[LookupOptions],
) -> float:
    r"""Return P@H≤r, the share of relevant items within a distance, averaged over queries.

    A query with no item within the radius scores 0. Ties play no part.

    Args:
        query_codes: Codes of the queries, as for `average_precision`.
        query_labels: Their class ids or multi-hot rows.
        database_codes: Codes of the database.
        database_labels: Their class ids or multi-hot rows.
        radius: Largest distance that counts, in bits.
        **options: Options of `HammingRanking`: `relevance`, `query_in_database` and `block_size`.

    Returns:
        A number from 0 to 1.

    Raises:
        TypeError: As `HammingRanking`, and if `radius` is not an integer.
        ValueError: As `HammingRanking`, and if `radius` is negative.
    """
    metric = PrecisionWithinRadius(radius)
    data = query_codes, query_labels, database_codes, database_labels
    return HammingRanking(*data, **options).evaluate(metric).mean().item()


def precision_recall_by_radius(
    query_codes: Tensor,
    query_labels: Tensor | None,
    database_codes: Tensor,
    database_labels: Tensor | None,
    **options: Unpack[LookupOptions],
) -> tuple[Tensor, Tensor]:
    """Return precision and recall within every Hamming radius, averaged over all queries.

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
    """Return P@N for every N up to `top_k`, averaged over all queries.

    Args:
        query_codes: Codes of the queries, as for `average_precision`.
        query_labels: Their class ids or multi-hot rows.
        database_codes: Codes of the database.
        database_labels: Their class ids or multi-hot rows.
        top_k: The largest N. The whole database if `None`, or if it is smaller.
        **options: As for `average_precision`.

    Returns:
        Element `i` is `precision_at_k` for `i + 1` items, float64, `(top_k,)`.

    Raises:
        TypeError: As `average_precision`.
        ValueError: As `average_precision`.
    """
    data = query_codes, query_labels, database_codes, database_labels
    return HammingRanking(*data, **options).precision_by_rank(top_k)
