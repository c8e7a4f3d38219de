"""TwoNetworkHashingModel: the query network and the database network of asymmetric training."""

import os
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Self, TypeAlias, Unpack, get_args

import torch
from torch import Tensor, nn
from torchvision import transforms

from pml_hashing._checks import check_choice
from pml_hashing.models import encoding, hub, samples, saving, streaming
from pml_hashing.models.hash_layer import HashLayer
from pml_hashing.models.hashing_model import HashingModel

Network: TypeAlias = Literal["first", "second", "sum"]
"""The query network, the database network, or the sum of the codes of both."""
NETWORKS: tuple[Network, ...] = get_args(Network)


class SumOfCodes(nn.Module):
    """The sum of the codes of two networks: for each bit, the more certain network decides.

    Args:
        first: A network, of any kind.
        second: Another, whose codes have the same length.
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the sums, `(n, code_length)`, for a batch of whatever both networks take."""
        return self.first(inputs) + self.second(inputs)


def choose_network(first: nn.Module, second: nn.Module, network: Network) -> nn.Module:
    """Return the network that encodes: one of the two, or the sum of their codes.

    Raises:
        ValueError: If `network` is none of these.
    """
    check_choice(network, NETWORKS, "network")
    if network == "sum":
        return SumOfCodes(first, second)
    return first if network == "first" else second


class TwoNetworkHashingModel(hub.HubModel):
    """Two networks, trained together for queries and for the database, as one model to deploy.

    `model(images)` is the sum of the codes of both. `model.models` is what an `AsymmetricTrainer`
    takes, and training it trains the model.

    Args:
        first: The query network.
        second: The database network: another one, of the same code length, which takes the same
            images.

    Attributes:
        first: The query network.
        second: The database network.
        code_length: Number of bits.

    Raises:
        TypeError: If one is not a `HashingModel`.
        ValueError: If both are the same object, or of different code lengths.

    Examples:
        >>> import torch
        >>> from pml_hashing.models import HashingModel, TwoNetworkHashingModel
        >>> first, second = (HashingModel("test_vit", 12, img_size=32) for _ in range(2))
        >>> model = TwoNetworkHashingModel(first, second)
        >>> sorted(model.models)
        ['database_embedder', 'database_trunk', 'embedder', 'trunk']
        >>> images = torch.rand(5, 3, 32, 32)
        >>> model.encode(images, progress=False).shape  # the sum, packed: 12 bits are 2 bytes
        torch.Size([5, 2])
        >>> codes = model.encode(images, network="first", progress=False)
        >>> torch.equal(codes, first.encode(images, progress=False))
        True
    """

    form = saving.TWO_NETWORKS_FORMAT

    def __init__(self, first: HashingModel, second: HashingModel) -> None:
        super().__init__()
        for model, name in ((first, "first"), (second, "second")):
            if not isinstance(model, HashingModel):
                raise TypeError(
                    f"Expected `{name}` to be a HashingModel, got {type(model).__name__}."
                )
        if first is second:
            raise ValueError("Expected `first` and `second` to be two models, got one twice.")
        if first.code_length != second.code_length:
            raise ValueError(
                "Expected `first` and `second` of the same code length, "
                f"got {first.code_length} and {second.code_length}."
            )
        self.first, self.second = first, second
        self.code_length = first.code_length

    @property
    def trunk(self) -> nn.Module:
        """The backbone of the query network."""
        return self.first.trunk

    @property
    def embedder(self) -> HashLayer:
        """The hash layer of the query network."""
        return self.first.embedder

    @property
    def database_trunk(self) -> nn.Module:
        """The backbone of the database network."""
        return self.second.trunk

    @property
    def database_embedder(self) -> HashLayer:
        """The hash layer of the database network."""
        return self.second.embedder

    @property
    def models(self) -> dict[str, nn.Module]:
        """The four parts, by the names that `AsymmetricTrainer` has for them."""
        return {
            "trunk": self.trunk,
            "embedder": self.embedder,
            "database_trunk": self.database_trunk,
            "database_embedder": self.database_embedder,
        }

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the sums of the real codes, `(n, code_length)`, for a batch of inputs."""
        return self.first(inputs) + self.second(inputs)

    def network(self, network: Network) -> nn.Module:
        """Return the query network, the database network, or the sum of both, as one module.

        Raises:
            ValueError: If `network` is none of `"first"`, `"second"` and `"sum"`.
        """
        return choose_network(self.first, self.second, network)

    def transform(self, is_training: bool = False, **augmentation: Any) -> transforms.Compose:
        """Return the preprocessing of an image: see `HashingModel.transform`.

        Raises:
            TypeError: As there.
            ValueError: If the networks have none, or preprocess images in different ways: then use
                the transform of each.
        """
        if self.first.data_config != self.second.data_config:
            raise ValueError(
                "Expected two networks with the same `data_config`, "
                f"got {self.first.data_config} and {self.second.data_config}."
            )
        return self.first.transform(is_training, **augmentation)

    def encode(
        self,
        inputs: encoding.Inputs,
        *,
        network: Network = "sum",
        **options: Unpack[encoding.EncodeOptions],
    ) -> Tensor:
        """Return the packed codes of a database, or of a batch of queries.

        The codes are to be compared with others of the same network, or, as the training has it,
        those of the first with those of the second.

        Args:
            inputs: As for `HashingModel.encode`.
            network: What encodes: the `"first"` network, the `"second"`, or the `"sum"` of the
                codes of both.
            **options: The other options of `HashingModel.encode`, `path` among them. A file is
                continued only by the same network.

        Returns:
            Packed codes, uint8, `(n, ceil(code_length / 8))`, on the CPU, or real ones.

        Raises:
            OSError: As `HashingModel.encode`.
            TypeError: As `HashingModel.encode`.
            UnreadableImageError: As `HashingModel.encode`.
            ValueError: As `HashingModel.encode`, and if `network` is unknown.
        """
        encoder = self.network(network)
        return encoding.encode(encoder, self.code_length, self._data_config, inputs, **options)

    def encode_batches(
        self,
        batches: Iterable[streaming.Batch],
        *,
        network: Network = "sum",
        **options: Unpack[streaming.StreamOptions],
    ) -> Iterator[tuple[Any, Tensor]]:
        """Yield ids and codes of one batch after the other, as `HashingModel.encode_batches` does.

        Args:
            batches: Pairs of ids and as many images.
            network: What encodes, as of `encode`.
            **options: The other options of `HashingModel.encode_batches`.

        Yields:
            Ids, as they came (a list, where some are left out), and codes, as of `encode`.

        Raises:
            TypeError: As `HashingModel.encode_batches`.
            UnreadableImageError: As `HashingModel.encode_batches`.
            ValueError: As `HashingModel.encode_batches`, and if `network` is unknown.
        """
        encoder, config = self.network(network), self._data_config
        return streaming.encode_batches(encoder, self.code_length, config, batches, **options)

    @property
    def _data_config(self) -> samples.DataConfig:
        """How both networks preprocess an image, `None` where they differ."""
        configs = self.first.data_config, self.second.data_config
        return configs[0] if configs[0] == configs[1] else None

    def config(self) -> saving.Config:
        return {"first": self.first.config(), "second": self.second.config()}

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        folder: str | os.PathLike[str],
        *,
        backbone: nn.Module | None = None,
        database_backbone: nn.Module | None = None,
        device: str | torch.device = "cpu",
        **options: Unpack[hub.HubOptions],
    ) -> Self:
        """Return a model that `save_pretrained` or `push_to_hub` wrote, in eval mode.

        Args:
            folder: Where it was saved, or its name on the hub, as of `HashingModel`.
            backbone: The module that the query network was made with, if that was not a timm name.
                The saved weights are loaded into it.
            database_backbone: The same for the database network.
            device: Where to put the model.
            **options: For a model on the hub, as of `HashingModel.from_pretrained`.

        Raises:
            FileNotFoundError: If there is no saved model.
            OSError: If the hub does not answer within seconds, or refuses.
            ValueError: If the file is truncated, foreign or of another version, if its weights are
                not those of this model, or if a backbone is missing or not needed.
        """
        place = hub.find_model(folder, **options)
        config, weights = saving.load(place, cls.form)
        parts = saving.split(weights, place)
        of_first, of_second = ((config[name], parts[name], place) for name in saving.NETWORKS)
        first = HashingModel.from_config(*of_first, backbone)
        second = HashingModel.from_config(*of_second, database_backbone, "database_backbone")
        return cls(first, second).to(device).eval()
