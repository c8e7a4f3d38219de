"""What a metric is: a score of every query, for each way to treat ties."""

from abc import ABC, abstractmethod

from torch import Tensor

from pml_hashing.evaluation._orders import Orders
from pml_hashing.evaluation._rankings import TieGroups


class Metric(ABC):
    """A score of the ranking of every query.

    A subclass says how the score is computed of rankings in a fixed order, and what its mean is
    over all orders inside ties. It is a frozen dataclass: equal metrics are computed once.
    """

    @abstractmethod
    def expected(self, groups: TieGroups) -> Tensor:
        """Return the mean over all orders inside ties, float64 `(num_queries,)`."""

    @abstractmethod
    def ordered(self, orders: Orders) -> Tensor:
        """Return the score of rankings in one order each, float64 `(num_queries,)`."""

    def of(self, rankings: TieGroups | Orders) -> Tensor:
        """Return the score of every query of a block, float64 `(num_queries,)`."""
        if isinstance(rankings, TieGroups):
            return self.expected(rankings)
        return self.ordered(rankings)


class LookupMetric(ABC):
    """A score of the items within some distance of every query, in which ties play no part."""

    @abstractmethod
    def of_counts(self, counts: Tensor) -> Tensor:
        """Return the score of every query, float64 `(num_queries,)`.

        Args:
            counts: Items by distance and grade, `(num_queries, code_length + 1, num_grades)`.
        """
