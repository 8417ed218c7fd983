"""Files are whole or not there."""

import pytest

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write, existing_file


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
    with pytest.raises(InputError, match="holds other things"), atomic_write(target) as temporary:
        temporary.mkdir()
        (temporary / "weights").write_text("three")
    assert sorted(path.name for path in target.iterdir()) == ["mine", "weights"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_places_that_cannot_be_written_or_read(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write"), atomic_write(tmp_path / "file" / "below"):
        pass
    with pytest.raises(InputError, match="is a folder"), atomic_write(tmp_path) as temporary:
        temporary.write_text("x")
    with pytest.raises(InputError, match=r"portrait '.*' is a folder, not a file"):
        existing_file(tmp_path, "portrait")
