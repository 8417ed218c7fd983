"""Files of the package are found from any folder, and a file of the user's own comes first."""

from pathlib import Path

import pytest

from fantasytalking.common.config import load_config
from fantasytalking.common.errors import ErrorCode, install_command
from fantasytalking.common.resources import ROOT, resource_path
from fantasytalking.data.prepare.plan import read_time_ranges
from fantasytalking.inference.config import InferConfig
from fantasytalking.portrait_world.corpus.clip_corpus import read_sentences
from tests.helpers.errors import raises_input_error

INFER = "configs/nano/infer.yaml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_ships_is_found_in_any_folder():
    assert resource_path(INFER) == ROOT / INFER
    assert load_config(InferConfig, INFER).model == "nano"
    assert len(read_sentences("data/portrait_world/sentences_train.txt", range(10))) > 20
    assert len(read_time_ranges("data/manifests/hdtf.jsonl")) > 100


def test_a_file_in_the_working_directory_comes_first(tmp_path: Path):
    (tmp_path / INFER).parent.mkdir(parents=True)
    (tmp_path / INFER).write_text("model: wan14b\n")
    assert resource_path(INFER) == Path(INFER)
    assert load_config(InferConfig, INFER).model == "wan14b"


NOT_SHIPPED = ["configs/nano/none.yaml", "pyproject.toml", "checkpoints/none", "configs/../pyproject.toml", "outputs"]


@pytest.mark.parametrize("path", NOT_SHIPPED)
def test_anything_else_is_the_path_that_was_given(path: str):
    assert resource_path(path) == Path(path)


def test_a_config_in_neither_place_is_an_error():
    with raises_input_error(ErrorCode.missing_file, "config", "configs/nano/none.yaml"):
        load_config(InferConfig, "configs/nano/none.yaml")


def test_the_command_that_installs_an_extra_is_that_of_a_clone():
    assert install_command("data") == "pip install -e '.[data]'"
