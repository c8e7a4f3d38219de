"""Trained models for programs without this library: ONNX, and torch.export's own format."""

import copy
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from pml_hashing._files import write_atomically
from pml_hashing.codes import BITS_OF_A_BYTE, packed_length
from pml_hashing.models._errors import shortened
from pml_hashing.models.hashing_model import HashingModel
from pml_hashing.models.two_networks import TwoNetworkHashingModel

INPUT, OUTPUTS = "images", ("codes", "packed_codes")
FORMAT = {"format": "pml_hashing.export", "format_version": "1"}
DESCRIPTION = "pml_hashing.json"
OPSET = 18
MOST_IMAGES = 2**31 - 1  # at once; without a bound PyTorch 2.6 does not trace every model
LARGEST_ONNX = 2**31 - 2**20  # bytes: a file of protobuf holds 2 GiB, and the graph needs some

Exportable: TypeAlias = HashingModel | TwoNetworkHashingModel


def export(
    model: Exportable, path: str | os.PathLike[str], *, example: Tensor | None = None
) -> None:
    """Write a model as one file that runs without this library, for any number of images at once.

    What it takes is `images`: preprocessed ones, `(n, in_chans, height, width)`, float32. What it
    gives are the real codes and the packed ones: `codes`, float32 `(n, code_length)`, and
    `packed_codes`, uint8 `(n, ceil(code_length / 8))`, as `model` and `model.encode` return them.
    Of two networks it is the sum of both that is written; give one of them to have that alone.

    The file also says how images are preprocessed, and what the bits are: in the metadata of an
    ONNX model, or in the extra file `pml_hashing.json`.

    Args:
        model: A trained model, of float32. It stays as it is.
        path: The file to write. Its ending tells the format: `.onnx`, which needs
            `pip install "pml-hashing[onnx]"`, or `.pt2`, for `torch.export.load`.
        example: Two samples of whatever the backbone takes. Needed only where a model has no
            `data_config`, which tells the size of an image.

    Raises:
        ImportError: If the packages for ONNX are not installed.
        OSError: If the file cannot be written.
        TypeError: If `model` is of another class.
        ValueError: If the ending is another, if the model is not of float32, is too large for ONNX
            or cannot be traced, if there is no `example` where it is needed, or if two networks
            preprocess images in different ways.

    Examples:
        >>> import tempfile, torch
        >>> from pml_hashing.models import HashingModel, export
        >>> model = HashingModel("test_vit", 12, img_size=32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export(model, f"{folder}/model.pt2")
        ...     program = torch.export.load(f"{folder}/model.pt2").module()
        >>> codes, packed_codes = program(torch.rand(5, 3, 32, 32))
        >>> packed_codes.shape, packed_codes.dtype
        (torch.Size([5, 2]), torch.uint8)
    """
    if not isinstance(model, Exportable):
        raise TypeError(
            "Expected `model` to be a HashingModel or a TwoNetworkHashingModel, "
            f"got {type(model).__name__}."
        )
    path = Path(path)
    writers = {".onnx": _write_onnx, ".pt2": _write_program}
    if path.suffix not in writers:
        raise ValueError(f"Expected `path` to end in .onnx or .pt2, got {path.name!r}.")
    description = describe(model)
    program = _trace(model, _example(description) if example is None else example)
    writers[path.suffix](program, path, description)


def describe(model: Exportable) -> dict[str, str]:
    """Return what a file says of a model: its bits, and how its images are preprocessed.

    Raises:
        ValueError: If it is not of float32, or two networks preprocess images in different ways.
    """
    config = model.config()
    networks = [config] if "options" in config else list(config.values())
    dtypes = {network["dtype"] for network in networks}
    if dtypes != {"float32"}:
        raise ValueError(
            f"Expected `model` of float32, got {', '.join(sorted(dtypes))}: export `model.float()`."
        )
    preprocessing = networks[0]["data_config"]
    other = [
        network["data_config"] for network in networks if network["data_config"] != preprocessing
    ]
    if other:
        raise ValueError(
            "Expected `model` with the same `data_config` of both networks, got "
            f"{preprocessing} and {other[0]}."
        )
    return FORMAT | {
        "code_length": str(model.code_length),
        "bits": "bit l, the lowest first, of byte l // 8 is l % 8; set where a code is at least 0",
        "preprocessing": json.dumps(preprocessing),
    }


class _Encoder(nn.Module):
    """A model that also packs the signs of its codes, in operations that ONNX has."""

    bits: Tensor

    def __init__(self, model: Exportable) -> None:
        super().__init__()
        self.model, self.code_length = model, model.code_length
        self.num_bytes = packed_length(model.code_length)
        self.register_buffer("bits", 2 ** torch.arange(BITS_OF_A_BYTE, dtype=torch.int32))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.model(images)
        padding = self.num_bytes * BITS_OF_A_BYTE - self.code_length
        is_set = F.pad((codes >= 0).to(torch.int32), (0, padding))
        of_bytes = is_set.unflatten(1, (self.num_bytes, BITS_OF_A_BYTE))
        return codes, (of_bytes * self.bits).sum(2).to(torch.uint8)


def _example(description: dict[str, str]) -> Tensor:
    preprocessing = json.loads(description["preprocessing"])
    if preprocessing is None:
        raise ValueError(
            "Expected an `example` of two samples for a `model` without `data_config`, got none."
        )
    return torch.zeros(2, *preprocessing["input_size"])


def _trace(model: Exportable, example: Tensor) -> ExportedProgram:
    """Return the graph of a copy on the CPU, for batches of any size."""
    encoder = _Encoder(copy.deepcopy(model)).cpu().eval().requires_grad_(False)
    shapes: Any = ({0: Dim("n", min=1, max=MOST_IMAGES)},)
    return _told(
        lambda: torch.export.export(encoder, (example.cpu(),), dynamic_shapes=shapes, strict=False),
        "torch.export can trace for any number of images",
    )


def _write_program(program: ExportedProgram, path: Path, description: dict[str, str]) -> None:
    extra = {DESCRIPTION: json.dumps(description)}
    write_atomically(path, lambda file: torch.export.save(program, file, extra_files=extra))


def _write_onnx(program: ExportedProgram, path: Path, description: dict[str, str]) -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f'ONNX needs {" and ".join(missing)}: pip install "pml-hashing[onnx]", or write a .pt2.'
        )
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    if size > LARGEST_ONNX:
        raise ValueError(
            f"Expected a `model` of at most {LARGEST_ONNX:,} bytes, as a file of ONNX holds, "
            f"got {size:,}: write a .pt2."
        )
    found = _told(
        lambda: torch.onnx.export(
            program,
            dynamo=True,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            verbose=False,
        ),
        "torch.onnx can translate",
    )
    found.model.metadata_props.update(description)
    write_atomically(path, lambda file: found.save(file, external_data=False))


def _told(make: Callable[[], Any], expected: str) -> Any:
    """Return what `make` does. Its errors, of many kinds, name the model."""
    try:
        return make()
    except Exception as error:
        raise ValueError(
            f"Expected a `model` that {expected}, got an error ({shortened(error)})."
        ) from error
