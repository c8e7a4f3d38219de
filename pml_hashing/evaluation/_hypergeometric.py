"""How many relevant items of a group of ties, in random order, lie before a cut through it."""

import torch
from torch import Tensor


def half_width(items: Tensor, relevant: Tensor, places: Tensor) -> Tensor:
    r"""Return how far from the likeliest number all numbers are that matter, float64.

    By Serfling's inequality, less than $10^{-21}$ of the probability is more than
    $5 \sqrt{m (n - m + 1) / n}$ away from the mean, for a sample of $m$ of $n$ items; and likewise
    with the relevant items as the sample, and the places as what is counted in it.

    Args:
        items: $n$, float64, as all others here.
        relevant: Number of them that are relevant.
        places: Number $m$ of them before the cut.
    """
    samples = torch.minimum(places * (items - places + 1), relevant * (items - relevant + 1))
    width = (5 * (samples / items).sqrt()).ceil() + 1  # 1 from the mean to the likeliest
    possible = torch.minimum(places, items - places)
    return width.minimum(possible).minimum(relevant).minimum(items - relevant)


def hypergeometric(
    items: Tensor, relevant: Tensor, places: Tensor, width: int
) -> tuple[Tensor, Tensor]:
    """Return numbers of relevant items before the cut, and their probabilities.

    Numbers that are not possible have probability 0.

    Args:
        items: Number of items of each group, `(num_groups, 1)`.
        relevant: Number of them that are relevant.
        places: Number of them before the cut.
        width: Numbers on either side of the likeliest one.

    Returns:
        Both of shape `(num_groups, 2 * width + 1)`.
    """
    mode = ((places + 1) * (relevant + 1) / (items + 2)).floor()
    more = _falling(items, relevant, places, mode, width)
    # One relevant item less is one of the others more.
    fewer = _falling(items, items - relevant, places, places - mode, width).flip(1)
    weights = torch.cat([fewer, torch.ones_like(mode), more], dim=1)
    weights /= weights.sum(dim=1, keepdim=True)
    numbers = torch.arange(-width, width + 1, dtype=mode.dtype, device=mode.device)
    return mode + numbers, weights


def _falling(items: Tensor, relevant: Tensor, places: Tensor, mode: Tensor, width: int) -> Tensor:
    """Return the probabilities of the numbers after the likeliest one, over that of it.

    They are products of the ratios of neighbors, which keep the digits that differences of lgamma
    lose; after the largest possible number one factor is 0.
    """
    hits = mode + torch.arange(width, dtype=mode.dtype, device=mode.device)
    ratios = (relevant - hits).mul_(places - hits)
    ratios /= (items - relevant - places + 1 + hits).mul_(hits + 1)
    return ratios.cumprod(dim=1)
