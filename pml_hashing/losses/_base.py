"""The base of all losses: PML losses that take multi-hot labels."""

from typing import Any, Literal, TypeAlias

import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.reducers import (
    ClassWeightedReducer,
    DivisorReducer,
    MeanReducer,
    MultipleReducers,
    PerAnchorReducer,
)
from torch import Tensor, nn

from pml_hashing._checks import check_codes, check_labels
from pml_hashing._compat import loss_and_miner_utils as lmu
from pml_hashing.codes import at_least_float32
from pml_hashing.pairs import IndicesTuple, check_indices_tuple

LossDict: TypeAlias = dict[str, dict[str, Any]]
"""PML's named sub-losses, each with its `losses`, `indices` and `reduction_type`."""


INDICES_OF = {"element": 1, "pos_pair": 2, "neg_pair": 2, "triplet": 3}
"""How many places each kind of element has."""


class BaseHashingLoss(BaseMetricLossFunction):
    """Base class of all losses. A subclass implements `compute_loss`.

    Labels are class ids `(batch_size,)`, as in PML, or multi-hot rows `(batch_size, num_classes)`.
    With `collect_stats=True` the mean of every sub-loss is an attribute of its name, which PML's
    hooks record.

    A loss that computes with `self.distance` overrides `get_default_distance`; any other refuses
    a `distance`.

    Attributes:
        of_pairs: What a miner's choice means: the pairs of the loss, or, where a subclass sets this
            to `False`, weights of the samples, as in PML's classification losses: a sample's losses
            count by how often it was chosen, the most frequent by 1.

    Raises:
        TypeError: If there is a `distance` that the loss does not compute with.
    """

    of_pairs: bool = True

    def __init__(self, **kwargs: Any) -> None:
        fixed = type(self).get_default_distance is BaseHashingLoss.get_default_distance
        if fixed and kwargs.get("distance") is not None:
            raise TypeError(
                f"Expected no `distance`, as the formula of {type(self).__name__} fixes what it "
                f"computes of codes, got {type(kwargs['distance']).__name__}."
            )
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
            indices_tuple: Pairs or triplets chosen by a miner. All pairs of the batch if `None`. A
                loss of samples (`of_pairs`) weighs them by it.
            ref_emb: Codes to pair the batch with. The batch itself if `None`.
            ref_labels: Labels of `ref_emb`.

        Raises:
            TypeError: If class ids are no integers, or `indices_tuple` holds none.
            ValueError: If a shape is wrong, `indices_tuple` holds neither pairs nor triplets of the
                batch, or the reducer cannot reduce this loss, or not with several labels for each
                sample.
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
        if indices_tuple is not None:
            sizes = len(embeddings), len(ref_emb)
            indices_tuple = check_indices_tuple(indices_tuple, "`indices_tuple`", *sizes)
        check_reducer(self.reducer, labels, embeddings, ref_emb)
        with torch.autocast(embeddings.device.type, enabled=False):
            loss_dict = self.compute_loss(
                embeddings, labels, indices_tuple, ref_emb, ref_labels, **extra
            )
        check_loss_dict(loss_dict, self._sub_loss_names(), type(self).__name__)
        if not self.of_pairs:
            weigh_samples(loss_dict, indices_tuple, embeddings)
        if self.collect_stats:
            for name, sub_loss in loss_dict.items():  # 0, an integer, where there is no pair
                losses = torch.as_tensor(sub_loss["losses"], device=embeddings.device)
                setattr(self, name, losses.float().mean().item())
        self.add_embedding_regularization_to_loss_dict(loss_dict, embeddings)
        return self._reduce(loss_dict, at_least_float32(embeddings), labels)

    def _reduce(self, loss_dict: LossDict, embeddings: Tensor, labels: Tensor | None) -> Tensor:
        """Return what the reducer does: `torch.func` cannot go through PML's sum of sub-losses."""
        reducer = self.reducer
        if not isinstance(reducer, MultipleReducers):
            return reducer(loss_dict, embeddings, labels)
        reducers = dict(reducer.reducers.items())
        parts = [
            reducers.get(name, reducer.default_reducer)({name: sub_loss}, embeddings, labels)
            for name, sub_loss in loss_dict.items()
        ]
        parts = [part.reshape(()) for part in parts]  # a regularizer may return a vector of one
        with torch.autocast(embeddings.device.type, enabled=False):
            return reducer.sub_loss_reduction(torch.stack(parts), embeddings, labels)

    def takes_means(self, *names: str) -> bool:
        """Return whether all that becomes of these sub-losses is their mean, as by default.

        What the losses are of, pairs or samples, then does not matter. PML's other reducers ask.
        """
        reducers: list[nn.Module] = [self.reducer]
        if type(self.reducer) is MultipleReducers:
            given = dict(self.reducer.reducers.items())
            reducers = [given.get(name, self.reducer.default_reducer) for name in names]
        return all(type(reducer) is MeanReducer for reducer in reducers)

    @property
    def wants_features(self) -> bool:
        """Whether `use_features` is to be called before training: see `class_codes="assigned"`."""
        return False

    def use_features(self, features: Tensor, labels: Tensor) -> None:
        """Give confused classes near codes, in a loss with `class_codes="assigned"`.

        The trainers call it before the first round. In a loop of your own:
        `loss_func.use_features(*gather_features(model.trunk, loader))`.

        Args:
            features: One row per sample, `(n, width)`, of the model before training: see
                `centers.gather_features`.
            labels: Class ids `(n,)` or multi-hot rows `(n, num_classes)`.

        Raises:
            ValueError: If the class codes of the loss are others, there are none, or training has
                started from them; if features or labels are wrong.
        """
        name = type(self).__name__
        raise ValueError(f'Expected a loss with `class_codes="assigned"`, got {name}.')

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


def codes_of_networks(
    embeddings: Tensor, ref_emb: Tensor, code_length: int | None = None
) -> list[Tensor]:
    """Return the codes of the same samples by each network, at least float32.

    Args:
        embeddings: As for `compute_loss`.
        ref_emb: Their codes by a second network, or `embeddings` themselves.
        code_length: Number of bits. That of `embeddings` if `None`.

    Raises:
        ValueError: If a network has another number of codes, or of bits.
    """
    networks = {"embeddings": embeddings}
    if ref_emb is not embeddings:
        networks["ref_emb"] = ref_emb
    shape = (len(embeddings), embeddings.shape[1] if code_length is None else code_length)
    for name, codes in networks.items():
        if codes.shape != shape:
            raise ValueError(
                f"Expected `{name}` of shape {shape}, one code per sample, got "
                f"{tuple(codes.shape)}."
            )
    return [at_least_float32(codes) for codes in networks.values()]


def weigh_samples(
    loss_dict: LossDict, indices_tuple: IndicesTuple | None, embeddings: Tensor
) -> None:
    """Multiply the losses of each sample by how often a miner chose it, at most 1."""
    if indices_tuple is None:
        return
    dtype = torch.promote_types(embeddings.dtype, torch.float32)
    weights = lmu.convert_to_weights(indices_tuple, embeddings, dtype)
    for sub_loss in loss_dict.values():
        if sub_loss["reduction_type"] == "element":
            sub_loss["losses"] = sub_loss["losses"] * weights


def check_reducer(
    reducer: nn.Module, labels: Tensor | None, embeddings: Tensor, ref_emb: Tensor
) -> None:
    """Raise if a reducer, or one within it, would fail or weigh the losses by something else."""
    for module in reducer.modules():
        if isinstance(module, PerAnchorReducer) and len(ref_emb) > len(embeddings):
            raise ValueError(
                "Expected a `reducer` other than PerAnchorReducer, which knows the pairs within a "
                f"batch alone, for {len(embeddings)} codes and a longer `ref_emb` (such as a "
                f"memory), got one for {len(ref_emb)}."
            )
        if isinstance(module, DivisorReducer):
            raise ValueError(
                "Expected a `reducer` other than DivisorReducer, as these losses have no divisor, "
                "got one."
            )
        if isinstance(module, ClassWeightedReducer) and (labels is None or labels.ndim != 1):
            got = "none" if labels is None else f"multi-hot rows of shape {tuple(labels.shape)}"
            raise ValueError(
                "Expected `labels` with class ids, by which ClassWeightedReducer weighs, "
                f"got {got}."
            )


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
