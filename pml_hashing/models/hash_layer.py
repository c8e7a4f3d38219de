"""The hash layer: from features to real codes, one value per bit."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from pml_hashing._checks import check_at_least, check_choice, check_code_length
from pml_hashing.models.continuation import ScaledTanh

Head: TypeAlias = Literal["linear", "mlp"]
Bound: TypeAlias = Literal["tanh", "scaled_tanh", "none"]

BOUNDS = {"tanh": nn.Tanh, "scaled_tanh": ScaledTanh, "none": nn.Identity}


class HashLayer(nn.Module):
    r"""Map features to codes whose signs are the bits.

    The last linear layer starts with orthogonal rows and no bias: its outputs then have the scale
    of the features, which is below one for trained and for freshly made backbones alike, so that
    no tanh is saturated at the start, and different bits look at different directions.

    Args:
        in_features: Width of the features.
        code_length: Number of bits $K$.
        head: `"linear"`, or `"mlp"` with one hidden ReLU layer as wide as the features.
        bound: `"tanh"` for codes in $(-1, 1)$, `"scaled_tanh"` for a `ScaledTanh` whose slope a
            `TanhContinuation` raises, or `"none"`.
        drop_rate: Dropout on the hidden layer of the `"mlp"` head.
        batch_norm: Batch normalization of every bit before the bound, so that each is set in about
            half of a batch: losses of PML need it.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> import torch
        >>> from pml_hashing.models import HashLayer
        >>> codes = HashLayer(512, 32)(torch.randn(4, 512))
        >>> codes.shape, bool((codes.abs() < 1).all())
        (torch.Size([4, 32]), True)
    """

    def __init__(
        self,
        in_features: int,
        code_length: int,
        *,
        head: Head = "linear",
        bound: Bound = "tanh",
        drop_rate: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        check_at_least(in_features, 1, "in_features")
        check_code_length(code_length)
        check_choice(head, ("linear", "mlp"), "head")
        check_choice(bound, tuple(BOUNDS), "bound")
        if not 0 <= drop_rate < 1:
            raise ValueError(f"Expected `drop_rate` of at least 0 and below 1, got {drop_rate}.")
        self.in_features = in_features
        to_codes = nn.Linear(in_features, code_length)
        nn.init.orthogonal_(to_codes.weight)
        nn.init.zeros_(to_codes.bias)
        hidden = [nn.Linear(in_features, in_features), nn.ReLU(), nn.Dropout(drop_rate)]
        norm = [nn.BatchNorm1d(code_length)] if batch_norm else []
        self.head = nn.Sequential(*(hidden if head == "mlp" else []), to_codes, *norm)
        self.bound = BOUNDS[bound]()

    def set_hyperplanes(self, weight: Tensor, bias: Tensor) -> None:
        """Take the map that gives the codes from elsewhere: the sides of hyperplanes.

        Args:
            weight: Of the last linear layer, `(code_length, in_features)`.
            bias: Of the same, `(code_length,)`.

        Raises:
            ValueError: If a shape is wrong, or the layer is more than this map and a bound.
        """
        to_codes = self.head[0]
        if len(self.head) > 1 or not isinstance(to_codes, nn.Linear):
            got = ", ".join(type(layer).__name__ for layer in self.head)
            raise ValueError(f"Expected a `linear` head without batch norm, got {got}.")
        if weight.shape != to_codes.weight.shape or bias.shape != to_codes.bias.shape:
            raise ValueError(
                f"Expected `weight` and `bias` of shape {tuple(to_codes.weight.shape)} and "
                f"{tuple(to_codes.bias.shape)}, got {tuple(weight.shape)} and {tuple(bias.shape)}."
            )
        with torch.no_grad():
            to_codes.weight.copy_(weight)
            to_codes.bias.copy_(bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return the codes, `(batch_size, code_length)`, of features `(batch_size, in_features)`.

        Raises:
            ValueError: If `features` has another shape.
        """
        if features.ndim != 2 or features.shape[1] != self.in_features:
            raise ValueError(
                f"Expected `features` of shape (batch_size, {self.in_features}), "
                f"got {tuple(features.shape)}."
            )
        return self.bound(self.head(features))
