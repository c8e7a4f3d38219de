"""The base of all losses: PML losses that take multi-hot labels."""

from typing import Any, Literal, TypeAlias

import torch
from pytorch_metric_learning.distances import BaseDistance
from pytorch_metric_learning.losses import BaseMetricLossFunction
from torch import Tensor

from pml_hashing._checks import (
    check_codes,
    check_labels,
)
from pml_hashing.codes import at_least_float32
from pml_hashing.pairs import IndicesTuple

LossDict: TypeAlias = dict[str, dict[str, Any]]
"""PML's named sub-losses, each with its `losses`, `indices` and `reduction_type`."""


class BaseHashingLoss(BaseMetricLossFunction):
    """Base class of all losses. A subclass implements `compute_loss` and is not subclassed again.

    Labels are class ids `(batch_size,)`, as in PML, or multi-hot rows `(batch_size, num_classes)`.
    With `collect_stats=True` the mean of every sub-loss is an attribute of its name, which PML's
    hooks record.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_to_recordable_attributes(list_of_names=self._sub_loss_names(), is_stat=True)

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        """Return the loss of every element, pair or triplet, before reduction."""
        raise NotImplementedError

    def get_default_distance(self) -> BaseDistance:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the distance used where the caller gives none."""
        return super().get_default_distance()

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: IndicesTuple | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Return the reduced loss.

        Args:
            embeddings: Codes of the batch, `(batch_size, code_length)`, before binarization.
            labels: Class ids or multi-hot rows. Not needed where `indices_tuple` is given.
            indices_tuple: Pairs or triplets chosen by a miner. All pairs of the batch if `None`.
            ref_emb: Codes to pair the batch with. The batch itself if `None`.
            ref_labels: Labels of `ref_emb`.

        Raises:
            ValueError: If a shape is wrong.
        """
        return self._reduced_loss(embeddings, labels, indices_tuple, ref_emb, ref_labels)

    def _reduced_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor | None,
        ref_labels: Tensor | None,
        **extra: Any,
    ) -> Tensor:
        # The steps of BaseMetricLossFunction.forward, less its demand that labels be 1-D.
        self.reset_stats()
        check_codes(embeddings, "embeddings")
        same_labels = ref_emb is None or ref_emb is embeddings or ref_labels is labels
        if labels is not None:
            check_labels(labels, embeddings, "labels")
            labels = labels.to(embeddings.device)
        ref_emb = embeddings if ref_emb is None else ref_emb
        check_codes(ref_emb, "ref_emb", embeddings.shape[1])
        if same_labels:  # the same object, by which a batch paired with itself is known
            ref_labels = labels
        if ref_labels is not None:
            check_labels(ref_labels, ref_emb, "ref_labels")
            ref_labels = ref_labels.to(ref_emb.device)
        with torch.autocast(embeddings.device.type, enabled=False):
            loss_dict = self.compute_loss(
                embeddings, labels, indices_tuple, ref_emb, ref_labels, **extra
            )
        if self.collect_stats:
            for name, sub_loss in loss_dict.items():  # 0, an integer, where there is no pair
                setattr(self, name, torch.as_tensor(sub_loss["losses"]).float().mean().item())
        self.add_embedding_regularization_to_loss_dict(loss_dict, embeddings)
        return self.reducer(loss_dict, at_least_float32(embeddings), labels)  # sums in this dtype

    def pair_loss(
        self, losses: Tensor, pairs: tuple[Tensor, Tensor], kind: Literal["pos", "neg"]
    ) -> dict[str, Any]:
        """Return one entry of the loss dict: a loss per pair, or zero where there is no pair."""
        if len(losses) == 0:
            return self.zero_loss()
        return {"losses": losses, "indices": pairs, "reduction_type": f"{kind}_pair"}

    def element_loss(self, losses: Tensor) -> dict[str, Any]:
        """Return one entry of the loss dict: a loss per sample of the batch."""
        indices = torch.arange(len(losses), device=losses.device)
        return {"losses": losses, "indices": indices, "reduction_type": "element"}
