"""Squared error to fixed class codes: what every loss that starts from such codes has to beat."""

from typing import Any

from torch import Tensor, nn

from pml_hashing.centers import assigned_codes, hash_centers


class FixedCodesLoss(nn.Module):
    """The mean over samples and bits of the squared distance to the code of a sample's class.

    Of several labels it is the sign of the sum of their codes, 0 where that is 0.

    Args:
        num_classes: Number of classes.
        code_length: Number of bits.
        class_codes: `"spread"` or `"assigned"`, as for the losses of the library.
        seed: Seed of the codes.
    """

    class_codes: Tensor

    def __init__(
        self, num_classes: int, code_length: int, *, class_codes: str = "spread", seed: int = 0
    ) -> None:
        super().__init__()
        self.num_classes, self.seed = num_classes, seed
        self.wants_features = class_codes == "assigned"
        self.register_buffer("class_codes", hash_centers(num_classes, code_length, seed))

    def use_features(self, features: Tensor, labels: Tensor) -> None:
        """Give confused classes near codes, before training."""
        codes = assigned_codes(features, labels, *self.class_codes.shape, seed=self.seed)
        self.class_codes.copy_(codes)
        self.wants_features = False

    def forward(self, embeddings: Tensor, labels: Tensor, *others: Any, **kwargs: Any) -> Tensor:
        if labels.ndim == 1:
            wanted = self.class_codes[labels]
        else:
            wanted = (labels.to(embeddings.dtype) @ self.class_codes).sign()
        return (embeddings - wanted).square().mean()
