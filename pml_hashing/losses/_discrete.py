"""What losses with binary codes share: where the codes start, and how they are solved for."""

from collections.abc import Callable

import torch
from torch import Tensor

from pml_hashing.code_bank import CodeBank, Rows
from pml_hashing.codes import binarize
from pml_hashing.solvers import dcc, label_sums


def set_class_codes(bank: CodeBank, class_codes: Tensor) -> None:
    """Give every sample the code of its class, or the majority of those of its classes.

    Args:
        bank: The bank whose binary codes are set.
        class_codes: A code a class, and a last one that breaks ties, `(num_classes + 1, K)`.
    """
    class_codes = class_codes.to(bank.code_sums)
    set_group_codes(bank, label_sums(class_codes[:-1], bank.group_labels) + class_codes[-1] / 2)


def set_group_codes(bank: CodeBank, codes: Tensor) -> None:
    """Give every sample the signs of one of `codes`, which has a row a group of equal labels."""
    bank.binary_codes.copy_(binarize(codes)[bank.groups])
    bank.refresh_binary_codes()


def solve_codes(
    bank: CodeBank,
    gram: Tensor,
    targets: Tensor,
    own_weight: float,
    sweeps: int,
    progress: bool = False,
) -> None:
    """Improve the binary codes by `dcc`, in blocks of rows.

    Args:
        bank: The bank whose binary codes are improved.
        gram: The matrix $G$.
        targets: The part of $P$ that depends on labels alone, one row a group.
        own_weight: The weight in $P$ of a sample's own codes, by each network.
        sweeps: Sweeps over the bits.
        progress: Show a progress bar.
    """
    for block in bank.row_blocks(progress):
        target = targets[bank.groups[block]]
        for codes, _ in bank.networks:
            target = target.add(codes[block], alpha=own_weight)
        binary_codes = bank.binary_codes[block]
        binary_codes.copy_(dcc(binary_codes, gram, target, sweeps))


def own_quantization(bank: CodeBank, rows: Rows, codes: list[Tensor]) -> Tensor:
    """Return the squared distance of every sample's codes, by each network, to its binary code."""
    own = bank.binary_codes[rows].to(codes[0].dtype)
    return torch.stack([(network - own).square().sum(dim=1) for network in codes]).sum(dim=0)


def mean_over_bank(
    bank: CodeBank, terms: Callable[[CodeBank, Rows, list[Tensor]], dict[str, Tensor]]
) -> Tensor:
    """Return the sum of some terms, as a mean over all samples, for the codes a bank remembers."""
    total = bank.code_sums.new_zeros((), dtype=torch.float64)
    for block in bank.row_blocks():
        codes = [codes[block] for codes, _ in bank.networks]
        for losses in terms(bank, block, codes).values():
            total += losses.double().sum()
    return total / len(bank)
