"""Encoding: from images to codes, a batch at a time, in memory or into a file."""

import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from pml_hashing._checks import check_at_least, check_codes
from pml_hashing._eval_mode import eval_mode
from pml_hashing._progress import progress_bar
from pml_hashing.code_writer import CodesOf, CodeWriter, Id, check_item_ids, read_finished
from pml_hashing.codes import pack_unchecked, packed_length
from pml_hashing.datasets import UnreadableImageError
from pml_hashing.datasets._batches import IndependentLoader
from pml_hashing.datasets._readable import ReadableBatch, ReadableItems
from pml_hashing.models import samples

Inputs: TypeAlias = Tensor | np.ndarray | Dataset[Any] | Iterable[Any]
OnUnreadable: TypeAlias = Callable[[UnreadableImageError], object]

IMAGES_OF_A_THREAD = 8  # run at a time on a CPU


class RunOptions(TypedDict, total=False):
    """How a model is run. `HashingModel.encode` documents the options."""

    batch_size: int
    num_workers: int
    on_unreadable: OnUnreadable | None
    amp: bool
    progress: bool
    packed: bool


class EncodeOptions(RunOptions, total=False):
    """All options of `HashingModel.encode`."""

    path: str | os.PathLike[str] | None
    ids: Sequence[Id] | None
    device: str | torch.device | None


@dataclass(frozen=True)
class Encoder:
    """A model and how it is run. `HashingModel.encode` documents most attributes.

    Attributes:
        model: Gives the codes: of `code_length`, or features of any width.
        data_config: How images are preprocessed, where `inputs` are images.
    """

    model: nn.Module
    code_length: int
    device: torch.device
    data_config: samples.DataConfig
    batch_size: int = 64
    num_workers: int = 0
    on_unreadable: OnUnreadable | None = None
    amp: bool = False
    progress: bool = True
    packed: bool = True

    def encode(self, inputs: Any) -> Tensor:
        """Return codes, kept in memory."""
        kept, num_items = list[Tensor](), 0
        with (
            _stopped(lambda: num_items, "With a `path`, the codes so far would have been kept."),
            closing(self.batches(inputs)) as batches,
        ):
            for codes, batch in batches:
                kept.append(codes)
                num_items += batch.num_items
        if not any(map(len, kept)):
            raise ValueError(
                "Expected `inputs` with at least one sample, got none"
                f"{f' but {num_items} unreadable ones' if num_items else ''}."
            )
        return torch.cat(kept)

    def encode_to_file(
        self, inputs: Any, path: str | os.PathLike[str], ids: Sequence[Id] | None = None
    ) -> Tensor:
        """Return packed codes, mapped from the file that they were written to."""
        if not self.packed:
            raise ValueError("Expected `packed` codes for a file, got packed=False.")
        inputs = samples.as_samples(inputs, self.data_config)
        num_items = self._num_items(inputs)
        ids = None if ids is None else check_item_ids(ids, num_items)
        if ids is not None:
            num_items = len(ids)
        codes_of = CodesOf.items(self.code_length, num_items, fingerprint(self.model), ids)
        if not Path(path).exists():
            how = f"Encode the same `inputs` to the same `path`, {path}, to go on from there."
            with CodeWriter(path, codes_of, ids) as writer, _stopped(lambda: writer.num_done, how):
                self._report(writer.unreadable)
                self._fill(writer, inputs)
                writer.finish()
            return read_finished(path, codes_of)[0]
        packed_codes, unreadable = read_finished(path, codes_of)
        self._report(unreadable)
        return packed_codes

    def _num_items(self, inputs: Any) -> int | None:
        """Return how many items there are, `None` where only their end tells."""
        if isinstance(inputs, samples.SampleStream):
            if self.num_workers:
                raise ValueError(
                    "Expected `num_workers` of 0 for an iterable data set and a file, which is "
                    f"continued at an item, got {self.num_workers}: `encode_batches` takes a "
                    "DataLoader."
                )
            return None
        if not isinstance(inputs, Tensor | Dataset) or not isinstance(inputs, Sized):
            raise TypeError(
                "Expected `inputs` to be a tensor or a data set for a file, which is continued at "
                f"an item, got {type(inputs).__name__}."
            )
        return len(inputs)

    def _fill(self, writer: CodeWriter, inputs: Any) -> None:
        with closing(self.batches(inputs, writer.num_done)) as batches:
            for codes, batch in batches:
                writer.append(codes, batch.num_items, batch.unreadable)

    def batches(
        self, inputs: Any, start: int = 0
    ) -> Generator[tuple[Tensor, ReadableBatch], None, None]:
        """Yield the codes of each batch from item `start` on, on the CPU, and what they are of.

        Until it is closed the model stays in eval mode.
        """
        inputs, done = samples.as_samples(inputs, self.data_config), start
        batches = self._to_batches(inputs, start)
        with running(self.model, self.device):
            bar = progress_bar(batches, "encode", shown=self.progress, unit="batch")
            for codes in _one_behind(map(self._run, bar)):
                self._report(codes.batch.unreadable)
                yield codes.wait(done), codes.batch
                done += codes.batch.num_items

    def _run(self, batch: Any) -> "Codes":
        if not isinstance(batch, ReadableBatch):
            batch = ReadableBatch(batch, len(_samples_of(batch)), [])
        if batch.batch is None:
            return Codes(batch, self.no_codes(), torch.ones(0, device="cpu").bool())
        values = _samples_of(batch.batch)
        self._check_images(values)
        values = values.to(self.device, self._dtype_for(values), non_blocking=True)
        with (  # of this batch alone: who takes the codes may stop, and would be left in them
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp),
        ):
            outputs = self._outputs(values)
            check_codes(outputs, "codes", self.code_length)
            return Codes.of(batch, outputs, self.packed)

    def _outputs(self, values: Tensor) -> Tensor:
        """Run the model, on a CPU as convolutions are fastest there.

        Images lie in memory with channels last, and no more are run at a time than a cache holds
        what they need. Only for timm's backbones: one of your own may count on its batches.
        """
        if not self._is_timms_on_a_cpu or values.ndim != 4:
            return self.model(values)
        parts = values.contiguous(memory_format=torch.channels_last).split(
            IMAGES_OF_A_THREAD * torch.get_num_threads()
        )
        outputs = [self.model(part) for part in parts]
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

    @cached_property
    def _is_timms_on_a_cpu(self) -> bool:
        of_timm = any(hasattr(module, "pretrained_cfg") for module in self.model.modules())
        return of_timm and self.device.type == "cpu"

    def _check_images(self, values: Tensor) -> None:
        """Raise where the model takes images, and these are none that were preprocessed.

        Raises:
            TypeError: If they are integers, as pixels are.
            ValueError: If their shape is another.
        """
        if self.data_config is None:
            return
        channels = self.data_config["input_size"][0]
        if values.ndim != 4 or values.shape[1] != channels:
            raise ValueError(
                f"Expected preprocessed images of shape (n, {channels}, height, width) in "
                f"`inputs`, got {tuple(values.shape)}."
            )
        if not values.is_floating_point():
            raise TypeError(
                f"Expected preprocessed images of floats in `inputs`, got {values.dtype}: pixels "
                "are preprocessed where they come as an array (n, height, width, channels) or a "
                "list of images."
            )

    def _dtype_for(self, values: Tensor) -> torch.dtype:
        """Return the model's own type for floats, such as float32 for numpy's float64."""
        if not values.is_floating_point():
            return values.dtype
        floats = (value.dtype for value in self.model.parameters() if value.is_floating_point())
        return next(floats, values.dtype)

    def no_codes(self) -> Tensor:
        """Return codes of nothing."""
        if not self.packed:
            return torch.empty(0, self.code_length, dtype=torch.float32, device="cpu")
        return torch.empty(0, packed_length(self.code_length), dtype=torch.uint8, device="cpu")

    def _report(self, unreadable: list[UnreadableImageError]) -> None:
        for error in unreadable:
            if self.on_unreadable is None:
                raise error
            self.on_unreadable(error)

    def _to_batches(self, inputs: Any, start: int) -> Iterable[Any]:
        check_at_least(self.batch_size, 1, "batch_size")
        check_at_least(self.num_workers, 0, "num_workers")
        if isinstance(inputs, Dataset) and isinstance(inputs, Sized) and len(inputs) == 0:
            raise ValueError("Expected `inputs` with at least one sample, got an empty data set.")
        if isinstance(inputs, Tensor):
            _check_samples(inputs, "`inputs`")
            return inputs[start:].split(self.batch_size) if start < len(inputs) else ()
        if isinstance(inputs, samples.SampleStream):
            return self._loader(inputs.starting_at(start), collate_fn=ReadableItems.collate)
        if isinstance(inputs, Dataset):
            return self._loader(ReadableItems(inputs, start), collate_fn=ReadableItems.collate)
        if isinstance(inputs, Iterable):
            return inputs
        raise TypeError(
            "Expected `inputs` to be a tensor, images, a data set or an iterable of batches, "
            f"got {type(inputs).__name__}."
        )

    def _loader(self, dataset: Dataset[Any], collate_fn: Any) -> IndependentLoader:
        workers, pin = self.num_workers, self.device.type == "cuda"
        options: Any = {"num_workers": workers, "collate_fn": collate_fn, "pin_memory": pin}
        return IndependentLoader(dataset, self.batch_size, **options)


@dataclass
class Codes:
    """Codes of a batch on their way to the CPU."""

    batch: ReadableBatch
    codes: Tensor
    is_finite: Tensor
    copied: Any = None  # an event of the GPU

    @classmethod
    def of(cls, batch: ReadableBatch, codes: Tensor, packed: bool) -> "Codes":
        """Start to pack, if wanted, and copy the codes of a batch, without waiting."""
        on_gpu = codes.is_cuda
        kept = pack_unchecked(codes) if packed else codes.float()
        on_cpu, is_finite = (
            values.to("cpu", non_blocking=on_gpu) for values in (kept, codes.isfinite().all(dim=1))
        )
        copied = torch.cuda.current_stream(codes.device).record_event() if on_gpu else None
        return cls(batch, on_cpu, is_finite, copied)

    def wait(self, first_item: int) -> Tensor:
        """Return the codes once they have arrived and been checked.

        Raises:
            ValueError: If codes are NaN or infinite. It names the first of these items, the one at
                `first_item` being the first of the batch.
        """
        if self.copied is not None:
            self.copied.synchronize()
        if not self.is_finite.all():
            rows = (~self.is_finite).nonzero().flatten()
            missing = {error.index - first_item for error in self.batch.unreadable}
            places = [place for place in range(self.batch.num_items) if place not in missing]
            raise ValueError(
                f"Expected finite codes in `encode`, got NaN or infinity for {len(rows)} samples "
                f"of a batch, the first of them sample {first_item + places[int(rows[0])]} of "
                "`inputs`."
            )
        return self.codes


def encode(
    model: nn.Module,
    code_length: int,
    data_config: samples.DataConfig,
    inputs: Any,
    *,
    path: str | os.PathLike[str] | None = None,
    ids: Sequence[Id] | None = None,
    device: str | torch.device | None = None,
    **options: Unpack[RunOptions],
) -> Tensor:
    """Return the codes of all inputs, as `HashingModel.encode` documents it."""
    if ids is not None and path is None:
        raise ValueError("Expected `ids` with a `path`, for the file, got `ids` alone.")
    encoder = Encoder(model, code_length, device_for(model, device), data_config, **options)
    return encoder.encode(inputs) if path is None else encoder.encode_to_file(inputs, path, ids)


def device_for(model: nn.Module, device: str | torch.device | None) -> torch.device:
    """Return the device that was asked for, or else the model's."""
    if device is not None:
        return torch.device(device)
    return next((value.device for value in model.state_dict().values()), torch.device("cpu"))


@contextmanager
def _stopped(num_done: Callable[[], int], how_to_go_on: str) -> Iterator[None]:
    """Say on Ctrl-C what is done, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        where = f"Stopped encoding after {num_done()} items."
        raise KeyboardInterrupt(f"{where} {how_to_go_on}") from error


@contextmanager
def running(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put a model on a device, in eval mode, and leave it as and where it was."""
    home = device_for(model, None)
    try:
        model.to(device)
        with eval_mode(model):
            yield
    finally:
        model.to(home)


def fingerprint(model: nn.Module) -> str:
    """Return a SHA-256 checksum of all weights and buffers, and their names."""
    total = hashlib.sha256()
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            total.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
            total.update(value.cpu().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _one_behind(results: Iterable[Codes]) -> Iterator[Codes]:
    """Return each result once the next one is under way: a GPU does not wait for the disk."""
    end: Any = None
    for result, _ in pairwise(chain(results, (end,))):
        yield result


def _check_samples(samples: Tensor, name: str) -> None:
    if samples.ndim < 2 or len(samples) == 0:
        raise ValueError(
            f"Expected {name} of shape (n, ...) with at least one sample, "
            f"got {tuple(samples.shape)}."
        )


def _samples_of(batch: Any) -> Tensor:
    samples = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(samples, Tensor):
        raise TypeError(
            "Expected batches of `inputs` to be tensors or tuples that start with one, "
            f"got {type(batch).__name__}."
        )
    _check_samples(samples, "batches of `inputs`")
    return samples
