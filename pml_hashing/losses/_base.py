"""The base of all losses: PML losses that take multi-hot labels."""

from typing import Any, Literal, TypeAlias

import torch
from pytorch_metric_learning.distances import BaseDistance
from pytorch_metric_learning.losses import BaseMetricLossFunction
from torch import Tensor

from pml_hashing._checks import check_codes, check_labels
from pml_hashing.codes import at_least_float32
from pml_hashing.pairs import IndicesTuple

LossDict: TypeAlias = dict[str, dict[str, Any]]
"""PML's named sub-losses, each with its `losses`, `indices` and `reduction_type`."""


INDICES_OF = {"element": 1, "pos_pair": 2, "neg_pair": 2, "triplet": 3}
"""How many places each kind of element has."""


class BaseHashingLoss(BaseMetricLossFunction):
    """Base class of all losses. A subclass implements `compute_loss`.

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
        """Return the loss of every sample, pair or triplet, before reduction.

        It is called with what `forward` has checked, outside of autocast.

        Args:
            embeddings: Codes of the batch, `(batch_size, code_length)`, in the dtype they came in.
            labels: Class ids or multi-hot rows on the device of the codes, or `None`.
            indices_tuple: A miner's pairs or triplets, or `None`.
            ref_emb: Codes to pair the batch with: `embeddings`, the same object, if none were
                given.
            ref_labels: Labels of `ref_emb`: `labels`, the same object, where the batch is paired
                with itself.

        Returns:
            One entry for each name of `_sub_loss_names`, `["loss"]` unless a subclass says
            otherwise; the loss is their sum. An entry is a dict of

            - `"losses"`: a tensor with one loss for each element, `(m,)`,
            - `"indices"`: places in the batch that the losses belong to,
            - `"reduction_type"`: what an element is, and with it what the indices are: `"element"`
              (a tensor `(m,)`), `"pos_pair"` or `"neg_pair"` (two of them), `"triplet"` (three), or
              `"already_reduced"` (`None`; the loss is a number).

            `element_loss`, `pair_loss` and PML's `zero_loss` make entries.
        """
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
        check_loss_dict(loss_dict, self._sub_loss_names(), type(self).__name__)
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


def codes_of_networks(embeddings: Tensor, ref_emb: Tensor) -> list[Tensor]:
    """Return the codes of the batch by each network: `ref_emb` may be the batch itself.

    Raises:
        ValueError: If there is not one code of each network for each sample.
    """
    if ref_emb is embeddings:
        return [at_least_float32(embeddings)]
    if ref_emb.shape != embeddings.shape:
        raise ValueError(
            f"Expected `ref_emb` of shape {tuple(embeddings.shape)}, the codes of the same samples "
            f"by the second network, got {tuple(ref_emb.shape)}."
        )
    return [at_least_float32(embeddings), at_least_float32(ref_emb)]


def check_loss_dict(loss_dict: Any, names: list[str], loss_class: str) -> None:
    """Raise unless a loss returned what `compute_loss` has to: shapes are checked, not values.

    Raises:
        TypeError: If it is no dict, or an entry is none with losses, indices and reduction type.
        ValueError: If its names are others, or losses and indices do not fit each other.
    """
    start = f"Expected `compute_loss` of {loss_class} to return "
    if not isinstance(loss_dict, dict):
        raise TypeError(f"{start}a dict of sub-losses, got {type(loss_dict).__name__}.")
    if set(loss_dict) != set(names):
        raise ValueError(f"{start}the sub-losses {names}, got {list(loss_dict)}.")
    for name, entry in loss_dict.items():
        keys = set(entry) if isinstance(entry, dict) else type(entry).__name__
        if keys != {"losses", "indices", "reduction_type"}:
            raise TypeError(
                f"{start}a dict with `losses`, `indices` and `reduction_type` as {name!r} (see "
                f"`element_loss`), got {sorted(keys) if isinstance(keys, set) else keys}."
            )
        problem = _problem_of(**entry)
        if problem:
            raise ValueError(f"{start}{problem} as {name!r}.")


def _problem_of(losses: Any, indices: Any, reduction_type: Any) -> str | None:
    """Return what is wrong with an entry, after "Expected ... to return", `None` if nothing is."""
    if reduction_type == "already_reduced":
        size = losses.numel() if isinstance(losses, Tensor) else 1
        return None if size == 1 else f"one loss that is already reduced, got {size}"
    if reduction_type not in INDICES_OF:
        known = ", ".join(map(repr, (*INDICES_OF, "already_reduced")))
        return f"a `reduction_type` that is one of {known}, got {reduction_type!r}"
    if not isinstance(losses, Tensor) or losses.ndim != 1:
        got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        return f"`losses` of shape (m,), got {got}"
    count = INDICES_OF[reduction_type]
    places = [indices] if count == 1 else indices
    if not isinstance(places, list | tuple):
        places = [places]
    sizes = [tuple(p.shape) if isinstance(p, Tensor) else type(p).__name__ for p in places]
    if sizes != [tuple(losses.shape)] * count:
        wanted = "a tensor" if count == 1 else f"{count} tensors"
        return f"`indices` of {wanted} of shape ({len(losses)},) with {reduction_type}, got {sizes}"
    return None
