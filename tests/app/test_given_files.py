"""What is given to the page is fitted and told in the page's own words."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mediapipe")

from fantasytalking.app.estimate import SpeedModel, duration_text
from fantasytalking.app.given_files import page_words, prepare_people
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.face_range import FaceRange
from fantasytalking.inference.config import InferConfig
from fantasytalking.media import write_image
from fantasytalking.media.resolution import ResizeMode
from fantasytalking.portrait_world.corpus.rendered_clip import PortraitRenderer
from fantasytalking.portrait_world.people.identity import make_identity
from tests.helpers.errors import raises_input_error

CONFIG = InferConfig(sizes=["96x96"])


@pytest.fixture(scope="module")
def person() -> np.ndarray:
    return PortraitRenderer(make_identity(1010), 128).portrait()


@pytest.mark.parametrize("gap", [0, 200])
def test_the_whole_faces_of_two_people_fit(person: np.ndarray, tmp_path: Path, gap: int):
    space = np.repeat(person[:, -1:], gap, axis=1)
    write_image(tmp_path / "pair.png", np.concatenate([person, space, person[:, ::-1]], axis=1))
    config, portrait = prepare_people(CONFIG, tmp_path / "pair.png", 2)
    height, width = portrait.pixels.shape[:2]
    assert (portrait.face_boxes >= 0).all() and (portrait.face_boxes <= (width, height) * 2).all()
    assert len(portrait.face_boxes) == 2 and config.sizes == ["160x96"]
    assert (config.resize_mode is ResizeMode.letterbox) == (gap > 0), "black bars only where nothing else helps"
    with raises_input_error(ErrorCode.conflict, "sizes", "96x96"):
        CONFIG.portrait_options().prepare(tmp_path / "pair.png", 2)


def test_one_person_keeps_the_size_of_the_model(person: np.ndarray, tmp_path: Path):
    write_image(tmp_path / "one.png", person)
    assert prepare_people(CONFIG, tmp_path / "one.png", 1)[0] == CONFIG
    with pytest.raises(InputError, match="1 face was found"):
        prepare_people(CONFIG, tmp_path / "one.png", 2)


def test_a_face_is_brought_to_the_size_that_the_model_knows(person: np.ndarray, tmp_path: Path):
    write_image(tmp_path / "far.png", np.pad(person, ((64, 64), (64, 64), (0, 0)), mode="edge"))
    known = {1: FaceRange(height=(0.5, 0.7), x=(0.4, 0.6), y=(0.3, 0.7))}
    _, far = prepare_people(CONFIG, tmp_path / "far.png", 1)
    _, near = prepare_people(CONFIG, tmp_path / "far.png", 1, known)
    assert far.placement.height < 0.5 and known[1].contains(near.placement)
    note = far.framing_warning(known, ResizeMode.crop)
    assert note is not None and "resize_mode" in note and "resize_mode" not in page_words(note)


@pytest.mark.parametrize(
    ("message", "worded"),
    [
        ("select one: --face-index 1 (left) to --face-index 3 (right)", "select one: Face 1 (left) to 3 (right)"),
        ("give --face-index 1 to 2", "give Face 1 to 2"),
        ("use --audio FILE,\n or --driving-video FILE", "use Speech FILE, or Driving video FILE"),
        ("set a duration (--max-seconds N)", "set a duration (Length)"),
        ("use --max-seconds 3.20 (in a training configuration: validation.max_seconds)", "use Length 3.20"),
        ("give a wider --size, or resize_mode=letterbox", "choose the automatic Size"),
    ],
)
def test_options_have_the_names_of_their_controls(message: str, worded: str):
    assert page_words(message) == worded


def test_the_time_of_a_video_is_learnt_from_those_before():
    speed = SpeedModel()
    assert speed.seconds(30, 100) is None and speed.other_seconds(100) == 0
    speed.observe(steps=10, frames=50, denoising_seconds=100, other_seconds=5)
    assert speed.seconds(30, 100) == pytest.approx(100 * (30 * 0.2 + 0.1))
    assert [duration_text(seconds) for seconds in (0, 59.6, 3725)] == ["0:00", "1:00", "1:02:05"]
