"""The scores asked for most, as functions of codes and labels."""

from torch import Tensor

from pml_hashing.evaluation.ranking import HammingRanking, Ties, check_integer


def average_precision(
    query_codes: Tensor,
    query_labels: Tensor,
    database_codes: Tensor,
    database_labels: Tensor,
    top_k: int | None = None,
    *,
    ties: Ties = "expected",
    query_in_database: bool = False,
    block_size: int | None = None,
) -> Tensor:
    r"""Average precision of the Hamming ranking of every query, as the hashing literature has it.

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
        ties: `"expected"` for the mean over all orders inside ties, in closed form, `"stable"` for
            the order of the database, `"optimistic"` or `"pessimistic"` for the largest or smallest
            value over all orders.
        query_in_database: Whether item `i` of the database is query `i`, which then is left out
            of its own ranking.
        block_size: Pairs of a query and an item that are held at a time, see `HammingRanking`.

    Returns:
        Numbers from 0 to 1, float64, `(num_queries,)`, on the device of `query_codes`.

    Raises:
        TypeError: If codes are packed on one side only, or of a wrong dtype, or labels or `top_k`
            are no integers.
        ValueError: If a shape or length is wrong, a side is empty, codes are NaN or infinite, the
            labels of the two sides differ in kind, multi-hot rows hold other values than 0 and 1,
            or `top_k`, `ties` or `block_size` is out of range.

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
    ranking = HammingRanking(
        query_codes,
        query_labels,
        database_codes,
        database_labels,
        ties=ties,
        query_in_database=query_in_database,
        block_size=block_size,
    )
    return ranking.average_precision(top_k)


def mean_average_precision(
    query_codes: Tensor,
    query_labels: Tensor,
    database_codes: Tensor,
    database_labels: Tensor,
    top_k: int | None = None,
    *,
    ties: Ties = "expected",
    query_in_database: bool = False,
    block_size: int | None = None,
) -> float:
    """Mean of `average_precision` over all queries, those without a relevant item included.

    Args:
        query_codes: Codes of the queries, as for `average_precision`.
        query_labels: Their class ids or multi-hot rows.
        database_codes: Codes of the database.
        database_labels: Their class ids or multi-hot rows.
        top_k: Number of items that count. The whole database if `None`, or if it is smaller.
        ties: `"expected"`, `"stable"`, `"optimistic"` or `"pessimistic"`.
        query_in_database: Whether item `i` of the database is query `i`, and does not count.
        block_size: Pairs of a query and an item that are held at a time.

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
    scores = average_precision(
        query_codes,
        query_labels,
        database_codes,
        database_labels,
        top_k,
        ties=ties,
        query_in_database=query_in_database,
        block_size=block_size,
    )
    return scores.mean().item()


def precision_at_k(
    query_codes: Tensor,
    query_labels: Tensor,
    database_codes: Tensor,
    database_labels: Tensor,
    top_k: int,
    *,
    ties: Ties = "expected",
    query_in_database: bool = False,
    block_size: int | None = None,
) -> float:
    """Share of relevant items among the first `top_k`, P@k, as a mean over all queries.

    Args:
        query_codes: Codes of the queries, as for `average_precision`.
        query_labels: Their class ids or multi-hot rows.
        database_codes: Codes of the database.
        database_labels: Their class ids or multi-hot rows.
        top_k: Number of items. Where the database is smaller, the share among all of its items.
        ties: `"expected"`, `"stable"`, `"optimistic"` or `"pessimistic"`.
        query_in_database: Whether item `i` of the database is query `i`, and does not count.
        block_size: Pairs of a query and an item that are held at a time.

    Returns:
        A number from 0 to 1.

    Raises:
        TypeError: As `average_precision`.
        ValueError: As `average_precision`.
    """
    ranking = HammingRanking(
        query_codes,
        query_labels,
        database_codes,
        database_labels,
        ties=ties,
        query_in_database=query_in_database,
        block_size=block_size,
    )
    return ranking.precision(top_k).mean().item()


def precision_within_radius(
    query_codes: Tensor,
    query_labels: Tensor,
    database_codes: Tensor,
    database_labels: Tensor,
    radius: int = 2,
    *,
    query_in_database: bool = False,
    block_size: int | None = None,
) -> float:
    r"""Share of relevant items within a Hamming distance, P@H≤r, as a mean over all queries.

    A query with no item within the radius scores 0. Ties play no part.

    Args:
        query_codes: Codes of the queries, as for `average_precision`.
        query_labels: Their class ids or multi-hot rows.
        database_codes: Codes of the database.
        database_labels: Their class ids or multi-hot rows.
        radius: Largest distance that counts, in bits.
        query_in_database: Whether item `i` of the database is query `i`, and does not count.
        block_size: Pairs of a query and an item that are held at a time.

    Returns:
        A number from 0 to 1.

    Raises:
        TypeError: As `average_precision`, and if `radius` is no integer.
        ValueError: As `average_precision`, and if `radius` is negative.
    """
    check_integer(radius, 0, "radius")
    ranking = HammingRanking(
        query_codes,
        query_labels,
        database_codes,
        database_labels,
        query_in_database=query_in_database,
        block_size=block_size,
    )
    within = ranking.precision_by_radius().mean(dim=0)
    return within[min(radius, len(within) - 1)].item()
