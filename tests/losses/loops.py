"""What the references of losses with learned codes share: parts of formulas, in loops.

Codes are lists of numbers, or tensors where a gradient is wanted.
"""

import itertools
import math

import torch

LABELS = {
    "class_ids": torch.tensor([0, 0, 1, 2, 1, 0]),
    "multi_hot": torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]]),
}


def rows_of(labels, num_classes=3):
    """Y as nested lists."""
    if labels.ndim == 1:
        labels = torch.nn.functional.one_hot(labels.long(), num_classes)
    return labels.int().tolist()


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def distance(x, y):
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def distances(codes, others):
    return sum(distance(u, b) for u, b in zip(codes, others, strict=True))


def log_1_plus_exp(x):
    return torch.log1p(x.exp()) if isinstance(x, torch.Tensor) else math.log1p(math.exp(x))


def similarities(labels):
    return [[any(a * b for a, b in zip(y, z, strict=True)) for z in labels] for y in labels]


def pair_loss(x, y, similar):
    theta = dot(x, y) / 2
    return log_1_plus_exp(theta) - similar * theta


def weighted_mean(losses, similar, similar_weight):
    """The mean of losses of pairs, of which similar ones weigh more; or half of each kind's."""
    if similar_weight != "balanced":
        weights = [similar_weight if s else 1 for s in similar]
        total = sum(w * x for w, x in zip(weights, losses, strict=True))
        return total / sum(weights) if weights else 0.0
    kinds = [[x for x, s in zip(losses, similar, strict=True) if s == kind] for kind in (1, 0)]
    return sum(sum(kind) / len(kind) / 2 for kind in kinds if kind)


def mean_pair_loss(networks, labels, similar_weight, loss=pair_loss):
    """The likelihood of U and V, or of different samples of U where there is one network."""
    n, similar = len(labels), similarities(labels)
    pairs = [
        (i, j) for i, j in itertools.product(range(n), repeat=2) if len(networks) == 2 or i != j
    ]
    losses = [loss(networks[0][i], networks[-1][j], similar[i][j]) for i, j in pairs]
    return weighted_mean(losses, [similar[i][j] for i, j in pairs], similar_weight)


def inner_products(codes, learned, labels, soft_similarity):
    """The squared norm of U B' - K S."""
    n, num_bits, similar = len(labels), len(learned[0]), similarities(labels)
    num_similar = sum(map(sum, similar))
    ratio = num_similar / (n * n - num_similar) if num_similar < n * n else 0.0
    dissimilar = -ratio if soft_similarity else -1.0
    total = 0.0
    for i, j in itertools.product(range(n), repeat=2):
        wanted = num_bits * (1.0 if similar[i][j] else dissimilar)
        total += (dot(codes[i], learned[j]) - wanted) ** 2
    return total


def squared_bit_sums(codes):
    """The squared norm of U'1."""
    return sum(sum(column) ** 2 for column in zip(*codes, strict=True))


def layers_of(network):
    """Weights and biases of a label network, its decoder last, as nested lists."""
    layers = [*network.layers.values(), network.decoder]
    return [(layer.weight.tolist(), layer.bias.tolist()) for layer in layers]


def affine(layer, x):
    return [dot(row, x) + b for row, b in zip(*layer, strict=True)]


def label_codes_of(layers, labels):
    """H, and the labels that are read back from it."""
    codes, decoded = [], []
    for label in labels:
        code = label
        for layer in layers[:-1]:
            code = [math.tanh(x) for x in affine(layer, code)]
        codes.append(code)
        decoded.append(affine(layers[-1], code))
    return codes, decoded


def mean_label_pair_loss(networks, label_codes, labels, similar_weight):
    """The likelihood of all codes with those of labels, summed over the networks."""
    n, similar = len(labels), similarities(labels)
    pairs = list(itertools.product(range(n), repeat=2))
    kinds, total = [similar[i][j] for i, j in pairs], 0.0
    for codes in networks:
        losses = [pair_loss(codes[i], label_codes[j], similar[i][j]) for i, j in pairs]
        total += weighted_mean(losses, kinds, similar_weight)
    return total


def mean_distance_from_bits(codes):
    return sum(abs(abs(x) - 1) for code in codes for x in code) / (len(codes) * len(codes[0]))


def make_codes(n=6, code_length=4, num_networks=1, **kwargs):
    return [torch.tanh(torch.randn(n, code_length, **kwargs)) for _ in range(num_networks)]


def as_arguments(codes):
    return {"embeddings": codes[0], **({"ref_emb": codes[1]} if len(codes) == 2 else {})}


def values_of(codes):
    return [c.tolist() for c in codes]


def terms_of(loss_func, codes, labels, **kwargs):
    """The mean of every sub-loss."""
    loss_dict = loss_func.compute_loss(codes[0], labels, None, codes[-1], labels, **kwargs)
    return {name: loss["losses"].mean().item() for name, loss in loss_dict.items()}
