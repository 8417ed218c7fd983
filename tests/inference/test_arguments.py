"""Options of the command line: the job they describe, and the names of earlier releases."""

from pathlib import Path

import pytest

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.inference.arguments import RENAMED_OPTIONS, parse_job
from fantasytalking.inference.job import GenerationJob
from tests.helpers.errors import raises_input_error


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    for name in ("face.png", "speech.wav", "driver.mp4"):
        (tmp_path / name).touch()
    return ["--image", str(tmp_path / "face.png"), "--audio", str(tmp_path / "speech.wav")]


def parse(*arguments: str) -> GenerationJob:
    return parse_job(arguments, "test")


def test_options_override_key_value_which_overrides_the_file(inputs: list[str]) -> None:
    job = parse(*inputs, "--motion", "0.6", "--body-motion", "0.3", "--seed", "7", "seed=8", "fps=30")
    controls = job.config.controls()
    assert (controls.expression_motion, controls.body_motion, controls.fps, job.config.seed) == (0.6, 0.3, 30, 7)
    assert job.output == Path("outputs/face_speech.mp4")


def test_options_of_earlier_releases_work_with_one_warning(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = str(tmp_path / "driver.mp4")
    old = ["--drive", driver, "--drive", driver, "--face", "2", "--face", "1", "--steps=3", "--seconds", "0.4"]
    old += ["--text-guidance", "2", "--audio-guidance", "3", "--expression-guidance", "4"]
    job = parse(*inputs, *old)
    renamed = [RENAMED_OPTIONS.get(item, item) for item in old]
    renamed[renamed.index("--steps=3")] = "--num-inference-steps=3"
    warnings = capsys.readouterr().err.splitlines()
    assert parse(*inputs, *renamed) == job and capsys.readouterr().err == ""
    guidance = job.config.guidance
    assert [guidance.text.scale_end, guidance.audio.scale_end, guidance.expression.scale_end] == [2, 3, 4]
    assert (job.config.num_inference_steps, job.config.max_seconds, job.config.face_indices) == (3, 0.4, [2, 1])
    assert len(job.driving_videos) == 2
    named = [line for line in warnings if "was renamed to" in line]
    assert len(named) == len(RENAMED_OPTIONS) - 1, "every option once, --replay not among them"


def test_the_old_name_of_reproduce_reads_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"nowhere\.json"):
        parse("--replay", str(tmp_path / "nowhere.json"))
    assert "--reproduce" in capsys.readouterr().err


def test_reproduce_excludes_other_options(inputs: list[str]) -> None:
    with raises_input_error(ErrorCode.conflict, "--reproduce", "--image"):
        parse(*inputs, "--reproduce", "some.json")


def test_one_selected_face_replaces_several(inputs: list[str]) -> None:
    job = parse(*inputs, "--face-index", "2", "face_indices=[1,3]")
    assert (job.config.face_index, job.config.face_indices) == (2, [])
    assert job.config.portrait_options().face_index == 2


def test_an_option_is_checked_against_the_configuration(inputs: list[str]) -> None:
    with raises_input_error(ErrorCode.conflict, "optimizations.vae_tiling", True):
        parse(*inputs, "--stream", "optimizations.vae_tiling=true")
