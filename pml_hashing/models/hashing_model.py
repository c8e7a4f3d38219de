"""HashingModel: a timm backbone, or a module of your own, with a hash layer on top."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn
from torchvision import transforms

from pml_hashing._checks import check_at_least
from pml_hashing.models import encoding, hub, itq, preprocessing, saving, streaming
from pml_hashing.models.backbones import feature_width, to_trunk
from pml_hashing.models.hash_layer import Bound, HashLayer, Head

DEFAULT_IMG_SIZE = 224


class HashingModel(hub.HubModel):
    """A backbone and a hash layer: `model(images)` is `model.embedder(model.trunk(images))`.

    The two parts are what PML's trainers and testers take, and training them trains the model:
    `models={"trunk": model.trunk, "embedder": model.embedder}`.

    Args:
        backbone: Any name of `timm.list_models()`, with or without the tag of its weights, or a
            module that maps its inputs to features `(n, num_features)`.
        code_length: Number of bits.
        pretrained: Load timm's weights, from its hub or the hub's local cache.
        head: `"linear"`, or `"mlp"` with one hidden layer.
        bound: `"tanh"` for codes from -1 to 1, `"scaled_tanh"`, or `"none"`: see `HashLayer`.
        drop_rate: Dropout before the classifier in timm's terms, so before the hash layer, and in
            the hidden layer of the `"mlp"` head. A module of your own has its own dropout.
        batch_norm: Batch normalization of the bits before the bound: see `HashLayer`.
        in_chans: Channels of an image. timm adapts trained weights to other than 3.
        img_size: Height and width of an image, for `transform` and for backbones of a fixed size
            such as ViT and Swin. The backbone's own if `None`.
        num_features: Width of the backbone's features. Found by running one black image through
            the backbone if `None`; needed only for a backbone that takes no images.
        checkpoint_path: A file to load instead of timm's weights: safetensors, or a state dict of
            PyTorch; with the classifier or without it; of the whole backbone.

    Attributes:
        trunk: The backbone.
        embedder: The hash layer.
        code_length: Number of bits.
        data_config: How timm's `create_transform` preprocesses an image, a dict: `input_size`,
            `mean`, `std`, `interpolation`, ... `None` if the backbone is not timm's. Change it if
            the model is trained on images with another mean: it is saved with the model.

    Raises:
        FileNotFoundError: If `checkpoint_path` is not a file.
        OSError: If weights are to be `pretrained`, and neither timm's hub nor its local cache has
            them.
        TypeError: If `backbone` is neither a name nor a module.
        ValueError: If timm does not know the name, if `checkpoint_path` does not hold the weights
            of this backbone, if the backbone returns anything but features `(n, num_features)`, or
            if an argument is out of range.

    Examples:
        >>> import torch
        >>> from pml_hashing.models import HashingModel
        >>> model = HashingModel("test_vit", code_length=12, img_size=32)
        >>> images = torch.rand(5, 3, 32, 32)
        >>> model(images).shape
        torch.Size([5, 12])
        >>> model.encode(images, progress=False).shape  # packed: 12 bits are 2 bytes
        torch.Size([5, 2])

        Another backbone is another name, or a module. Precomputed features need none:

        >>> model = HashingModel("test_resnet", code_length=12)
        >>> pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten())
        >>> model = HashingModel(pool, code_length=12)
        >>> model = HashingModel(torch.nn.Identity(), code_length=12, num_features=512)
        >>> model(torch.randn(5, 512)).shape
        torch.Size([5, 12])
    """

    form = saving.FORMAT

    def __init__(
        self,
        backbone: str | nn.Module,
        code_length: int,
        *,
        pretrained: bool = False,
        head: Head = "linear",
        bound: Bound = "tanh",
        drop_rate: float = 0.0,
        batch_norm: bool = False,
        in_chans: int = 3,
        img_size: int | None = None,
        num_features: int | None = None,
        checkpoint_path: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        check_at_least(in_chans, 1, "in_chans")
        check_at_least(1 if img_size is None else img_size, 1, "img_size")
        images = {"drop_rate": drop_rate, "in_chans": in_chans, "img_size": img_size}
        weights = {"pretrained": pretrained, "checkpoint_path": checkpoint_path}
        self.trunk = to_trunk(backbone, **weights, **images)
        self.data_config = preprocessing.resolve_data_config(self.trunk, in_chans, img_size)
        if num_features is None:
            size = img_size or DEFAULT_IMG_SIZE
            input_size = (self.data_config or {}).get("input_size", (in_chans, size, size))
            num_features = feature_width(self.trunk, input_size)
        self.embedder = HashLayer(
            num_features,
            code_length,
            head=head,
            bound=bound,
            drop_rate=drop_rate,
            batch_norm=batch_norm,
        )
        self.code_length = code_length
        name = backbone if isinstance(backbone, str) else None
        layer = {"code_length": code_length, "head": head, "bound": bound}
        self._options = {"backbone": name, **layer, **images, "num_features": num_features}
        if batch_norm:  # files of models without it stay as they were
            self._options["batch_norm"] = True

    @classmethod
    def from_itq(
        cls,
        backbone: str | nn.Module,
        code_length: int,
        inputs: encoding.Inputs | None = None,
        *,
        features: Tensor | None = None,
        max_samples: int = 5000,
        max_iter: int = 50,
        seed: int = 0,
        batch_size: int = 64,
        num_workers: int = 0,
        on_unreadable: encoding.OnUnreadable | None = None,
        device: str | torch.device | None = None,
        progress: bool = True,
        **options: Any,
    ) -> Self:
        """Return a model whose hash layer is learned without labels, on a frozen backbone.

        The layer is the affine map of `baselines.ITQ` from the backbone's features to bits: their
        principal directions, rotated so that binarization loses least. The model encodes, is saved
        and searched as one that was trained, and can be trained on.

        Args:
            backbone: As of `HashingModel`. It should have trained weights.
            code_length: Number of bits. Less than the number of images, and at most the width of
                the features.
            inputs: Images or samples to learn from, as of `encode`.
            features: The backbone's features of them, `(n, num_features)`, where they are known,
                instead of `inputs`.
            max_samples: How many are drawn from `inputs`, at most.
            max_iter: Alternations of ITQ.
            seed: Of the draw and of ITQ.
            batch_size: As of `encode`.
            num_workers: As of `encode`.
            on_unreadable: As of `encode`.
            device: Where the backbone runs, and the model is then. The CPU if `None`.
            progress: Show a progress bar.
            **options: `pretrained`, `checkpoint_path`, `in_chans`, `img_size`, `num_features`, as
                of `HashingModel`.

        Raises:
            TypeError: If `inputs` are of another type.
            UnreadableImageError: If an image cannot be read, and `on_unreadable` is `None`.
            ValueError: If not just one of `inputs` and `features` is given, or there are too few
                images or features for so many bits.

        Examples:
            >>> import torch
            >>> from pml_hashing.models import HashingModel
            >>> features = torch.randn(100, 16)
            >>> model = HashingModel.from_itq(
            ...     torch.nn.Identity(), 8, features, num_features=16, progress=False
            ... )
            >>> model.encode(features, progress=False).shape
            torch.Size([100, 1])
        """
        if (inputs is None) == (features is None):
            raise ValueError("Expected either `inputs` or `features`, got both or neither.")
        model = cls(backbone, code_length, bound="none", **options)
        if device is not None:
            model.to(device)
        if features is None:
            features = itq.sample_features(
                model.trunk,
                model.embedder.in_features,
                model.data_config,
                inputs,
                max_samples,
                seed,
                device=encoding.device_for(model, device),
                batch_size=batch_size,
                num_workers=num_workers,
                on_unreadable=on_unreadable,
                progress=progress,
            )
        planes = itq.fit_hyperplanes(features, code_length, max_iter=max_iter, seed=seed)
        model.embedder.set_hyperplanes(*planes)
        return model.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return real codes, `(n, code_length)`, of a batch of whatever the backbone takes."""
        return self.embedder(self.trunk(inputs))

    def transform(self, is_training: bool = False, **augmentation: Any) -> transforms.Compose:
        """Return the preprocessing of a PIL image that the backbone was trained with.

        Args:
            is_training: Whether to add timm's default augmentation: random crops, flips and
                colors.
            **augmentation: What differs from that default, as arguments of
                `timm.data.create_transform`: `LIGHT_AUGMENTATION` and a smaller `input_size` for
                fine-tuning, `hflip=0` where left and right mean something.

        Raises:
            TypeError: If timm's transform has no such argument.
            ValueError: If the backbone is not timm's, and `data_config` was not set, or there is an
                `augmentation` while nothing is augmented.
        """
        if self.data_config is None:
            raise ValueError(
                "Expected a backbone of timm, whose data config tells its preprocessing, "
                f"got {type(self.trunk).__name__}: set `data_config`, or use your own transform."
            )
        return preprocessing.create_transform(self.data_config, is_training, **augmentation)

    def encode(
        self,
        inputs: encoding.Inputs,
        *,
        path: str | os.PathLike[str] | None = None,
        ids: Sequence[str | int] | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        on_unreadable: encoding.OnUnreadable | None = None,
        device: str | torch.device | None = None,
        amp: bool = False,
        progress: bool = True,
        packed: bool = True,
    ) -> Tensor:
        """Return the packed codes of a database, or of a batch of queries.

        The model runs in eval mode without gradients, and is left as it was. Each batch is packed
        as it comes, so that an image takes `code_length / 8` bytes of memory.

        With a `path`, not even these are held: they are written to a file as they come, and mapped
        from it at the end. If it is stopped at any moment, the same call resumes where it was; once
        the file is there, the same call returns what it holds. `HammingKNN.load` reads it.

        Args:
            inputs: One of these:

                - preprocessed images `(n, in_chans, height, width)`, or whatever the backbone
                  takes, as a tensor or an array of floats, or a list of such images;
                - images, which `transform` preprocesses: a list of paths, of bytes of files, of PIL
                  images or of arrays of pixels; one array of pixels (uint8 or uint16,
                  `(n, height, width[, channels])`); or rows of a table, dicts with an image under
                  `image`, `img`, `pixel_values` or `path`, as of Hugging Face `datasets`;
                - a data set, with places or iterable, of samples, images or rows, or of tuples that
                  start with one, such as `(image, label)`;
                - an iterable of batches, such as a `DataLoader`, which may also be tuples that
                  start with the samples.
            path: A file to write, for a tensor or a data set, with places or iterable. An
                unfinished file is kept in `path.partial` and `path.progress`. The same model is
                recognized by its weights, the same data set only by its length and its ids.
            ids: For the file: distinct strings or integers, one for each item. Their places if
                `None`. On several machines, each with a part of the images, they tell the parts
                apart: `search.merge_files` puts them together.
            batch_size: Samples at a time, where `inputs` are not batches already.
            num_workers: Processes that load the items of a data set.
            on_unreadable: Called with the `UnreadableImageError` of each item of a data set that
                raises an `OSError`, as images do that are missing or do not decode; the item then
                gets no code, and the codes of all others follow without a gap. The `append` of a
                list will do. If `None`, the error is raised.
            device: Where to run. Where the model is if `None`.
            amp: Run in mixed precision, bfloat16: much faster where the processor has instructions
                for it. Outputs near 0 may get the other bit.
            progress: Show a progress bar.
            packed: Whether bits are packed. If not, the real codes are returned, float32
                `(n, code_length)`, as re-ranking takes them; not for a file.

        Returns:
            Packed codes, uint8, `(n, ceil(code_length / 8))`, on the CPU, or real ones.

        Raises:
            OSError: If the file cannot be written; what was written before is kept.
            TypeError: If `inputs` or a batch of them is of another type.
            UnreadableImageError: If an item cannot be read, and `on_unreadable` is `None`.
            ValueError: If `inputs` are empty or of another shape, a code is NaN or infinite, `ids`
                are not as many or not distinct, or `path` holds anything but codes by this model of
                such a data set.
        """
        return encoding.encode(
            self,
            self.code_length,
            self.data_config,
            inputs,
            path=path,
            ids=ids,
            batch_size=batch_size,
            num_workers=num_workers,
            on_unreadable=on_unreadable,
            device=device,
            amp=amp,
            progress=progress,
            packed=packed,
        )

    def encode_batches(
        self,
        batches: Iterable[streaming.Batch],
        *,
        on_unreadable: encoding.OnUnreadable | None = None,
        amp: bool = False,
        packed: bool = True,
    ) -> Iterator[tuple[Any, Tensor]]:
        """Yield ids and codes of one batch after the other, for data that come from elsewhere.

        A table of a data base, a stream, a job of Ray or Spark: whatever gives ids with images, of
        which no more than one batch is in memory. Codes are as those of `encode` with batches of
        this size. The model runs where it is, and between batches it is as it was.

        Args:
            batches: Pairs of ids and as many images: a tensor or an array of preprocessed images;
                a list or an array of images, as `encode` takes them; or a list of rows.
            on_unreadable: Called with the error of each image that cannot be read, whose `index` is
                its place in the batch. Its id is then left out. If `None`, the error is raised.
            amp: Run in mixed precision, bfloat16.
            packed: Whether bits are packed. If not, the real codes come, float32.

        Yields:
            Ids, as they came (a list, where some are left out), and codes, as of `encode`.

        Raises:
            TypeError: If images are of another type.
            UnreadableImageError: If one cannot be read, and `on_unreadable` is `None`.
            ValueError: If there are not as many ids as images, or a code is NaN or infinite.
        """
        return streaming.encode_batches(
            self,
            self.code_length,
            self.data_config,
            batches,
            on_unreadable=on_unreadable,
            amp=amp,
            packed=packed,
        )

    def config(self) -> saving.Config:
        dtype = str(next(self.embedder.parameters()).dtype).removeprefix("torch.")
        return {"options": dict(self._options), "dtype": dtype, "data_config": self.data_config}

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        folder: str | os.PathLike[str],
        *,
        backbone: nn.Module | None = None,
        device: str | torch.device = "cpu",
        **options: Unpack[hub.HubOptions],
    ) -> Self:
        """Return a model that `save_pretrained` or `push_to_hub` wrote, in eval mode.

        Args:
            folder: Where it was saved, or its name on the hub, `user/model`, from which one file is
                fetched and checked as any other. A folder of that name comes first.
            backbone: The module that it was made with, if that was not a timm name. The saved
                weights are loaded into it.
            device: Where to put the model.
            **options: For a model on the hub: `revision`, `token`, `cache_dir`, `force_download`
                and `local_files_only`, as `huggingface_hub` has them.

        Raises:
            FileNotFoundError: If there is no saved model.
            OSError: If the hub does not answer within seconds, or refuses.
            ValueError: If the file is truncated, foreign or of another version, if its weights are
                not those of this model, or if `backbone` is missing or not needed.
        """
        place = hub.find_model(folder, **options)
        config, weights = saving.load(place, cls.form)
        return cls.from_config(config, weights, place, backbone).to(device).eval()

    @classmethod
    def from_config(
        cls,
        config: saving.Config,
        weights: dict[str, Tensor],
        folder: Path,
        backbone: nn.Module | None,
        backbone_name: str = "backbone",
    ) -> Self:
        """Return the model that had this `config()` and these weights: see `saving.build`."""
        model = saving.build(cls, config, weights, folder, backbone, backbone_name)
        model.data_config = preprocessing.from_json(config["data_config"])
        return model
