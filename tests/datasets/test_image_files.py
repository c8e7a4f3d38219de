"""Images in folders and tables: their labels, and what is refused by name."""

import os
import pickle
import sys

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pml_hashing.datasets import ImageFiles, UnreadableImageError, list_images

LINKS = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")


def save(path, value=0, size=(4, 5), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


@pytest.fixture
def folder(tmp_path):
    for value, name in enumerate(["cat/b.png", "cat/a.png", "dog/deep/c.png"]):
        save(tmp_path / "images" / name, value)
    return tmp_path / "images"


def write_table(folder, text):
    (folder / "images.csv").write_text(text, encoding="utf-8")
    return folder / "images.csv"


def test_a_folder_of_class_folders(folder):
    images = ImageFiles.from_folder(folder, transform=lambda image: image.getpixel((0, 0)))
    assert images.names == ["cat/a.png", "cat/b.png", "dog/deep/c.png"]
    assert images.classes == ["cat", "dog"]
    assert images.labels.tolist() == [0, 0, 1]
    assert [images[i] for i in range(len(images))] == [
        ((1, 1, 1), torch.tensor(0)),
        ((0, 0, 0), torch.tensor(0)),
        ((2, 2, 2), torch.tensor(1)),
    ]
    assert images.class_names(2) == ["dog"]
    assert images.ignored == {}


def test_a_table_with_one_label_a_row(folder):
    path = write_table(folder, "\ufefflabel,path\ndog,cat/b.png\n\ncat , dog/deep/c.png\n")
    images = ImageFiles.from_csv(path)
    assert images.names == ["cat/b.png", "dog/deep/c.png"]
    assert images.classes == ["cat", "dog"]
    assert images.labels.tolist() == [1, 0]
    assert images.labels.dtype == torch.int64
    image, label = images[1]
    assert (image.mode, image.size, label.item()) == ("RGB", (4, 5), 0)


def test_a_table_with_several_labels_a_row(folder):
    text = 'image,tags,more\ncat/b.png,"sea, blue;sand",1\ncat/a.png,sea,2\n'
    options = {"path_column": "image", "label_column": "tags", "separator": ";"}
    images = ImageFiles.from_csv(write_table(folder, text), **options)
    assert images.classes == ["sand", "sea", "sea, blue"]
    assert images.labels.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert images.labels.dtype == torch.int64
    assert images.class_names(0) == ["sand", "sea, blue"]
    assert images.class_names(1) == ["sea"]


def test_images_are_found_by_name(folder):
    images = ImageFiles.from_folder(folder)
    assert [images.index(name) for name in images.names] == [0, 1, 2]
    assert images.index("./cat//a.png") == 0
    with pytest.raises(KeyError, match="cat/z"):
        images.index("cat/z.png")


def test_another_transform(folder):
    images = ImageFiles.from_folder(folder)
    sizes = images.with_transform(lambda image: image.size)
    assert sizes[0][0] == (4, 5)
    assert isinstance(images[0][0], Image.Image)


def test_images_without_labels(folder):
    names = ["cat/a.png", "dog/deep/c.png"]
    text = "path,label\ncat/a.png,\ndog/deep/c.png,x\n"
    images = ImageFiles.from_csv(write_table(folder, text))
    assert (images.classes, images.labels.tolist()) == (["x"], [[0], [1]])
    assert images.class_names(0) == []
    for images in (
        ImageFiles(folder, names),
        ImageFiles.from_csv(write_table(folder, "path\n" + "\n".join(names)), label_column=None),
    ):
        assert (images.names, images.classes, images.labels.shape) == (names, [], (2, 0))
        assert images[1][0].size == (4, 5)


def test_other_files_are_counted(folder):
    (folder / "beside.png").touch()
    (folder / ".thumbnails").mkdir()
    (folder / "cat" / "notes.TXT").touch()
    save(folder / "cat" / "d.gif")
    images = ImageFiles.from_folder(folder)
    assert images.names[:3] == ["cat/a.png", "cat/b.png", "cat/d.gif"]
    assert images.ignored == {".txt": 1, "beside the classes": 1}


def test_empty_classes_are_allowed_where_wanted(folder):
    (folder / "bird").mkdir()
    with pytest.raises(FileNotFoundError, match="got none in bird: `allow_empty`"):
        ImageFiles.from_folder(folder)
    images = ImageFiles.from_folder(folder, allow_empty=True)
    assert (images.classes, images.labels.tolist()) == (["bird", "cat", "dog"], [1, 1, 2])


def test_paths_out_of_the_folder_are_allowed_where_wanted(folder, tmp_path):
    save(tmp_path / "outside.png", 7)
    text = f"path,label\n../outside.png,x\n{tmp_path / 'outside.png'},y\n"
    with pytest.raises(
        ValueError, match=r"stays in the folder for image 0, got .*: `allow_outside`"
    ):
        ImageFiles.from_csv(write_table(folder, text))
    images = ImageFiles.from_csv(write_table(folder, text), allow_outside=True)
    assert [images.image(place).getpixel((0, 0))[0] for place in range(2)] == [7, 7]


def test_only_readable_images(unreadable):
    errors = []
    images = unreadable.readable(errors.append)
    assert (images.names, images.labels.tolist()) == (["cat/a.png"], [0])
    assert [error.index for error in errors] == [1, 2, 3, 4, 5]
    assert len(unreadable) == 6
    others = ImageFiles(images.folder, ["cat/text.png", "cat/a.png"]).readable(errors.append)
    assert others.index("cat/a.png") == 0
    with pytest.raises(KeyError, match=r"cat/text\.png"):
        others.index("cat/text.png")
    with pytest.raises(ValueError, match=r"readable images in .*, got none"):
        ImageFiles(images.folder, ["cat/text.png"]).readable(errors.append)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n", "same size, not empty, got 0 and 0"),
        ("path,label\n../a.png,x\n", r"stays in the folder for image 0, got '\.\./a\.png'"),
        ("path,label\na/../../a.png,x\n", "stays in the folder for image 0"),
        ("path,label\n/etc/a.png,x\n", "stays in the folder for image 0, got '/etc/a.png'"),
        ("path,label\na.png,x\nb.png,y\na.png,y\n", "image 0 again for image 2, 'a.png'"),
        ("path,label\na.png,x\n./a.png,y\n", r"image 0 again for image 1, '\./a\.png'"),
        ("path,label\na//b.png,x\na/./b.png,y\n", "image 0 again for image 1, 'a/./b.png'"),
    ],
)
def test_wrong_tables_name_the_row(folder, text, message):
    with pytest.raises(ValueError, match=message):
        ImageFiles.from_csv(write_table(folder, text))


def test_what_is_missing(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ImageFiles.from_csv(tmp_path / "nowhere.csv")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ImageFiles.from_folder(tmp_path / "nowhere")
    with pytest.raises(
        FileNotFoundError, match=r"`folder` to be a folder of images, got .*nowhere"
    ):
        ImageFiles(tmp_path / "nowhere", ["a"], [["x"]])
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty"):
        ImageFiles.from_folder(folder)


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        (["a", "b"], [["x"]], "same size, not empty, got 2 and 1"),
        (["a", ""], [["x"]] * 2, "a path that stays in the folder for image 1, got ''"),
        (["a"], ["x"], "a list of labels, none of them empty, for image 0, 'a', got 'x'"),
        (["a"], [[""]], r"a list of labels, none of them empty, for image 0, 'a', got \[''\]"),
        (["a"], [["y", "x", "w"]], r"`labels` in \['x'\], got 'w', 'y'"),
    ],
)
def test_wrong_arguments(folder, names, labels, message):
    with pytest.raises(ValueError, match=message):
        ImageFiles(folder, names, labels, classes=["x"])


def test_a_column_that_is_not_asked_for_may_be_there_twice(folder):
    path = write_table(folder, "path,label,more,more\ncat/a.png,x,1,2\n")
    assert ImageFiles.from_csv(path).classes == ["x"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
@pytest.mark.parametrize(("make", "kind"), [(os.mkfifo, "a pipe"), (os.mkdir, "a folder")])
def test_what_is_no_file_is_named_and_not_waited_for(folder, make, kind):
    make(folder / "cat" / "other.png")
    images = ImageFiles(folder, ["cat/other.png"], [["x"]])
    with pytest.raises(UnreadableImageError, match=rf"got {kind} at .*other\.png"):
        images.image(0)


@pytest.fixture
def unreadable(folder):
    Image.effect_noise((90, 90), 50).save(folder / "cat" / "cut.png")
    content = (folder / "cat" / "cut.png").read_bytes()
    (folder / "cat" / "cut.png").write_bytes(content[: len(content) // 2])
    (folder / "cat" / "text.png").write_text("no image")
    names = ["cat/a.png", "cat/cut.png", "cat/text.png", "cat/missing.png", "cat", "cat/\0.png"]
    return ImageFiles(folder, names, [["x"]] * len(names))


@pytest.mark.parametrize("index", [1, 2, 3, 4, 5])
def test_an_image_that_does_not_decode_is_named(unreadable, index):
    path = str(unreadable.folder / unreadable.names[index])
    with pytest.raises(UnreadableImageError, match="a readable image, got") as caught:
        unreadable[index]
    assert path in str(caught.value)
    assert (caught.value.path, caught.value.index) == (path, index)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (str(error), error.path, error.index) == (str(caught.value), path, index)


def test_a_worker_names_the_image_too(unreadable):
    loader = DataLoader(unreadable.with_transform(lambda _: 0), num_workers=1)
    with pytest.raises(UnreadableImageError, match=r"got .*cut\.png"):
        list(loader)


def test_any_cut_or_changed_image_is_read_or_named(folder):
    images = ImageFiles.from_folder(folder)
    path = images.folder / images.names[0]
    for ending in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        Image.effect_noise((20, 20), 50).save(path, format=ending)
        content = path.read_bytes()
        for place in range(0, len(content), 11):
            for changed in (content[:place], content[:place] + b"\xff" + content[place + 1 :]):
                path.write_bytes(changed)
                try:
                    assert images.image(0).mode == "RGB"
                except UnreadableImageError as error:
                    assert images.names[0] in str(error)  # noqa: PT017


@pytest.mark.parametrize("pixels", [19, 10])  # twice Pillow's limit: a warning, then an error
def test_decompression_bombs_are_named(folder, pixels, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels - 1)
    with pytest.raises(UnreadableImageError, match=r"a\.png \(DecompressionBomb.*: Image size"):
        ImageFiles.from_folder(folder)[0]


@LINKS
def test_links_do_not_lead_out_of_the_folder(folder, tmp_path):
    save(tmp_path / "secret" / "s.png")
    (folder / "cat" / "link.png").symlink_to(tmp_path / "secret" / "s.png")
    (folder / "linked").symlink_to(tmp_path / "secret")
    (folder / "cat" / "loop.png").symlink_to("loop.png")
    (folder / "cat" / "inside.png").symlink_to("a.png")
    (tmp_path / "alias").symlink_to(folder)
    images = ImageFiles.from_folder(tmp_path / "alias")  # the folder itself may be a link
    for name in ("cat/link.png", "linked/s.png"):
        with pytest.raises(UnreadableImageError, match="a link leads out of"):
            images.image(images.index(name))
    with pytest.raises(UnreadableImageError, match=r"loop\.png"):
        ImageFiles(folder, ["cat/loop.png"], [["x"]])[0]
    assert images.image(images.index("cat/inside.png")).size == (4, 5)


@LINKS
def test_a_link_to_a_folder_above_is_not_followed(folder):
    expected = list_images(folder)
    (folder / "dog" / "deep" / "up").symlink_to(folder)
    assert list_images(folder) == expected


def test_endings(tmp_path):
    for name in ("a.", "b..JPG", "c.tar.gz", "d", "e.f/g", "h.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "skipped").mkdir()
    (tmp_path / "skipped" / "i.png").touch()
    listing = list_images(tmp_path, without=tmp_path / "skipped")
    assert listing == (["b..JPG", "h.png"], {"": 3, ".gz": 1})
    assert len(list_images(tmp_path, without=tmp_path / "nowhere").names) == 3
