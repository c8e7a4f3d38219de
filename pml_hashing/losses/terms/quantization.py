"""The distance of every code to its binary code."""

from torch import Tensor

from pml_hashing.code_bank import CodeBank, Variables
from pml_hashing.losses.terms._base import Batch, Quadratic, Term, sum_of


# --8<-- [start:term]
class Quantization(Term):
    r"""The mean over the bits of the squared distance of the codes to the binary code.

    $$\frac{1}{K} \left( \lVert u_i - b_i \rVert^2 + \lVert v_i - b_i \rVert^2 \right)$$

    With one network, the part of $v_i$ is absent.
    """

    def losses(self, batch: Batch, variables: Variables) -> Tensor:
        own = batch.binary_codes
        return sum_of([(u - own).square().sum(dim=1) for u in batch.codes]) / own.shape[1]

    def quadratic(self, bank: CodeBank, variables: Variables) -> Quadratic:
        return Quadratic(own=1 / bank.code_length)


# --8<-- [end:term]
