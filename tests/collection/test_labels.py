"""Labels from folders, tables and mappings: one way of writing several, which is read back."""

import pytest

from pml_hashing.collection.labels import join_labels, labels_of, rows_of


@pytest.mark.parametrize("labels", [[], ["sea"], ["sand", "sea"], [" sea ", "sea", ""]])
def test_what_is_joined_is_read_back(labels):
    assert labels_of(join_labels(labels)) == tuple(sorted({x.strip() for x in labels} - {""}))


@pytest.mark.parametrize(
    ("labels", "names"),
    [("folders", ["sea|sand/a.png", "sea/b.png"]), ({"a.png": ["sea|sand", "sea"]}, ["a.png"])],
)
def test_one_label_is_not_read_as_two(tmp_path, labels, names):
    with pytest.raises(ValueError, match=r"Expected labels without '\|', .* got 'sea\|sand'"):
        rows_of(labels, tmp_path, names)


def test_a_text_has_several_labels(tmp_path):
    (tmp_path / "labels.csv").write_text("path,label\na.png,sea|sand\nb.png,\n")
    for labels in (tmp_path / "labels.csv", {"a.png": "sea|sand", "b.png": None}):
        rows, absent = rows_of(labels, tmp_path, ["a.png", "b.png"])
        assert rows == {"a.png": {"label": "sand|sea"}, "b.png": {"label": None}}
        assert absent == []
