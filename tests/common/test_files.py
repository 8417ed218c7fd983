"""Atomic file writes."""

import pytest

from fantasytalking.common.errors import ErrorCode
from fantasytalking.common.files import atomic_write, existing_file
from tests.helpers.errors import raises_input_error


def test_a_file_appears_whole_and_a_failure_leaves_the_old_one(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with atomic_write(target) as temporary:
        temporary.write_text("one")
        assert not target.exists()
        assert temporary.suffix == ".txt"
    with pytest.raises(ZeroDivisionError), atomic_write(target) as temporary:
        temporary.write_text("two")
        _ = 1 / 0
    assert target.read_text() == "one"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_a_folder_is_replaced_by_its_like_only(tmp_path):
    target = tmp_path / "model"
    for text in ("one", "two"):
        with atomic_write(target) as temporary:
            temporary.mkdir()
            (temporary / "weights").write_text(text)
    assert (target / "weights").read_text() == "two"
    (target / "mine").write_text("keep")
    with raises_input_error(ErrorCode.output_exists, "output", str(target)), atomic_write(target) as temporary:
        temporary.mkdir()
        (temporary / "weights").write_text("three")
    assert sorted(path.name for path in target.iterdir()) == ["mine", "weights"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_places_that_cannot_be_written_or_read(tmp_path):
    (tmp_path / "file").write_text("x")
    with raises_input_error(ErrorCode.output_exists, "output"), atomic_write(tmp_path / "file" / "below"):
        pass
    with raises_input_error(ErrorCode.output_exists, "output", str(tmp_path)), atomic_write(tmp_path) as temporary:
        temporary.write_text("x")
    with raises_input_error(ErrorCode.missing_file, "portrait", str(tmp_path)):
        existing_file(tmp_path, "portrait")
