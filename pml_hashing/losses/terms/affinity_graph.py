"""The distance of the codes that an affinity graph joins."""

from torch import Tensor

from pml_hashing.code_bank import Variables
from pml_hashing.losses.terms._base import Batch, Term
from pml_hashing.moments import moments, spread
from pml_hashing.pairs import IndicesTuple, affinity, mined_affinity


class AffinityGraph(Term):
    r"""Squared distance of the two networks' codes of samples that share a class, per bit.

    The equation is our reconstruction of what the abstract of DSAH tells.

    $$
    \frac{1}{K} \sum_j A_{ij} \lVert u_i - v_j \rVert^2, \qquad
    A_{ij} = \frac{1}{\lvert y_i \rvert} \sum_c \frac{Y_{ic} Y_{jc}}{n_c}
    $$

    with $n_c$ samples of class $c$ and, with one network, $v_j = u_j$. Sums over a data set are
    class sums of the codes that the bank remembers; a pair pulls at both of its ends, but counts
    once. A miner's similar pairs of the batch, if given, replace the graph.
    """

    of_pairs = True

    def losses(self, batch: Batch, variables: Variables) -> Tensor:
        bank, codes, others = batch.bank, batch.codes[0], batch.codes[-1]
        if bank.is_batch or batch.pairs is not None:
            return graph_losses(codes, others, batch.labels, batch.labels, batch.pairs)
        labels = batch.summed_labels
        first, last = bank.sums("class_moments")[0], bank.sums("class_moments")[-1]
        of_row = spread(codes, bank.row_average(last[0], labels))
        of_column = spread(others, bank.column_average(first[1], labels))
        both = of_row + of_column
        return (both - both.detach() / 2) / bank.code_length


def graph_losses(
    codes: Tensor,
    ref_codes: Tensor,
    labels: Tensor | None,
    ref_labels: Tensor | None,
    pairs: IndicesTuple | None,
) -> Tensor:
    """Return the term of every code with a reference set, by labels or by a miner's pairs."""
    if pairs is not None:
        weights = mined_affinity(pairs, codes, ref_codes, labels, ref_labels)
    else:
        assert labels is not None and ref_labels is not None  # noqa: PT018 (the caller's check)
        weights = affinity(labels, ref_labels, codes.dtype)
    return spread(codes, weights @ moments(ref_codes)) / codes.shape[1]
