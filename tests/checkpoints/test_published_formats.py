"""Every published file is read with the values that it has by hand, or refused; the documentation says which."""

import re
import runpy
from pathlib import Path

import pytest

from fantasytalking.common.errors import InputError
from tests.helpers.paths import ROOT
from tests.helpers.published_formats import FORMATS, READ, PublishedFormat

DOCUMENTED = (ROOT / "docs/models.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("entry", FORMATS, ids=lambda entry: re.sub(r"\W+", "_", entry.file)[:60])
def test_a_published_file_has_the_outcome_that_is_documented(entry: PublishedFormat, tmp_path: Path) -> None:
    outcome = entry.outcome(tmp_path)
    assert f"| {entry.file} | {entry.setting} | {outcome} |\n" in DOCUMENTED, "run docs/make_formats.py"


def test_the_documentation_lists_these_files_in_their_order() -> None:
    documented = re.findall(r"^\| (.+) \| .+ \| (?:read|refused: .+) \|$", DOCUMENTED, re.MULTILINE)
    assert documented == [entry.file for entry in FORMATS]
    assert callable(runpy.run_path(str(ROOT / "docs/make_formats.py"))["format_table"])


def test_values_are_compared(tmp_path: Path) -> None:
    """A reader that returned other values would not pass for one that reads."""

    def fail(folder: Path) -> None:
        raise AssertionError

    with pytest.raises(AssertionError):
        PublishedFormat("a", "b", fail).outcome(tmp_path)

    def refuse(folder: Path) -> None:
        raise InputError("it is wrong; use another")

    assert PublishedFormat("a", "b", refuse).outcome(tmp_path) == "refused: use another" != READ
