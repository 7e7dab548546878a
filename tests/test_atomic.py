"""Files and logs that hold no half-written line, whatever happens while they are written."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from full_disk import room_for

from seg3d.atomic import append_line, told_late, write_text


@pytest.mark.parametrize("torn", ["", '{"epoch": 1, "chan', "x" * 200_000])
def test_a_line_follows_the_last_whole_one(tmp_path: Path, torn: str) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(f"first\nsecond\n{torn}")
    append_line(log, "third")
    assert log.read_text() == "first\nsecond\nthird\n"


def test_a_log_begins_with_its_first_whole_line(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("torn")
    append_line(log, "first")
    assert log.read_text() == "first\n"


def test_a_line_that_finds_no_room_is_told_and_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    append_line(log, "first")
    with room_for(10), pytest.raises(OSError, match="too large") as error:
        append_line(log, "a longer line")
    assert error.value.filename == str(log)
    assert log.read_text() == "first\n"


def test_an_error_names_the_file_and_not_its_draft(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with room_for(10), pytest.raises(OSError, match="too large") as error:
        write_text(path, "x" * 100)
    assert error.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_library_makes_of_a_failed_write_is_not_what_is_told(tmp_path: Path) -> None:
    def write() -> None:
        with told_late(tmp_path / "a") as file:
            assert file.write(b"x" * 100) == 100
            raise RuntimeError

    with room_for(10), pytest.raises(OSError, match="too large") as error:
        write()
    assert error.value.errno == errno.EFBIG
