"""A tester for asymmetric retrieval: queries and database are encoded in different ways."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from pml_hashing._checks import check_choice
from pml_hashing.code_bank import CodeBank
from pml_hashing.codes import pack
from pml_hashing.models.two_networks import NETWORKS, Network, choose_network
from pml_hashing.testers.hamming_tester import CodesAndLabels, HammingTester


class TwoNetworkHammingTester(HammingTester):
    """`HammingTester` with a second network, or with learned codes, for the database.

    The first network is the trunk and embedder that `test` is called with, as PML's hooks do. Of a
    `TwoNetworkHashingModel`, the second is its `database_trunk` and `database_embedder`. It and the
    code bank are held by reference: the tester sees what training changes.

    Args:
        database_trunk: Trunk of the second network.
        database_embedder: Its embedder. The identity if `None`.
        query: What encodes the queries: the `"first"` network, the `"second"`, or the `"sum"` of
            the codes of both.
        database: What encodes the database: one of these, or a `CodeBank`, whose learned binary
            codes and labels are taken as they are. The bank's data set must then be the split.
        database_splits: Names of the splits that are databases. Every other split holds queries.
        **kwargs: Arguments of `HammingTester`.

    Raises:
        ValueError: If a choice is unknown. When testing: if a code bank is not of the size of the
            split, or if a split is used as both queries and database.

    Examples:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from pml_hashing.testers import TwoNetworkHammingTester
        >>> tester = TwoNetworkHammingTester(
        ...     torch.nn.Identity(), database="second", dataloader_num_workers=0, data_device="cpu"
        ... )
        >>> images = TensorDataset(torch.tensor([[0.5, 2.0], [-1.0, -0.1]]), torch.tensor([0, 1]))
        >>> scores = tester.test(
        ...     {"query": images, "database": images},
        ...     epoch=1,
        ...     trunk_model=torch.nn.Identity(),
        ...     splits_to_eval=[("query", ["database"])],
        ... )
        >>> scores["query"]["hamming_mean_average_precision_level0"]
        1.0
    """

    def __init__(
        self,
        database_trunk: nn.Module,
        database_embedder: nn.Module | None = None,
        *,
        query: Network = "sum",
        database: Network | CodeBank = "sum",
        database_splits: Iterable[str] = ("database",),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice(query, NETWORKS, "query")
        if not isinstance(database, CodeBank):
            check_choice(database, NETWORKS, "database")
        self.second = _network(database_trunk, database_embedder)
        self.query: Network = query
        self.database: Network | CodeBank = database
        self.database_splits = (
            (database_splits,) if isinstance(database_splits, str) else tuple(database_splits)
        )

    def get_all_embeddings_for_all_splits(
        self,
        dataset_dict: dict[str, Any],
        trunk_model: nn.Module,
        embedder_model: nn.Module,
        splits_to_compute_embeddings: list[str],
        collate_fn: Any,
    ) -> CodesAndLabels:
        first = _network(trunk_model, embedder_model)
        embeddings_and_labels = {}
        for split in splits_to_compute_embeddings:
            encoder, dataset = self.query, dataset_dict[split]
            if split in self.database_splits:
                encoder = self.database
            if isinstance(encoder, CodeBank):
                of_split = self._learned_codes(encoder, split, dataset)
            else:
                network = choose_network(first, self.second, encoder)
                of_split = self.get_all_embeddings(dataset, network, collate_fn=collate_fn)
            embeddings_and_labels[split] = of_split
        return embeddings_and_labels

    def _learned_codes(self, bank: CodeBank, split: str, dataset: Any) -> tuple[Tensor, Tensor]:
        if len(bank) != len(dataset):
            raise ValueError(
                f"Expected the split {split!r} of {len(bank)} items, as the code bank has, "
                f"got {len(dataset)}."
            )
        labels = bank.labels_of(slice(None)).long()
        codes = pack(bank.binary_codes).to(self.data_device)
        return codes, labels.view(len(bank), -1).to(self.data_device)

    def do_knn_and_accuracies(
        self,
        accuracies: dict[str, Any],
        embeddings_and_labels: CodesAndLabels,
        query_split_name: str,
        reference_split_names: list[str],
    ) -> None:
        databases = [name for name in reference_split_names if name in self.database_splits]
        if query_split_name in self.database_splits or databases != reference_split_names:
            raise ValueError(
                f"Expected queries that are none of the databases {self.database_splits} and are "
                f"scored against them, got {query_split_name!r} against {reference_split_names}."
            )
        splits = query_split_name, reference_split_names
        super().do_knn_and_accuracies(accuracies, embeddings_and_labels, *splits)


def _network(trunk: nn.Module, embedder: nn.Module | None) -> nn.Module:
    return trunk if embedder is None else nn.Sequential(trunk, embedder)
