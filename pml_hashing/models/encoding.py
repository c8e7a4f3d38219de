"""Encoding: from images to packed codes, a batch at a time, in memory or into a file."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from tqdm import tqdm

from pml_hashing._checks import check_at_least, check_codes
from pml_hashing._eval_mode import eval_mode
from pml_hashing.code_writer import CodesOf, CodeWriter, read_finished
from pml_hashing.codes import pack_unchecked, packed_length
from pml_hashing.datasets import UnreadableImageError
from pml_hashing.datasets._readable import ReadableBatch, ReadableItems

OnUnreadable = Callable[[UnreadableImageError], object]


class RunOptions(TypedDict, total=False):
    """How a model is run. `HashingModel.encode` documents the options."""

    batch_size: int
    num_workers: int
    on_unreadable: OnUnreadable | None
    amp: bool
    progress: bool


class EncodeOptions(RunOptions, total=False):
    """All options of `HashingModel.encode`."""

    path: str | os.PathLike[str] | None
    device: str | torch.device | None


class InMemory:
    """Keeps the codes of all batches."""

    def __init__(self) -> None:
        self.num_done, self.packed_codes = 0, list[Tensor]()

    def append(
        self, packed_codes: Tensor, num_items: int, unreadable: list[UnreadableImageError]
    ) -> None:
        self.packed_codes.append(packed_codes)
        self.num_done += num_items


@dataclass(frozen=True)
class Encoder:
    """A model and how it is run. `HashingModel.encode` documents the attributes."""

    model: nn.Module
    code_length: int
    device: torch.device
    batch_size: int = 64
    num_workers: int = 0
    on_unreadable: OnUnreadable | None = None
    amp: bool = False
    progress: bool = True

    def encode(self, inputs: Tensor | Dataset[Any] | Iterable[Any]) -> Tensor:
        """Return packed codes, kept in memory."""
        sink = InMemory()
        with _stopped(sink, "With a `path`, the codes so far would have been kept."):
            self._fill(sink, inputs)
        if not any(map(len, sink.packed_codes)):
            raise ValueError(
                "Expected `inputs` with at least one sample, got none"
                f"{f' but {sink.num_done} unreadable ones' if sink.num_done else ''}."
            )
        return torch.cat(sink.packed_codes)

    def encode_to_file(self, inputs: Any, path: str | os.PathLike[str]) -> Tensor:
        """Return packed codes, mapped from the file that they were written to."""
        if not _has_places(inputs):
            raise TypeError(
                "Expected `inputs` to be a tensor or a data set with a length for a file, which is "
                f"continued at an item, got {type(inputs).__name__}."
            )
        codes_of = CodesOf(self.code_length, len(inputs), fingerprint(self.model))
        if not Path(path).exists():
            how = f"Encode the same `inputs` to the same `path`, {path}, to go on from there."
            with CodeWriter(path, codes_of) as writer, _stopped(writer, how):
                self._report(writer.unreadable)
                self._fill(writer, inputs)
                writer.finish()
            return read_finished(path, codes_of)[0]
        packed_codes, unreadable = read_finished(path, codes_of)
        self._report(unreadable)
        return packed_codes

    def _fill(self, sink: InMemory | CodeWriter, inputs: Any) -> None:
        batches = self._to_batches(inputs, sink.num_done)
        with running(self.model, self.device, self.amp):
            hidden: dict[str, Any] = (
                {} if self.progress else {"disable": True}
            )  # or as TQDM_DISABLE says
            bar = tqdm(batches, desc="encode", unit="batch", **hidden)
            for codes in _one_behind(map(self._run, bar)):
                batch = codes.batch
                self._report(batch.unreadable)
                sink.append(codes.wait(sink.num_done), batch.num_items, batch.unreadable)

    def _run(self, batch: Any) -> "Codes":
        if not isinstance(batch, ReadableBatch):
            batch = ReadableBatch(batch, len(_samples_of(batch)), [])
        if batch.batch is None:
            width = packed_length(self.code_length)
            return Codes(batch, torch.empty(0, width, dtype=torch.uint8), torch.ones(0).bool())
        samples = _samples_of(batch.batch).to(self.device, non_blocking=True)
        return Codes.of(batch, self.model(samples))

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
        if isinstance(inputs, IterableDataset):
            return self._loader(inputs, collate_fn=None)
        if isinstance(inputs, Dataset):
            return self._loader(ReadableItems(inputs, start), collate_fn=ReadableItems.collate)
        if isinstance(inputs, Iterable):
            return inputs
        raise TypeError(
            "Expected `inputs` to be a tensor, a data set or an iterable of batches, "
            f"got {type(inputs).__name__}."
        )

    def _loader(self, dataset: Dataset[Any], collate_fn: Any) -> DataLoader[Any]:
        workers, pin = self.num_workers, self.device.type == "cuda"
        options: Any = {"num_workers": workers, "collate_fn": collate_fn, "pin_memory": pin}
        return DataLoader(dataset, self.batch_size, **options)


@dataclass
class Codes:
    """Packed codes of a batch on their way to the CPU."""

    batch: ReadableBatch
    packed_codes: Tensor
    is_finite: Tensor
    copied: Any = None  # an event of the GPU

    @classmethod
    def of(cls, batch: ReadableBatch, codes: Tensor) -> "Codes":
        """Start to pack and copy the codes of a batch, without waiting."""
        check_codes(codes, "codes")
        on_gpu = codes.is_cuda
        packed_codes, is_finite = (
            values.to("cpu", non_blocking=on_gpu)
            for values in (pack_unchecked(codes), codes.isfinite().all(dim=1))
        )
        copied = torch.cuda.current_stream(codes.device).record_event() if on_gpu else None
        return cls(batch, packed_codes, is_finite, copied)

    def wait(self, first_item: int) -> Tensor:
        """Return the packed codes once they have arrived and been checked.

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
        return self.packed_codes


def encode(
    model: nn.Module,
    code_length: int,
    inputs: Any,
    *,
    path: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    **options: Unpack[RunOptions],
) -> Tensor:
    """Return the packed codes of all inputs, as `HashingModel.encode` documents it."""
    device = next(model.parameters()).device if device is None else torch.device(device)
    encoder = Encoder(model, code_length, device, **options)
    return encoder.encode(inputs) if path is None else encoder.encode_to_file(inputs, path)


@contextmanager
def _stopped(sink: InMemory | CodeWriter, how_to_go_on: str) -> Iterator[None]:
    """Say on Ctrl-C what is done, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        where = f"Stopped encoding after {sink.num_done} items."
        raise KeyboardInterrupt(f"{where} {how_to_go_on}") from error


@contextmanager
def running(model: nn.Module, device: torch.device, amp: bool) -> Iterator[None]:
    """Run a model for inference on a device, and leave it as and where it was."""
    home = next(model.parameters()).device
    try:
        model.to(device)
        with (
            eval_mode(model),
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=amp),
        ):
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


def _has_places(inputs: Any) -> bool:
    is_indexed = isinstance(inputs, Tensor | Dataset) and not isinstance(inputs, IterableDataset)
    return is_indexed and isinstance(inputs, Sized)


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
