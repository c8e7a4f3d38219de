"""How alike classes are, by the features of their samples."""

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from pml_hashing._checks import (
    check,
    check_at_least,
    check_choice,
    check_label_values,
    check_labels,
    check_num_classes,
)
from pml_hashing._eval_mode import eval_mode
from pml_hashing.codes import bits_to_signs
from pml_hashing.solvers import class_sums, label_counts, label_sums, ridge

FOLDS = 5
PENALTY = 0.3
"""Penalty of the ridge classifier per sample, where features have a variance of 1."""
SHARPNESS = 12.0
"""Factor of the scores before the softmax: scores of a ridge regression are between 0 and 1."""
SHRINKAGE = 0.1
"""Part of the mean variance that is added to all, where there are few samples for the features."""
SCORES_OF_A_BLOCK = 2**22
MOST_CLASSES_COMPARED = 2**16
"""The matrix of their similarities takes 16 GiB."""
MOST_FEATURES = 4096
"""Wider features, such as images as they are, are gathered as sums: see `narrow`."""

Similarity: TypeAlias = Literal["confusion", "means"]


@torch.no_grad()
def class_similarity(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    method: Similarity = "confusion",
    seed: int = 0,
) -> Tensor:
    r"""Return how alike classes are, for `assign_codes` and `semantic_centers`.

    `"confusion"` is how readily a classifier takes samples of one class for another,

    $$S_{ij} = \frac{1}{n_i} \sum_{s:\, y_{si} = 1} \frac{1}{\lvert y_s \rvert}
        \operatorname{softmax}_j \left( 12\, x_s^\top w_j \right),
        \quad n_i = \sum_s \frac{y_{si}}{\lvert y_s \rvert}$$

    with the classes of the sample itself left out of the softmax; $w_j$ is a ridge regression of
    class $j$ on samples of which $s$ is none (five folds). `"means"` is $- \lVert \mu_i - \mu_j
    \rVert$, for means of classes that are whitened by the covariance within classes: cheaper for
    thousands of classes, and nearly as good. Features are standardized first.

    Of several labels a sample counts for each. Its other labels count as if it was taken for
    them: $y_{sj}$ is added to the softmax, for classes that occur together shall lie near each
    other. Either way the matrix is made symmetric, and standardized off the diagonal.

    Args:
        features: One row per sample, `(n, width)`: those of a trained backbone, before training.
        labels: Class ids `(n,)` or multi-hot rows `(n, num_classes)`.
        num_classes: Number of classes $C$. One without samples is like all others on average.
        method: `"confusion"` or `"means"`.
        seed: Seed of the folds.

    Returns:
        Similarities, float32 `(num_classes, num_classes)`, on the device of `features`. It is
        symmetric, 0 on the diagonal, of mean 0 and variance 1 off it; all 0 if all are alike.

    Raises:
        ValueError: If a shape is wrong, a value is not finite, a label is out of range, or there
            are fewer than two samples with labels, or more than 65,536 classes.

    Note: Differences from SHC
        "confusion" is after SHC, of which we know the abstract and a description: it trains a
        network for classes, sums over the samples of a class, and uses all samples for both. The
        ridge classifier out of fold, several labels, and "means" are ours.

    References:
        Chen et al., [Deep Hashing with Semantic Hash Centers for Image
        Retrieval](https://arxiv.org/abs/2507.08404), ACM TOIS 2025.
    """
    _check(features, labels, num_classes, method)
    labels = labels.to(features.device)
    counts = label_counts(labels)
    features, labels = features[counts > 0].float(), labels[counts > 0]
    if len(features) < 2:
        raise ValueError(f"Expected at least 2 samples with labels, got {len(features)}.")
    features = (features - features.mean(dim=0)) / features.std(dim=0).clamp(min=1e-6)
    present = class_sums(torch.ones_like(features[:, :1]), labels, num_classes)[:, 0] > 0
    if method == "confusion":
        similarity = _confusion(features, labels, num_classes, seed)
    else:
        similarity = _nearness_of_means(features, labels, num_classes)
    return _standardize(similarity, present)


def _check(features: Tensor, labels: Tensor, num_classes: int, method: str) -> None:
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(
            f"Expected `features` of shape (n, width), not empty, got {tuple(features.shape)}."
        )
    check(features.isfinite().all(), "finite values in `features`", "NaN or infinity")
    check_labels(labels, features, "labels")
    check_num_classes(num_classes, most=MOST_CLASSES_COMPARED)
    check_label_values(labels, num_classes, "labels")
    check_choice(method, ("confusion", "means"), "method")


def _confusion(features: Tensor, labels: Tensor, num_classes: int, seed: int) -> Tensor:
    """Return the mean softmax of other classes, out of fold, by class: `(C, C)`."""
    generator = torch.Generator("cpu").manual_seed(seed)
    order = torch.randperm(len(features), generator=generator, device="cpu").to(features.device)
    sums, totals = features.new_zeros(num_classes, num_classes), features.new_zeros(num_classes, 1)
    gram, cross = features.T @ features, class_sums(features, labels, num_classes).T
    counts = class_sums(torch.ones_like(features[:, :1]), labels, num_classes).T
    rows_of_a_block = max(1, SCORES_OF_A_BLOCK // num_classes)
    for fold in range(FOLDS):
        held = order[fold::FOLDS]
        own, own_labels = features[held], labels[held]
        rest = len(features) - len(held)
        own_counts = class_sums(torch.ones_like(own[:, :1]), own_labels, num_classes).T
        # A class's share is taken off its targets, in place of an intercept.
        shares = (counts - own_counts) / rest
        centred = -own.sum(dim=0)[:, None] * shares  # the sum of all features is 0
        targets = cross - class_sums(own, own_labels, num_classes).T - centred
        weights = ridge(gram - own.T @ own, targets, PENALTY * rest)
        for rows, of_rows in zip(
            own.split(rows_of_a_block), own_labels.split(rows_of_a_block), strict=True
        ):
            taken_for = _taken_for(SHARPNESS * rows @ weights, of_rows)
            share = 1 / label_counts(of_rows)[:, None]
            _add_by_class(sums, taken_for * share, of_rows)
            totals += class_sums(share, of_rows, num_classes)
    return sums / totals.clamp(min=1e-6)


def _add_by_class(sums: Tensor, values: Tensor, labels: Tensor) -> None:
    """Add the rows of `values` to those of their classes, as `class_sums` does, in place."""
    if labels.ndim == 1:
        sums.index_add_(0, labels.long(), values)
    else:
        sums.addmm_(labels.T.to(values.dtype), values)


def _taken_for(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the softmax over the classes that samples do not have, and 1 for those they have.

    Of class ids only the diagonal of the sums would have the 1, which does not count.
    """
    if labels.ndim == 1:
        return scores.scatter(1, labels.long()[:, None], float("-inf")).softmax(dim=1)
    own = labels.to(scores.dtype)
    others = scores.masked_fill(labels.bool(), float("-inf")).softmax(dim=1)
    return others.nan_to_num(0) + own  # NaN where a sample has all classes


def _nearness_of_means(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return negative distances of class means, whitened within classes: `(C, C)`."""
    counts = class_sums(torch.ones_like(features[:, :1]), labels, num_classes)
    means = class_sums(features, labels, num_classes) / counts.clamp(min=1)
    within = features - label_sums(means, labels) / label_counts(labels)[:, None]
    covariance = within.T @ within / len(features)
    added = SHRINKAGE * covariance.diagonal().mean().clamp(min=1e-6)
    covariance.diagonal().add_(added)
    root = torch.linalg.cholesky(covariance)
    whitened = torch.linalg.solve_triangular(root, means.T, upper=False).T
    return torch.cdist(whitened, whitened).neg_()


def _standardize(similarity: Tensor, present: Tensor) -> Tensor:
    """Return it symmetric, of mean 0 and variance 1 over pairs of classes that have samples."""
    similarity = similarity.add(similarity.T).div_(2)
    number = present.sum()
    pairs = (number * (number - 1)).clamp(min=1)
    _clear(similarity, present)
    _clear(similarity.sub_(similarity.sum() / pairs), present)
    deviation = similarity.norm() / pairs.sqrt()
    # Where all are alike, rounding must not look like a similarity.
    return similarity.mul_(torch.where(deviation > 1e-6, 1 / deviation, 0))


def _clear(similarity: Tensor, present: Tensor) -> None:
    """Set the diagonal, and the rows and columns of classes without samples, to 0."""
    similarity.mul_(present).mul_(present[:, None]).fill_diagonal_(0)


@torch.no_grad()
def gather_features(
    model: nn.Module, batches: Iterable[Any], *, most: int = 20_000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return features and labels of a data set, in one pass, for `class_similarity`.

    Args:
        model: Maps inputs to features `(batch_size, width)`, such as the trunk of a model. It
            runs in eval mode. More dimensions are flattened, and more than 4,096 features summed in
            groups, with random signs that are always the same: distances and products stay
            about as they are.
        batches: Inputs and labels, such as a `DataLoader`; more entries are left aside.
        most: Samples that are kept, drawn at random from all: memory does not grow with the data
            set.
        seed: Seed of the draw.

    Returns:
        Features, float32 `(n, width)`, and labels, on the device of the model, of all samples
        in their order, or of `most` of them.

    Raises:
        ValueError: If there is no batch, or `most` is less than 1.

    Examples:
        >>> import torch
        >>> from pml_hashing.centers import gather_features
        >>> from pml_hashing.losses import CSQLoss
        >>> trunk = torch.nn.Identity()
        >>> batches = [(torch.randn(60, 4), torch.arange(60) % 3)]
        >>> loss_func = CSQLoss(3, 16, class_codes="assigned")
        >>> loss_func.use_features(*gather_features(trunk, batches))
        >>> loss_func.wants_features
        False
    """
    check_at_least(most, 1, "most")
    device = next((part.device for part in model.parameters()), None)
    generator = torch.Generator("cpu").manual_seed(seed)
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    with eval_mode(model):
        for inputs, labels, *_ in batches:
            features = narrow(model(inputs if device is None else inputs.to(device)))
            keys = torch.rand(len(features), generator=generator, device="cpu")
            kept.append((keys.to(features.device), features, labels.to(features.device)))
            if sum(len(keys) for keys, *_ in kept) > 2 * most:
                kept = [_with_least_keys(kept, most)]
    if not kept:
        raise ValueError("Expected `batches` of inputs and labels, got none.")
    _, features, labels = _with_least_keys(kept, most)
    return features, labels


def _with_least_keys(
    kept: list[tuple[Tensor, Tensor, Tensor]], most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the samples with the least of their random keys, in their order."""
    keys, features, labels = (torch.cat(parts) for parts in zip(*kept, strict=True))
    rows = keys.argsort(stable=True)[:most].sort().values
    return keys[rows], features[rows], labels[rows]


def narrow(features: Tensor) -> Tensor:
    """Return features as float32 rows of at most `MOST_FEATURES`, into which more are summed.

    Each feature is added to one place, with one sign, both drawn once and for all: memory is that
    of the batch, and the expected product of two rows is that of the whole ones.
    """
    features = features.flatten(start_dim=1).float()
    width = features.shape[1]
    if width <= MOST_FEATURES:
        return features
    generator = torch.Generator("cpu").manual_seed(0)
    places = torch.randint(MOST_FEATURES, (width,), generator=generator, device="cpu")
    signs = bits_to_signs(torch.randint(2, (width,), generator=generator, device="cpu"))
    sums = features.new_zeros(len(features), MOST_FEATURES)
    return sums.index_add_(1, places.to(sums.device), features * signs.to(sums))
