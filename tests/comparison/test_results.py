"""The file of the results loses no finished line, and never keeps half of one."""

import pytest
from comparison.results import append_record, drop_torn_line, read_records


def test_what_is_appended_is_read(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    assert read_records(path) == []
    append_record(path, {"method": "ITQ", "score": 0.5})
    append_record(path, {"method": "HyP²", "score": None})
    assert read_records(path) == [
        {"method": "ITQ", "score": 0.5},
        {"method": "HyP²", "score": None},
    ]


@pytest.mark.parametrize("torn", ["{", '{"a": 2', '{"a": 2}'])
@pytest.mark.parametrize("whole", ["", '{"a": 1}\n'])
def test_a_torn_last_line_does_not_count(torn, whole, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(whole + torn)
    expected = [{"a": 1}] if whole else []
    assert read_records(path) == expected
    drop_torn_line(path)
    assert path.read_text() == whole
    append_record(path, {"a": 3})
    assert read_records(path) == [*expected, {"a": 3}]


def test_a_whole_file_stays_as_it_is(tmp_path):
    path = tmp_path / "results.jsonl"
    drop_torn_line(path)
    assert not path.exists()
    for content in ("", '{"a": 1}\n'):
        path.write_text(content)
        drop_torn_line(path)
        assert path.read_text() == content


@pytest.mark.parametrize("line", ["{", "3", ""])
def test_another_broken_line_is_an_error(line, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(f'{{"a": 1}}\n{line}\n{{"a": 2}}\n')
    with pytest.raises(ValueError, match=r"JSON object in line 2 of .*results\.jsonl"):
        read_records(path)
