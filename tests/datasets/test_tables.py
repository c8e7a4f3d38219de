"""Tables of images: training and labels of a collection read and refuse the same."""

import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pml_hashing.collection.labels import rows_of
from pml_hashing.datasets import ImageFiles
from pml_hashing.datasets.tables import PATH_COLUMNS, read_table, to_labels


def for_training(path):
    images = ImageFiles.from_csv(path)
    return {name: images.class_names(place) for place, name in enumerate(images.names)}


def for_a_collection(path):
    rows, unmatched = rows_of(path, path.parent, ["a.png", "b.png"])
    assert not unmatched
    return {
        name: (row["label"] or "").split("|") if row["label"] else [] for name, row in rows.items()
    }


READERS = pytest.mark.parametrize("read", [for_training, for_a_collection])


@pytest.fixture
def table(tmp_path):
    """Return a function that writes a table, in UTF-8 or as bytes."""

    def write(content):
        path = tmp_path / "labels.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@READERS
@pytest.mark.parametrize("column", PATH_COLUMNS)
def test_what_is_read(read, table, column):
    rows = '\r\n"b.png", sea|sand ,1\r\n\r\n a.png ,,\r\n'
    assert read(table(f"\ufeff{column}, label,more{rows}")) == {
        "b.png": ["sand", "sea"],
        "a.png": [],
    }


@READERS
def test_rows_that_another_program_has_numbered(read, table):
    assert read(table(",path,label,\n0,a.png,x,\n")) == {"a.png": ["x"]}


@READERS
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 0: none of its columns is path, name, .*, they are none"),
        ("path;label\na.png;x\n", "line 1: none of its columns .*, they are 'path;label'"),
        ("path,label,label\na.png,x,y\n", "line 1: it has 2 columns label"),
        ("path,label,path\na.png,x,b.png\n", "line 1: it has 2 columns path"),
        ("path,label\na.png,x\nb.png\n", "line 3: it has 2 columns, but not here"),
        ("path,label\na.png,x,y\n", "line 2: it has 2 columns, but not here"),
        ('path,label\na.png,"x\n', "line 2: unexpected end of data"),
        ("path,label\n,x\n", "line 2: there is no path"),
        ("path,label\na.png,x\nb.png,x||y\n", r"line 3: one of the labels in 'x\|\|y' is empty"),
        ("path,label\na.png,\xe9\n".encode("latin-1"), r"line 2: '\\udce9' is not in UTF-8"),
        (b"path,label\na.png,\xff\n", r"line 2: '\\udcff' is not in UTF-8"),
        ("path,label\na.png,x\n".encode("utf-16"), r"line 1: .* is not in UTF-8"),
        (b"path,label\na.png,\0\n" + b"x" * 200_000, "line 3: .*field"),
    ],
)  # fmt: skip
def test_what_is_refused(read, table, content, message):
    with pytest.raises(ValueError, match=rf"a CSV file in UTF-8, at .*labels\.csv, .*{message}"):
        read(table(content))


@READERS
@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
@pytest.mark.parametrize(("make", "kind"), [(os.mkfifo, "a pipe"), (os.mkdir, "a folder")])
def test_what_is_no_file_is_named_and_not_waited_for(read, tmp_path, make, kind):
    make(tmp_path / "labels.csv")
    with pytest.raises(FileNotFoundError, match=rf"got {kind} at .*labels\.csv"):
        read(tmp_path / "labels.csv")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        read(tmp_path / "nowhere.csv")


def test_columns_that_are_wanted(table):
    path = table("image,tag,more,more\na.png,x,1,2\n")
    assert list(read_table(path, columns=["tag"])) == [(2, "a.png", {"tag": "x"})]
    assert list(read_table(path, "tag", [])) == [(2, "x", {})]
    for wanted in ({"path_column": "photo"}, {"columns": ["price"]}):
        (name,) = {*wanted.values()} if "path_column" in wanted else wanted["columns"]
        with pytest.raises(ValueError, match=f"line 1: .* {name}"):
            read_table(path, **wanted)


def test_names_that_are_no_text(table):
    (row,) = read_table(table(b"path,label\ncaf\xe9.png,x\n"))
    assert os.fsencode(row.path) == b"caf\xe9.png"


def test_a_cell_of_several_lines_is_as_it_stands_there(table):
    (row,) = read_table(table('path,label\r\na.png,"x\r\ny"\r\n'))
    assert (row.line, row.cells) == (3, {"label": "x\r\ny"})


def test_labels_of_a_cell():
    assert to_labels(" ") == []
    assert to_labels("sea; sand", ";") == ["sea", "sand"]


@given(content=st.binary(max_size=60))
def test_any_table_is_read_or_refused(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(b"path,label\n" + content)
    for read in (read_table, ImageFiles.from_csv, lambda path: rows_of(path, path.parent, [])):
        try:
            read(path)
        except ValueError as error:
            assert "Expected" in str(error)  # noqa: PT017
