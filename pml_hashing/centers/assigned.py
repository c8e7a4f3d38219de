"""Codes of classes by the features of their samples: similarity and assignment in one call."""

from torch import Tensor

from pml_hashing.centers.assignment import assign_codes
from pml_hashing.centers.hadamard_codes import hash_centers
from pml_hashing.centers.similarity import class_similarity

MOST_CLASSES_TO_CONFUSE = 1024
"""Of more classes, similarity is that of their means: a classifier of them would take minutes."""
STEPS_OF_SIMILARITY = 2**10
"""Similarities are rounded to so many parts: the last digits, which depend on the number of threads
or processes, then seldom decide which class gets which code."""


def assigned_codes(
    features: Tensor, labels: Tensor, num_classes: int, code_length: int, seed: int = 0
) -> Tensor:
    """Return one code per class: far apart, and near each other for classes that are confused.

    These are the codes of `hash_centers`, given to the classes by `assign_codes` with the
    `class_similarity` of the features: by `"confusion"`, and by `"means"` beyond 1,024 classes. It
    is what losses with `class_codes="assigned"` take.

    Args:
        features: One row per sample, `(n, width)`, as from `gather_features`.
        labels: Class ids `(n,)` or multi-hot rows `(n, num_classes)`.
        num_classes: Number of classes.
        code_length: Number of bits.
        seed: Seed of the codes, of the folds and of the search.

    Returns:
        Codes, -1 and 1, float32 `(num_classes, code_length)`, on the CPU.

    Raises:
        ValueError: As `class_similarity` does.

    Examples:
        >>> import torch
        >>> from pml_hashing.centers import assigned_codes
        >>> labels = torch.arange(90) % 3
        >>> alike = torch.tensor([[0.0, 0.0], [0.5, 0.0], [9.0, 9.0]])  # the first two classes
        >>> features = alike[labels] + torch.randn(90, 2, generator=torch.manual_seed(0))
        >>> codes = assigned_codes(features, labels, num_classes=3, code_length=4)
        >>> distances = [int((codes[0] != codes[other]).sum()) for other in (1, 2)]
        >>> distances[0] <= distances[1]
        True
    """
    method = "confusion" if num_classes <= MOST_CLASSES_TO_CONFUSE else "means"
    alike = class_similarity(features, labels, num_classes, method=method, seed=seed)
    alike.mul_(STEPS_OF_SIMILARITY).round_().div_(STEPS_OF_SIMILARITY)
    return assign_codes(hash_centers(num_classes, code_length, seed), alike, seed=seed)
