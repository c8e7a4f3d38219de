"""Binary centers of the classes that lie far apart, to which the binary codes are drawn."""

from torch import Tensor

from pml_hashing._checks import check_at_least
from pml_hashing.code_bank import CodeBank, Variables
from pml_hashing.losses.terms._base import Batch, Quadratic, Term
from pml_hashing.solvers import check_sweeps, dcc, label_sums


class FisherCenters(Term):
    r"""The two sides of Fisher's discriminant: samples close to their center, centers far apart.

    $$
    \frac{1}{K} \lVert b_i - y_i C \rVert^2
        + \frac{\nu}{c^2} \sum_{a \ne b} \left(\tfrac{1}{K} c_a^\top c_b + 1\right)^2,
    \qquad C \in \{-1, 1\}^{c \times K}
    $$

    It is constant in the networks: it shapes the binary codes.

    Variables: `centers`, $C$, `(num_classes, code_length)`.

    Args:
        first_centers: The centers to start from, `(num_classes, code_length)`, -1 and 1.
        separation_weight: Weight $\nu$ of the distances of the centers.
        sweeps: Sweeps over the bits of each center in a fit.

    Raises:
        ValueError: If the weight is negative or `sweeps` is out of range.
    """

    first_centers: Tensor

    def __init__(
        self, first_centers: Tensor, separation_weight: float = 1.0, sweeps: int = 1
    ) -> None:
        super().__init__()
        check_at_least(separation_weight, 0, "separation_weight")
        check_sweeps(sweeps)
        self.register_buffer("first_centers", first_centers)
        self.separation_weight, self.sweeps = separation_weight, sweeps

    def losses(self, batch: Batch, variables: Variables) -> Tensor:
        centers = variables["centers"].to(batch.codes[0].dtype)
        own, mean = batch.binary_codes, label_sums(centers, batch.summed_labels)
        within = (own - mean).square().sum(dim=1) / centers.shape[1]
        return within + self.separation_weight * _closeness(centers)

    def start(self, bank: CodeBank) -> Variables:
        return {"centers": self.first_centers.to(bank.query_codes)}

    def fit(self, bank: CodeBank, variables: Variables) -> Variables:
        """Improve one center after the other, given the codes and the other centers."""
        centers, together = variables["centers"].clone(), bank.label_gram()
        code_sums, samples = bank.sums("code_sums")[0], len(bank) * bank.code_length
        # Each two classes are two pairs.
        repulsion = 2 * self.separation_weight / bank.num_classes**2
        for a in range(bank.num_classes):
            others = centers.clone()
            others[a] = 0
            target = (code_sums[a] - together[a] @ others) / samples
            target = target - repulsion / bank.code_length * others.sum(dim=0)
            gram = repulsion / bank.code_length**2 * (others.T @ others)
            centers[a] = dcc(centers[a : a + 1], gram, target[None], self.sweeps)[0]
        return {"centers": centers}

    def quadratic(self, bank: CodeBank, variables: Variables) -> Quadratic:
        return Quadratic(
            targets=label_sums(variables["centers"], bank.group_labels) / bank.code_length
        )


def _closeness(centers: Tensor) -> Tensor:
    r"""Return the mean of $(\tfrac{1}{K} c_a^\top c_b + 1)^2$ over all classes, 0 where $a = b$.

    The sum of the squared products of all rows is that of all columns: no matrix of classes.
    """
    num_classes, bits = centers.shape
    squares = (centers.T @ centers).square().sum() / bits**2
    products = centers.sum(dim=0).square().sum() / bits
    own = (centers.square().sum(dim=1) / bits + 1).square().sum()
    return (squares + 2 * products - own) / num_classes**2 + 1
