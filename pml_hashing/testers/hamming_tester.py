"""A PML tester that ranks a database by the Hamming distance of its codes."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pml_hashing._arrays import to_labels
from pml_hashing._checks import check_choice
from pml_hashing._compat import GlobalEmbeddingSpaceTester
from pml_hashing._compat import common_functions as c_f
from pml_hashing.codes import pack, unpack
from pml_hashing.evaluation import HammingAccuracyCalculator

ALL_LABELS: Any = "all"  # PML's `label_hierarchy_level` that picks no column

SplitsToEval: TypeAlias = Sequence[tuple[str, Sequence[str]]]
"""Each split whose items are queries, and the splits that they are scored against, together."""
CodesAndLabels: TypeAlias = dict[str, tuple[Tensor, Tensor]]
"""Packed codes and labels of each split, by its name."""


class HammingTester(GlobalEmbeddingSpaceTester):
    """PML's `GlobalEmbeddingSpaceTester` for codes: binarized, packed and ranked exactly.

    Use it wherever PML's goes, such as in `HookContainer.end_of_epoch_hook`. The codes of each
    batch are packed as they are computed: a data set of n images takes `n * code_length / 8` bytes,
    and its real outputs are never all in memory.

    Items of a data set are `(x, y)`, and may go on with anything, such as an index. A label `y` is
    a class id, or a multi-hot row, which is scored as a whole. Where a `label_hierarchy_level` is
    given, columns of class ids are levels of a hierarchy, as in PML.

    `splits_to_eval=[("query", ["database"])]` scores the one against the other. Where a split is
    scored against itself, which PML does to every split if `splits_to_eval` is `None`, each query
    is left out of its own ranking.

    Args:
        accuracy_calculator: What to compute. All of its metrics for the first 100 items and radius
            2, on the device of the data, if `None`.
        label_hierarchy_level: For class ids, PML's: the columns that are scored, each a level.
            Multi-hot rows need `"all"`.
        **kwargs: PML's other arguments, except `normalize_embeddings` and `pca`, which would
            change the codes.

    Raises:
        TypeError: If `accuracy_calculator` is not a `HammingAccuracyCalculator`, which alone reads
            packed codes.
        ValueError: If `normalize_embeddings` or `pca` is asked for. When testing: if a data set is
            empty, codes are NaN or infinite, labels are fractions, or multi-hot rows meet a
            `label_hierarchy_level` or `set_min_label_to_zero`.

    Examples:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from pml_hashing.testers import HammingTester
        >>> tester = HammingTester(dataloader_num_workers=0, data_device="cpu")
        >>> database = TensorDataset(torch.tensor([[0.5, 2.0], [-1.0, -0.1]]), torch.tensor([0, 1]))
        >>> scores = tester.test(
        ...     {"query": database, "database": database},
        ...     epoch=1,
        ...     trunk_model=torch.nn.Identity(),
        ...     splits_to_eval=[("query", ["database"])],
        ... )
        >>> scores["query"]["hamming_mean_average_precision_level0"]
        1.0
    """

    def __init__(
        self,
        *,
        accuracy_calculator: HammingAccuracyCalculator | None = None,
        label_hierarchy_level: Any = ALL_LABELS,
        **kwargs: Any,
    ) -> None:
        for name in ("normalize_embeddings", "pca"):
            if value := kwargs.pop(name, None):
                raise ValueError(f"Expected no `{name}`, which changes the codes, got {value}.")
        kwargs["data_and_label_getter"] = kwargs.get("data_and_label_getter") or _first_two
        kwargs |= {"label_hierarchy_level": label_hierarchy_level, "normalize_embeddings": False}
        super().__init__(accuracy_calculator=accuracy_calculator, **kwargs)

    def initialize_accuracy_calculator(self) -> None:
        if self.accuracy_calculator is None:
            self.accuracy_calculator = HammingAccuracyCalculator(device=self.data_device)
        if not isinstance(self.accuracy_calculator, HammingAccuracyCalculator):
            raise TypeError(
                "Expected `accuracy_calculator` to be a HammingAccuracyCalculator, which reads "
                f"packed codes, got {type(self.accuracy_calculator).__name__}."
            )

    def compute_all_embeddings(
        self, dataloader: Iterable[Any], trunk_model: nn.Module, embedder_model: nn.Module
    ) -> tuple[Tensor, Tensor]:
        """Return the packed codes of a data set, and its labels in one or more columns."""
        packed_codes, labels = [], []
        with torch.no_grad():
            for batch in tqdm(dataloader):
                images, batch_labels = self.data_and_label_getter(batch)
                labels.append(self._to_columns(batch_labels))
                codes = self.get_embeddings_for_eval(trunk_model, embedder_model, images)
                packed_codes.append(pack(codes))
        if not labels:
            raise ValueError("Expected a data set of at least one item, got an empty one.")
        return torch.cat(packed_codes), torch.cat(labels).to(self.data_device)

    def _to_columns(self, batch_labels: Any) -> Tensor:
        batch_labels = to_labels(batch_labels, "labels")
        if batch_labels.is_floating_point():
            if (batch_labels != batch_labels.round()).any():
                raise ValueError(
                    "Expected labels of class ids, or of zeros and ones, got fractions."
                )
            batch_labels = batch_labels.long()
        mapped = c_f.process_label(batch_labels, ALL_LABELS, self.label_mapper)
        labels = to_labels(mapped, "labels")
        return labels if labels.ndim == 2 else labels.unsqueeze(1)

    def get_splits_to_compute_embeddings(
        self, dataset_dict: dict[str, Any], splits_to_eval: SplitsToEval | None
    ) -> tuple[list[tuple[str, list[str]]], list[str]]:
        """Return copies of the splits to evaluate, which PML writes to, and what to encode.

        Raises:
            TypeError: If they are no pairs of a name and a list of names.
            ValueError: If there is no such split.
        """
        splits = [(name, [name]) for name in dataset_dict] if splits_to_eval is None else []
        for pair in splits_to_eval or []:
            is_pair = isinstance(pair, tuple | list) and len(pair) == 2
            if not is_pair or not isinstance(pair[1], tuple | list):
                expected = 'Expected `splits_to_eval` of pairs such as ("query", ["database"])'
                raise TypeError(f"{expected}, got {pair!r}.")
            query, references = pair
            for name in (query, *references):
                check_choice(name, tuple(dataset_dict), "splits_to_eval")
            splits.append((query, [*references]))
        return super().get_splits_to_compute_embeddings(dataset_dict, splits)

    def maybe_visualize(self, embeddings_and_labels: CodesAndLabels, epoch: int) -> None:
        if self.visualizer:
            splits = embeddings_and_labels.items()
            unpacked = {split: (unpack(codes), labels) for split, (codes, labels) in splits}
            super().maybe_visualize(unpacked, epoch)

    def do_knn_and_accuracies(
        self,
        accuracies: dict[str, Any],
        embeddings_and_labels: CodesAndLabels,
        query_split_name: str,
        reference_split_names: list[str],
    ) -> None:
        splits = query_split_name, reference_split_names
        names = (query_split_name, *reference_split_names)
        if self._has_levels({split: embeddings_and_labels[split][1] for split in names}):
            super().do_knn_and_accuracies(accuracies, embeddings_and_labels, *splits)
            return
        self.label_levels = [ALL_LABELS]
        data = self.set_reference_and_query(embeddings_and_labels, *splits)
        includes = self.ref_includes_query(*splits)
        scores = self.accuracy_calculator.get_accuracy(*data, includes)
        for metric, score in scores.items():
            accuracies[self.accuracies_keyname(metric, ALL_LABELS)] = score

    def _has_levels(self, labels: dict[str, Tensor]) -> bool:
        """Return whether columns are PML's levels of class ids, and not multi-hot.

        Raises:
            ValueError: If the labels of the splits are not of one kind that can be scored.
        """
        columns = {split: of_split.shape[1] for split, of_split in labels.items()}
        got = f"splits with these numbers of label columns: {columns}"
        if len(set(columns.values())) > 1:
            raise ValueError(f"Expected labels of one kind in all splits, got {got}.")
        if set(columns.values()) == {1}:
            return True
        if self.label_hierarchy_level != ALL_LABELS:
            if any(((of_split < 0) | (of_split > 1)).any() for of_split in labels.values()):
                return True
            raise ValueError(
                'Expected `label_hierarchy_level="all"` for multi-hot labels, of which another '
                f"level is one column only, got {self.label_hierarchy_level!r} and {got}."
            )
        if self.set_min_label_to_zero:
            raise ValueError(
                "Expected no `set_min_label_to_zero` for multi-hot labels, each column of which it "
                f"would renumber, got {got}."
            )
        return False


def _first_two(batch: Any) -> tuple[Any, Any]:
    return batch[0], batch[1]
