"""The one image loader: whatever holds a picture becomes an upright image in RGB, 8 bits each."""

import os
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from pml_hashing._files import open_file
from pml_hashing.datasets.unreadable import UnreadableImageError

ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | np.ndarray | Tensor
"""A path, the bytes of a file, a PIL image, an array `(height, width[, channels])` or a tensor
`([channels, ]height, width)`."""

ORIENTATION = 0x0112  # of EXIF
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # more than 8 bits for a pixel of gray
CHANNELS = ((), (1,), (3,), (4,))
FOREIGN = ("EPS", "WMF")  # which Pillow lets Ghostscript or Windows run as programs
FULL_SCALES = (2**8 - 1, 2**16 - 1, 2**31 - 1)


def load_image(source: ImageLike) -> Image.Image:
    """Return a picture in RGB, upright, as people see it.

    The orientation that EXIF tells is applied. 16 bits are scaled to 8, and not clipped; what is
    transparent lies on white; of an animation the first frame is taken; gray, palettes and CMYK
    become RGB. Pillow's guard against decompression bombs stays on, and PostScript (EPS) and WMF,
    which other programs would have to run, are refused.

    Args:
        source: A path, the bytes of a file, a PIL image, or pixels: an array
            `(height, width[, channels])` or a tensor `([channels, ]height, width)` with 1, 3 or 4
            channels, the fourth of which is opacity. Integers are of 8 or 16 bits, as their dtype
            says; floats are from 0 to 1.

    Raises:
        TypeError: If `source` is something else, or its dtype is.
        UnreadableImageError: If a file is missing or does not decode, or has more pixels than
            Pillow's `Image.MAX_IMAGE_PIXELS`, as a decompression bomb has.
        ValueError: If pixels are of another shape, or not finite.

    Examples:
        >>> import numpy as np
        >>> from pml_hashing.datasets import load_image
        >>> image = load_image(np.full((2, 3), 32896, np.uint16))  # half of 65535
        >>> image.size, image.mode, image.getpixel((0, 0))
        ((3, 2), 'RGB', (128, 128, 128))
    """
    if isinstance(source, str | os.PathLike):
        return read_image(Path(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return decode_image(bytes(source), "bytes")
    if isinstance(source, Image.Image):
        return to_rgb(source)
    if isinstance(source, Tensor):
        pixels = source.detach().cpu()
        return _from_pixels((pixels.movedim(0, -1) if pixels.ndim == 3 else pixels).numpy())
    if isinstance(source, np.ndarray):
        return _from_pixels(source)
    raise TypeError(
        "Expected an image: a path, bytes, a PIL image, an array or a tensor of pixels, "
        f"got {type(source).__name__}."
    )


def read_image(path: Path, folder: Path | None = None) -> Image.Image:
    """Return the image in a file, as `load_image` does.

    Args:
        path: The file.
        folder: Where the file must be once all links are followed, itself without links. Anywhere
            if `None`.

    Raises:
        UnreadableImageError: If it is missing or elsewhere, or cannot be decoded.
    """
    return decode_image(read_bytes(path, folder), path)


def read_bytes(path: Path, folder: Path | None = None) -> bytes:
    """Return the content of a file of an image.

    Raises:
        UnreadableImageError: As `read_image`.
    """
    try:
        if folder is not None and not path.resolve().is_relative_to(folder):
            raise PermissionError(f"a link leads out of {folder}: `allow_outside` follows it")
        with open_file(path, "an image") as file:
            return file.read()
    except (OSError, RuntimeError, ValueError) as error:  # of a loop of links, of a zero in a name
        raise _unreadable(path, error) from error


def decode_image(content: bytes, path: str | os.PathLike[str]) -> Image.Image:
    """Return the image in the bytes of a file.

    Args:
        content: The bytes.
        path: The file, for messages.

    Raises:
        UnreadableImageError: If they do not decode, or are a decompression bomb.
    """
    try:
        with Image.open(BytesIO(content)) as image:
            _check_format(image)
            _check_size(image)
            return to_rgb(image)
    except UnidentifiedImageError as error:  # its message names the bytes in memory
        raise _unreadable(path, UnidentifiedImageError("no known format of an image")) from error
    except Exception as error:  # each format has errors of its own for what is cut or changed
        raise _unreadable(path, error) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image upright, in RGB, on white where it is transparent.

    What else the file tells of it is left out: who reads that it is to be turned would turn it
    again.
    """
    image.load()  # what decoding finds, as the orientation of a TIFF, is known only then
    turn = UPRIGHT.get(_orientation(image))
    if image.mode in DEEP_MODES:
        upright = Image.fromarray(_to_8_bits(np.asarray(image)))
    elif image.has_transparency_data:
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", opaque.size, "white")
        upright = Image.alpha_composite(white, opaque)
    else:
        upright = image
    pixels = (upright if turn is None else upright.transpose(turn)).convert("RGB")
    pixels.info = {}
    return pixels


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:
        return 1


def _to_8_bits(gray: np.ndarray) -> np.ndarray:
    """Return gray values of more bits as 8: the full scale is the least that holds them all.

    That of 16 bits is 65535, and that of floats up to 1 is 1.
    """
    if gray.dtype == np.uint16:
        return np.rint(gray / (FULL_SCALES[1] / 255)).astype(np.uint8)
    values = np.nan_to_num(gray.astype(np.float64), posinf=0, neginf=0)
    largest = values.max(initial=0)
    if gray.dtype.kind == "f" and largest <= 1:
        full = 1.0
    else:
        full = next((scale for scale in FULL_SCALES if largest <= scale), largest)
    return np.rint(values.clip(0) / (full / 255)).astype(np.uint8)


def _from_pixels(pixels: np.ndarray) -> Image.Image:
    if pixels.ndim not in (2, 3) or 0 in pixels.shape or pixels.shape[2:] not in CHANNELS:
        raise ValueError(
            "Expected an image as an array (height, width) or (height, width, 1, 3 or 4), or a "
            f"tensor (1, 3 or 4, height, width), got {pixels.shape} with the channels last."
        )
    if pixels.dtype == np.uint16:
        pixels = _to_8_bits(pixels)
    elif pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
            got = f"{pixels.min()} to {pixels.max()}"
            raise ValueError(f"Expected an image of floats from 0 to 1, got {got}.")
        pixels = np.rint(pixels * 255.0).astype(np.uint8)
    elif pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    elif pixels.dtype != np.uint8:
        raise TypeError(
            f"Expected an image of uint8, uint16, bool or floats from 0 to 1, got {pixels.dtype}."
        )
    return to_rgb(Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))


def _check_format(image: Image.Image) -> None:
    """Raise for a file that is a program: whoever sends one must not have it run."""
    if image.format in FOREIGN:
        raise ValueError(f"{image.format} would have to be run by another program")


def _check_size(image: Image.Image) -> None:
    """Raise where Pillow only warns."""
    limit, pixels = Image.MAX_IMAGE_PIXELS, image.width * image.height
    if limit is not None and pixels > limit:
        raise Image.DecompressionBombError(
            f"Image size ({pixels} pixels) exceeds limit of {limit} pixels"
        )


def _unreadable(path: str | os.PathLike[str], error: Exception) -> UnreadableImageError:
    return UnreadableImageError(
        f"Expected a readable image, got {path} ({type(error).__name__}: {error}).",
        path=str(path),
    )
