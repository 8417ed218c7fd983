"""Every control of the page reaches the model, and whatever cannot be used ends in one line."""

import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fantasytalking.commands.invocation import Invocation
from fantasytalking.common.errors import InputError
from fantasytalking.inference.config import InferConfig
from fantasytalking.media import probe, write_image, write_video
from fantasytalking.portrait_world.corpus.demo import DEMO_FOLDER, DEMO_PORTRAIT_FILE, DEMO_SPEECH_FILE
from fantasytalking.portrait_world.corpus.rendered_clip import PortraitRenderer
from fantasytalking.portrait_world.motion.frame_state import FaceState
from fantasytalking.portrait_world.people.identity import make_identity
from tests.app.conftest import MAX_PAGE_SECONDS, Server
from tests.helpers.tiny_pipeline import random_speech
from tests.inference.cli_runner import write_wav

pytest.importorskip("gradio_client")

ASKED: dict[str, Any] = {
    "portrait": DEMO_FOLDER / DEMO_PORTRAIT_FILE,
    "audio": DEMO_FOLDER / DEMO_SPEECH_FILE,
    "driving_video": None,
    "second_audio": None,
    "second_driving_video": None,
    "prompt": "A person is talking.",
    "negative_prompt": "",
    "expression_motion": 0.5,
    "body_motion": 0.5,
    "text_guidance_scale": 5,
    "audio_guidance_scale": 5,
    "expression_guidance_scale": 4.5,
    "num_inference_steps": 2,
    "seed": 0,
    "max_seconds": 0.6,
    "fps": 25,
    "size": "automatic",
    "face_index": 0,
    "stream": False,
}
FILES = ("portrait", "audio", "driving_video", "second_audio", "second_driving_video")
Talk = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def talk(server: Server) -> Talk:
    """talk(control=value) gives the record of the video, with "line" and "video" as the page shows them."""
    from gradio_client import Client, handle_file

    client = Client(server.url, verbose=False)

    def talk(**changes: Any) -> dict[str, Any]:
        values = {**ASKED, **changes}
        for name in FILES:
            values[name] = None if values[name] is None else handle_file(str(values[name]))
        video, line, plot, record, picture, *_ = client.predict(**values, api_name="/talk")
        assert plot["type"] == "matplotlib" and len(plot["plot"]) > 5000
        assert picture["visible"] is False, "the video is there; nobody needs its last picture any more"
        return {**json.loads(Path(record).read_text()), "line": line, "video": Path(video)}

    return talk


@pytest.fixture(scope="session")
def plain(talk: Talk) -> dict[str, Any]:
    return talk()


def test_the_page_makes_a_video_that_can_be_played(plain: dict[str, Any], server: Server):
    info = probe(plain["video"])
    assert (info.frames, info.width, info.height, info.fps, info.has_audio) == (15, 32, 32, 25, True)
    assert re.fullmatch(r"0\.6 s, 32 x 32, made in \d+ s", plain["line"])
    (own,) = {path.parent for path in server.output.rglob("video.mp4")} & {Path(plain["output"]).parent}
    assert sorted(path.name for path in own.iterdir()) == ["portrait.png", "sound.wav", "video.json", "video.mp4"]
    assert Path(plain["image"]) == own / "portrait.png"


CONTROLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "prompt": ("Rain.", {"prompt": "Rain."}),
    "negative_prompt": ("Snow.", {"negative_prompt": "Snow."}),
    "expression_motion": (1, {"expression_motion": 1.0}),
    "body_motion": (0, {"body_motion": 0.0}),
    "text_guidance_scale": (8, {"guidance": {"text": {"scale_start": 8.0, "scale_end": 8.0}}}),
    "audio_guidance_scale": (1, {"guidance": {"audio": {"scale_start": 1.0, "scale_end": 1.0}}}),
    "num_inference_steps": (3, {"num_inference_steps": 3}),
    "seed": (7, {"seed": 7}),
    "max_seconds": (0.4, {"max_seconds": 0.4}),
    "fps": (20, {"fps": 20.0}),
    "size": ("64x32", {"sizes": ["64x32"]}),
    "stream": (True, {"stream": True}),
}
"""Value of each control, and what it sets."""
UNSEEN: dict[str, tuple[Any, dict[str, Any]]] = {
    "expression_guidance_scale": (5, {"guidance": {"expression": {"scale_start": 5.0, "scale_end": 5.0}}}),
    "face_index": (1, {"face_index": 1}),
}
"""As `CONTROLS`, without effect, so that the video is the same again: the only face is the first face, and without a
driver nothing guides by it."""


def check_controls(talk: Talk, plain: dict[str, Any], controls: dict[str, tuple[Any, dict[str, Any]]]) -> None:
    made = talk(**{name: value for name, (value, _) in controls.items()})
    config = plain["config"]
    for _, setting in controls.values():
        config = merged(config, setting)
    assert made["config"] == config != plain["config"]
    assert (made["video_sha256"] == plain["video_sha256"]) == (controls.keys() <= UNSEEN.keys())


@pytest.mark.parametrize("controls", [CONTROLS, UNSEEN], ids=["seen", "unseen"])
def test_all_controls_reach_the_model(
    talk: Talk, plain: dict[str, Any], controls: dict[str, tuple[Any, dict[str, Any]]]
):
    check_controls(talk, plain, controls)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CONTROLS, *UNSEEN])
def test_every_control_reaches_the_model(talk: Talk, plain: dict[str, Any], name: str):
    check_controls(talk, plain, {name: (CONTROLS | UNSEEN)[name]})


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return values | {
        name: merged(values[name], value) if isinstance(value, dict) else value for name, value in changes.items()
    }


def test_portrait_and_sound_reach_the_model(talk: Talk, plain: dict[str, Any], tmp_path: Path):
    write_image(tmp_path / "other.png", PortraitRenderer(make_identity(1003), 128).portrait())
    write_wav(tmp_path / "other.wav", random_speech(0.6))
    for changes in ({"portrait": tmp_path / "other.png"}, {"audio": tmp_path / "other.wav"}):
        made = talk(**changes)
        assert made["config"] == plain["config"] and made["video_sha256"] != plain["video_sha256"]


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("driver") / "driver.mp4"
    sitter = PortraitRenderer(make_identity(8), 128)
    write_video(path, [sitter.frame(FaceState(mouth_open=0.5 + 0.5 * np.sin(number))) for number in range(20)], fps=25)
    return path


def test_a_driver_drives_with_and_without_sound(talk: Talk, plain: dict[str, Any], driver: Path):
    alone = talk(audio=None, driving_video=driver)
    assert alone["audio"] == [] and Path(alone["drive"][0]).name == "driver.mp4"
    assert not probe(alone["video"]).has_audio and probe(alone["video"]).frames == 15
    guided = talk(audio=None, driving_video=driver, expression_guidance_scale=2)
    assert guided["video_sha256"] != alone["video_sha256"]
    both = talk(driving_video=driver)
    assert probe(both["video"]).has_audio
    assert len({made["video_sha256"] for made in (alone, both, plain)}) == 3
    assert both["hashes"].keys() - plain["hashes"].keys() == {"driver", "expression_adapter", "expression_encoder"}


def test_a_second_person_speaks_and_is_driven(talk: Talk, driver: Path, tmp_path: Path):
    picture = PortraitRenderer(make_identity(3), 128).portrait()
    write_image(tmp_path / "two.png", np.concatenate([picture, picture[:, ::-1]], axis=1))
    write_wav(tmp_path / "second.wav", random_speech(0.4))
    people = {"portrait": tmp_path / "two.png", "second_audio": tmp_path / "second.wav", "size": "64x32"}
    spoken = talk(**people)
    assert [Path(path).name for path in spoken["audio"]] == ["sound.wav", "sound_2.wav"]
    seen = talk(**people, driving_video=driver, second_driving_video=driver)
    assert [Path(path).name for path in seen["drive"]] == ["driver.mp4", "driver_2.mp4"]
    assert seen["video_sha256"] != spoken["video_sha256"]


def test_every_control_is_tried_here():
    from fantasytalking.app.request import PageRequest

    assert [field.name for field in fields(PageRequest)] == list(ASKED)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"portrait": None}, "there is no portrait yet"),
        ({"audio": None}, "there is no speech yet"),
        (
            {
                "second_audio": DEMO_FOLDER / DEMO_SPEECH_FILE,
                "audio": None,
                "driving_video": DEMO_FOLDER / DEMO_SPEECH_FILE,
            },
            "a second audio but no first",
        ),
        ({"second_driving_video": DEMO_FOLDER / DEMO_SPEECH_FILE}, "a second driving video but no first"),
        (
            {"second_audio": DEMO_FOLDER / DEMO_SPEECH_FILE},
            "1 face was found in the portrait; choose",
        ),
        ({"driving_video": DEMO_FOLDER / DEMO_SPEECH_FILE}, "'speech.wav' has no video track"),
        (
            {"driving_video": "driver", "stream": True},
            "a stream takes one audio and no driving video",
        ),
        ({"expression_guidance_scale": -1}, "less than minimum value 0"),
        ({"portrait": DEMO_FOLDER / DEMO_SPEECH_FILE}, "image 'speech.wav' is a sound; give one of JPEG"),
        (
            {"audio": DEMO_FOLDER / DEMO_PORTRAIT_FILE},
            "'portrait.png' (cannot be decoded|has no audio track)",
        ),
        ({"portrait": "grey"}, "no face was found in the image"),
        ({"seed": None}, "Seed is empty"),
        ({"seed": -1}, "less than minimum value 0"),
        ({"num_inference_steps": 101}, "greater than maximum value 100"),
        ({"num_inference_steps": 2.5}, "Steps is 2.5; enter a whole number"),
        ({"max_seconds": MAX_PAGE_SECONDS + 1}, "greater than maximum value 2"),
        ({"size": "640x640"}, "not in the list of choices"),
        ({"face_index": 2}, "face 2 was selected and 1 found; give Face 1"),
        ({"prompt": "a" * 5000}, "4096"),
        ({"stream": "yes"}, "stream is 'yes'; it must be true or false"),
        (
            {"stream": True, "portrait": DEMO_FOLDER / DEMO_SPEECH_FILE},
            "image 'speech.wav' is a sound; give one of JPEG",
        ),
        (
            {"stream": True, "audio": DEMO_FOLDER / DEMO_PORTRAIT_FILE},
            "'portrait.png' (cannot be decoded|has no audio track)",
        ),
    ],
)
def test_what_cannot_be_used_is_one_line(
    talk: Talk, server: Server, driver: Path, tmp_path: Path, changes: dict[str, Any], told: str
):
    from gradio_client.exceptions import AppError

    if changes.get("portrait") == "grey":
        write_image(tmp_path / "grey.png", np.full((64, 64, 3), 128, np.uint8))
        changes = {"portrait": tmp_path / "grey.png"}
    if changes.get("driving_video") == "driver":
        changes = {**changes, "driving_video": driver}
    before = list(server.output.rglob("*"))
    with pytest.raises(AppError, match=told) as raised:
        talk(**changes)
    assert "\n" not in str(raised.value) and "Traceback" not in str(raised.value)
    assert "--" not in str(raised.value), "options of the command line mean nothing on the page"
    assert str(server.output) not in str(raised.value)
    assert list(server.output.rglob("*")) == before


def test_a_file_that_is_too_large_is_refused(server: Server, tmp_path: Path):
    httpx = pytest.importorskip("httpx")
    large = tmp_path / "large.wav"
    with large.open("wb") as file:
        file.truncate(65 * 2**20)
    with large.open("rb") as file:
        answer = httpx.post(f"{server.url}/gradio_api/upload", files={"files": file}, timeout=60)
    assert answer.status_code == 413 and "67108864" in answer.text


def test_motion_cannot_be_set_where_it_was_never_trained(base: Path, adapters: Path, tmp_path: Path):
    from fantasytalking.app.audience import Audience
    from fantasytalking.app.examples import Examples
    from fantasytalking.app.page import build_page
    from fantasytalking.app.service import GenerationService

    config = InferConfig(base=str(base), adapter=str(adapters / "audio"), sizes=["32x32"], max_text_tokens=12)
    page = build_page(GenerationService(config, tmp_path, MAX_PAGE_SECONDS), Examples(), Audience())
    sliders = {
        part["props"]["label"]: part["props"]
        for part in page.get_config_file()["components"]
        if part["type"] == "slider"
    }
    for label in ("Expression motion", "Head and body motion"):
        assert sliders[label]["interactive"] is False and "never trained" in sliders[label]["info"]
    assert sliders["Steps"].get("interactive") is not False
    assert sliders["Expression guidance"]["interactive"] is False
    videos = [part["props"] for part in page.get_config_file()["components"] if part["type"] == "video"]
    assert [video["interactive"] for video in videos if "driving" in video["label"].lower()] == [False, False]


def test_only_this_machine_is_listened_to(server: Server):
    import socket

    with socket.create_connection(("127.0.0.1", server.port), timeout=5):
        pass
    # Another address of this same machine: a page that were open to the network would answer on it too.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port), timeout=5)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--port", 0), "port is 0; it must be 1 to 65535"),
        (("--max-seconds", 0), "max-seconds is 0; it must be 1 to 3600"),
        (("stepz=3",), "unknown key 'stepz'; did you mean 'num_inference_steps'?"),
    ],
)
def test_a_wrong_option_is_one_line(options: tuple[object, ...], told: str):
    from fantasytalking.commands.app import main

    with pytest.raises(InputError, match=re.escape(told)):
        main([str(option) for option in options], Invocation.of_command("app"))


def test_a_taken_port_is_told_before_a_model_is_loaded(server: Server):
    from fantasytalking.commands.app import main

    with pytest.raises(InputError, match=rf"cannot listen on 127\.0\.0\.1:{server.port} .*another --port"):
        main(["--port", str(server.port), "base=nosuch"], Invocation.of_command("app"))
