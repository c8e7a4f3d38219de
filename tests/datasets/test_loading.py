"""The one image loader: each kind of file and of pixels becomes what people see."""

import io

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageOps

from pml_hashing.datasets import ImageArrays, ImageFiles, UnreadableImageError, load_image
from pml_hashing.datasets.listing import list_images


def pixels_of(image):
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.fixture
def colors():
    return np.random.default_rng(0).integers(256, size=(5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_orientation(tmp_path, colors, orientation, kind):
    image = Image.fromarray(colors)
    exif = image.getexif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    image.save(tmp_path / "image", format=kind, exif=exif, **options)
    turned = {2: np.fliplr, 3: lambda a: a[::-1, ::-1], 4: np.flipud}
    turned |= {5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1)}
    turned |= {7: lambda a: np.rot90(a.swapaxes(0, 1), 2), 8: np.rot90}
    expected = turned.get(orientation, lambda a: a)(colors)
    assert np.array_equal(pixels_of(load_image(tmp_path / "image")), expected)
    assert np.array_equal(pixels_of(load_image(load_image(tmp_path / "image"))), expected)
    with Image.open(tmp_path / "image") as opened:
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(opened)), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_no_matter(tmp_path, colors):
    Image.fromarray(colors).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert load_image(tmp_path / "a.jpg").size == (7, 5)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled(tmp_path, kind):
    values = np.array([[0, 128, 257, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep", format=kind)
    expected = [[0, 0, 1, 128, 255]]
    assert pixels_of(load_image(tmp_path / "deep"))[..., 0].tolist() == expected
    assert pixels_of(load_image(values))[..., 1].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [[0, 128, 255]]),
        (np.array([[0.0, 51.0, 255.0]], np.float32), [[0, 51, 255]]),
        (np.array([[-3.0, np.nan, 1.0]], np.float32), [[0, 0, 255]]),
        (np.array([[np.inf, -np.inf, 1.0]], np.float32), [[0, 0, 255]]),
        (np.array([[0.0, 2.0**39, 2.0**40]], np.float32), [[0, 128, 255]]),
        (np.array([[0, 32768, 65535]], np.int32), [[0, 128, 255]]),
        (np.array([[0, 51, 255]], np.int32), [[0, 51, 255]]),
    ],
)
def test_deep_gray_files(tmp_path, values, expected):
    Image.fromarray(values).save(tmp_path / "deep.tif")
    assert pixels_of(load_image(tmp_path / "deep.tif"))[..., 2].tolist() == expected


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_what_is_transparent_is_white(tmp_path, mode):
    image = Image.new("RGBA", (3, 1), (200, 200, 200, 255))
    image.putpixel((0, 0), (10, 10, 10, 0))
    options = {}
    if mode in {"L", "RGB"}:  # one color is transparent
        image = image.convert(mode)
        options["transparency"] = 10 if mode == "L" else (10, 10, 10)
    elif mode == "P":
        image = image.convert("P")
    else:
        image = image.convert(mode)
    image.save(tmp_path / "image.png", **options)
    assert pixels_of(load_image(tmp_path / "image.png"))[0].tolist() == [
        [255] * 3,
        [200] * 3,
        [200] * 3,
    ]


def test_half_transparent():
    pixels = np.array([[[100, 0, 50, 128]]], np.uint8)
    assert pixels_of(load_image(pixels))[0, 0].tolist() == [177, 127, 152]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_modes(colors, mode):
    image = Image.fromarray(colors).convert(mode)
    assert np.array_equal(pixels_of(load_image(image)), np.asarray(image.convert("RGB")))


def test_cmyk_file(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "ink.jpg", quality=100)
    assert (
        np.abs(pixels_of(load_image(tmp_path / "ink.jpg"))[0, 0].astype(int) - [255, 0, 0]).max()
        < 9
    )


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        frames[0].save(tmp_path / "a", format=kind, save_all=True, append_images=frames[1:])
        red = pixels_of(load_image(tmp_path / "a"))[1, 1]
        assert red[0] > 240
        assert red[2] < 20


def test_all_that_can_hold_a_picture(tmp_path, colors):
    image = Image.fromarray(colors)
    image.save(tmp_path / "a.png")
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    tensor = torch.from_numpy(colors.copy()).movedim(-1, 0)
    sources = [tmp_path / "a.png", str(tmp_path / "a.png"), buffer.getvalue(), image, colors]
    sources += [bytearray(buffer.getvalue()), memoryview(buffer.getvalue())]
    sources += [tensor, (tensor / 255).requires_grad_(), colors / 255.0]
    sources += [np.concatenate([colors, np.full((5, 7, 1), 255, np.uint8)], axis=2)]
    for source in sources:
        assert np.array_equal(pixels_of(load_image(source)), colors)
    for gray in (colors[..., 0], colors[..., :1], tensor[0], tensor[:1]):
        assert np.array_equal(pixels_of(load_image(gray)), np.repeat(colors[..., :1], 3, axis=2))
    assert pixels_of(load_image(colors > 127)).max() == 255


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (3, TypeError, "Expected an image: .* got int"),
        (None, TypeError, "Expected an image: .* got NoneType"),
        (np.zeros((2, 2), np.int64), TypeError, "of uint8, uint16, bool or floats .* got int64"),
        (np.zeros((2, 2, 2), np.uint8), ValueError, r"got \(2, 2, 2\)"),
        (np.zeros((0, 2), np.uint8), ValueError, r"got \(0, 2\)"),
        (torch.zeros(4), ValueError, r"got \(4,\)"),
        (torch.full((3, 2, 2), 1.5), ValueError, r"floats from 0 to 1, got 1\.5 to 1\.5"),
        (torch.full((3, 2, 2), torch.nan), ValueError, "floats from 0 to 1, got nan"),
        (b"", UnreadableImageError, "got bytes .*no known format"),
        (b"no image", UnreadableImageError, "got bytes .*no known format"),
        ("nowhere.png", UnreadableImageError, r"got nowhere\.png \(FileNotFoundError"),
    ],
)
def test_what_is_no_picture(source, error, message):
    with pytest.raises(error, match=message):
        load_image(source)


def test_bombs(tmp_path, monkeypatch):
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    for limit in (99, 40):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UnreadableImageError, match="DecompressionBomb"):
            load_image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_image(tmp_path / "a.png").size == (10, 10)


@pytest.mark.filterwarnings("ignore")
def test_bombs_are_refused_where_pillow_only_warns(tmp_path, monkeypatch):
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)
    with pytest.raises(UnreadableImageError, match="DecompressionBombError"):
        load_image(tmp_path / "a.png")


def test_no_program_is_run_for_a_picture(tmp_path, monkeypatch):
    """Pillow hands PostScript to Ghostscript, whatever the ending of the file is."""
    ran = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: ran.append(1))
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n"
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for source in (content, path):
        with pytest.raises(UnreadableImageError, match="EPS would have to be run"):
            load_image(source)
    assert not ran


def test_every_data_set_loads_alike(tmp_path, colors):
    (tmp_path / "x").mkdir()
    rgba = np.concatenate([colors, colors[..., :1]], axis=2)
    Image.fromarray(rgba).save(tmp_path / "x" / "a.png")
    expected = pixels_of(load_image(rgba))
    assert np.array_equal(pixels_of(ImageFiles.from_folder(tmp_path).image(0)), expected)
    arrays = ImageArrays(colors[None], [0])
    assert np.array_equal(pixels_of(arrays.image(0)), colors)


def test_which_files_are_images(tmp_path):
    for name in (
        "a.JPG",
        "b/c.gif",
        "b/.d.png",
        ".e/f.png",
        "g.txt",
        "b/h.TXT",
        "none",
        "b/d/i.avif",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = list_images(tmp_path)
    assert found.names == ["a.JPG", "b/c.gif", "b/d/i.avif"]
    assert found.ignored == {"": 1, ".txt": 2}
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list_images(tmp_path / "nowhere")


def test_a_pipe_is_not_waited_for(tmp_path):
    os = pytest.importorskip("posix")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UnreadableImageError, match="got a pipe"):
        load_image(tmp_path / "pipe.png")
