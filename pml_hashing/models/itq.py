"""A hash layer learned without labels: ITQ's affine map of a frozen backbone's features."""

from itertools import takewhile
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, Subset

from pml_hashing._checks import check_at_least
from pml_hashing.models import samples
from pml_hashing.models.encoding import Encoder


class Hyperplanes(NamedTuple):
    """An affine map of features to codes."""

    weight: Tensor  # (code_length, num_features)
    bias: Tensor  # (code_length,)


def fit_hyperplanes(features: Tensor, code_length: int, *, max_iter: int, seed: int) -> Hyperplanes:
    r"""Return ITQ's map of features $x \mapsto R^\top (P x - P \bar x) / s$.

    $P$ are the first principal directions and $R$ is the rotation, as of `baselines.ITQ`. The scale
    $s$, the mean absolute value of the codes, changes no bit: it brings real codes to the length of
    their signs.

    Args:
        features: float, `(n, num_features)`.
        code_length: Number of bits.
        max_iter: Alternations of ITQ.
        seed: Of the rotation to start from.

    Raises:
        ValueError: If there are fewer samples than `code_length + 1`, or fewer features than bits,
            or they are not finite.
    """
    from pml_hashing.baselines import ITQ  # noqa: PLC0415 - only here is scikit-learn waited for

    num_samples, num_features = features.shape
    if code_length >= num_samples or code_length > num_features:
        raise ValueError(
            f"Expected at least {code_length + 1} readable images and {code_length} features of "
            f"each to learn {code_length} bits without labels, got {num_samples} and "
            f"{num_features}: take a smaller `code_length`, or a model that was fitted on more "
            "images."
        )
    values = features.detach().cpu().double()
    itq = ITQ(code_length, max_iter=max_iter, random_state=seed).fit(values.numpy())
    weight, mean = torch.from_numpy(itq.components_), torch.from_numpy(itq.mean_)
    bias = -(weight @ mean)
    scale = (values @ weight.T + bias).abs().mean().clamp(min=torch.finfo(torch.float32).tiny)
    return Hyperplanes(weight / scale, bias / scale)


def sample_features(
    trunk: nn.Module,
    num_features: int,
    data_config: samples.DataConfig,
    inputs: Any,
    max_samples: int,
    seed: int,
    **options: Any,
) -> Tensor:
    """Return the features of at most `max_samples` inputs, drawn at random if they have places.

    Args:
        trunk: The backbone.
        num_features: Their width.
        data_config: How images are preprocessed.
        inputs: As of `HashingModel.encode`.
        max_samples: How many are drawn. Of inputs without places, the first are taken.
        seed: The same seed draws the same.
        **options: Those of an `Encoder`.

    Raises:
        ValueError: If there are no inputs, or `max_samples` is less than 1.
    """
    check_at_least(max_samples, 1, "max_samples")
    drawn = _drawn(samples.as_samples(inputs, data_config), max_samples, seed)
    encoder = Encoder(trunk, num_features, data_config=data_config, packed=False, **options)
    found = list[Tensor]()
    batches = (features for features, _ in encoder.batches(drawn))
    for features in takewhile(lambda _: sum(map(len, found)) < max_samples, batches):
        found.append(features)
    return torch.cat(found)[:max_samples] if found else torch.empty(0, num_features, device="cpu")


def draw_places(count: int, max_samples: int, seed: int) -> list[int]:
    """Return the places of at most `max_samples` of `count` inputs, drawn at random, in order.

    Raises:
        ValueError: If `max_samples` is less than 1.
    """
    check_at_least(max_samples, 1, "max_samples")
    if count <= max_samples:
        return list(range(count))
    generator = torch.Generator("cpu").manual_seed(seed)
    order = torch.randperm(count, generator=generator, device="cpu")
    return order[:max_samples].sort().values.tolist()


def _drawn(inputs: Any, max_samples: int, seed: int) -> Any:
    has_places = isinstance(inputs, Tensor | Dataset) and not isinstance(inputs, IterableDataset)
    if not has_places or len(inputs) <= max_samples:  # pyright: ignore[reportArgumentType]
        return inputs
    places = draw_places(len(inputs), max_samples, seed)  # pyright: ignore[reportArgumentType]
    return inputs[places] if isinstance(inputs, Tensor) else Subset(inputs, places)
