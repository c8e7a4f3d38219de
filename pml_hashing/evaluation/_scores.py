"""The scores of many queries, by the names of the most common metrics."""

from abc import ABC, abstractmethod

from torch import Tensor

from pml_hashing.evaluation._orders import Orders
from pml_hashing.evaluation._rankings import TieGroups
from pml_hashing.evaluation.metrics import (
    NDCG,
    AveragePrecision,
    Metric,
    NumRelevant,
    Precision,
    Recall,
    ReciprocalRank,
)
from pml_hashing.evaluation.metrics.average_precision import Divisor


class QueryScores(ABC):
    """Scores of many queries, float64 `(num_queries,)` each."""

    @abstractmethod
    def evaluate(self, metric: Metric) -> Tensor:
        """Return the score of every query under any metric, such as your own."""

    @property
    def num_relevant(self) -> Tensor:
        """Number of relevant items of every query, int64."""
        return self.evaluate(NumRelevant())

    def average_precision(
        self, top_k: int | None = None, *, divisor: Divisor = "retrieved", weighted: bool = False
    ) -> Tensor:
        r"""Return $\sum_{r \le k} P(r)\, \delta(r)$ over a number of relevant items.

        Args:
            top_k: Number $k$ of items that count. All if `None`, or if there are fewer.
            divisor: `"retrieved"` divides by the relevant items among the first $k$, as the
                hashing literature does, `"relevant"` by all that there are, as PML does.
            weighted: Whether the mean grade of the first $r$ items takes the place of $P(r)$, the
                share of relevant ones: the weighted AP of multi-label retrieval.
        """
        return self.evaluate(AveragePrecision(top_k, divisor, weighted))

    def precision(self, top_k: int | None) -> Tensor:
        """Return the share of relevant items among the first `top_k`, all if `None`."""
        return self.evaluate(Precision(top_k))

    def recall(self, top_k: int | None) -> Tensor:
        """Return the share of the relevant items that is among the first `top_k`, all if `None`."""
        return self.evaluate(Recall(top_k))

    def r_precision(self) -> Tensor:
        """Return the precision among as many items as are relevant."""
        return self.evaluate(Precision("relevant"))

    def average_precision_at_r(self) -> Tensor:
        """Return the average precision among as many items as are relevant: PML's MAP@R."""
        return self.evaluate(AveragePrecision("relevant", "relevant"))

    def reciprocal_rank(self) -> Tensor:
        """Return one over the rank of the first relevant item."""
        return self.evaluate(ReciprocalRank())

    def ndcg(self, top_k: int | None = None) -> Tensor:
        r"""Return the discounted gain, over that of the best possible ranking.

        $$\mathrm{DCG@}k = \sum_{r \le k} \frac{2^{g(r)} - 1}{\log_2(r + 1)}$$

        Raises:
            ValueError: If a grade is larger than 960, whose gain float64 cannot sum.
        """
        return self.evaluate(NDCG(top_k))


class ScoresOfBlock(QueryScores):
    """The scores of a block of queries."""

    def __init__(self, rankings: TieGroups | Orders) -> None:
        self.rankings = rankings

    def evaluate(self, metric: Metric) -> Tensor:
        return metric.of(self.rankings)
