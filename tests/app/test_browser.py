"""The page in a real browser without a window: somebody uses it, and everything they set arrives.

Needs the package playwright and a Chromium or Chrome that is installed: its sandbox is off, for containers.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fantasytalking.common.files import hash_file
from fantasytalking.media import read_audio
from fantasytalking.portrait_world.corpus.demo import DEMO_FOLDER, DEMO_PORTRAIT_FILE, DEMO_SPEECH_FILE
from tests.app.conftest import MAX_PAGE_SECONDS, Server

pytestmark = pytest.mark.browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
NUMBERS = {
    "number input for Expression motion": 0.8,
    "number input for Head and body motion": 0.2,
    "number input for Length": 0.6,
    "number input for Text guidance": 6,
    "number input for Audio guidance": 3,
    "number input for Expression guidance": 2,
    "number input for Steps": 3,
    "number input for Frames per second": 20,
    "Seed": 11,
    "Face": 1,
}
PATIENCE = 60_000
"""Milliseconds."""


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[Any]:
    """The page as it is when it was opened for the first time."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1400, "height": 1100})
        opened.set_default_timeout(PATIENCE)
        yield opened
        browser.close()


@pytest.fixture
def fresh(page: Any, server: Server) -> Any:
    page.goto(server.url)
    page.get_by_role("button", name="Generate").wait_for()
    return page


def make(page: Any, server: Server) -> dict[str, Any]:
    """Presses the button and waits; returns the record of the video that the page shows."""
    before = set(server.output.rglob("video.json"))
    page.get_by_role("button", name="Generate").click()
    page.wait_for_function("document.querySelector('#line textarea').value.includes('s of work per second')")
    (record,) = set(server.output.rglob("video.json")) - before
    return json.loads(record.read_text())


def test_nothing_given_is_told_in_a_line(fresh: Any):
    fresh.get_by_role("button", name="Generate").click()
    told = fresh.get_by_test_id("toast-text")
    told.wait_for()
    assert told.inner_text() == "there is no portrait yet; upload one"
    assert "Traceback" not in fresh.content()


def test_an_example_with_every_control_moved_becomes_a_video_that_plays(fresh: Any, server: Server):
    fresh.get_by_text("speech.wav").click()
    fresh.get_by_text("More", exact=True).click()
    fresh.get_by_label("Prompt", exact=True).fill("Somebody sings.")
    fresh.get_by_label("Negative prompt", exact=True).fill("Snow.")
    for label, value in NUMBERS.items():
        field = fresh.get_by_label(label, exact=True)
        field.fill(str(value))
        field.blur()
    fresh.get_by_label("Size").click()
    fresh.get_by_role("option", name="64x32").click()
    record = make(fresh, server)
    config = record["config"]
    assert (config["prompt"], config["negative_prompt"], config["sizes"]) == ("Somebody sings.", "Snow.", ["64x32"])
    assert config["guidance"]["text"] == {"scale_start": 6.0, "scale_end": 6.0, "stop": 1.0}
    assert config["guidance"]["audio"] == {"scale_start": 3.0, "scale_end": 3.0, "stop": 1.0}
    assert config["guidance"]["expression"] == {"scale_start": 2.0, "scale_end": 2.0, "stop": 1.0}
    names = ("expression_motion", "body_motion", "max_seconds", "num_inference_steps", "seed", "fps", "face_index")
    assert [config[name] for name in names] == [0.8, 0.2, 0.6, 3, 11, 20.0, 1]
    assert hash_file(Path(record["image"])) == hash_file(DEMO_FOLDER / DEMO_PORTRAIT_FILE)
    assert hash_file(Path(record["audio"])) == hash_file(DEMO_FOLDER / DEMO_SPEECH_FILE)

    fresh.wait_for_function("document.querySelector('#video video')?.readyState >= 2")
    shown = fresh.locator("#video video")
    assert shown.evaluate("video => video.duration") == pytest.approx(0.6, abs=0.1)
    assert shown.evaluate("video => [video.videoWidth, video.videoHeight]") == [64, 32]
    fresh.wait_for_function("document.querySelector('#plot img')?.naturalWidth > 300")


def test_what_the_microphone_hears_is_spoken(fresh: Any, server: Server, tmp_path: Path):
    picture = tmp_path / "somebody.png"
    shutil.copyfile(DEMO_FOLDER / DEMO_PORTRAIT_FILE, picture)
    fresh.get_by_test_id("file-upload").first.set_input_files(str(picture))
    fresh.get_by_label("Record audio").click()
    fresh.get_by_role("button", name="Record", exact=True).click()
    fresh.wait_for_timeout(1500)
    fresh.get_by_test_id("waveform-Speech").get_by_role("button", name="Stop").click()
    record = make(fresh, server)
    assert 0.5 < record["result"]["seconds"] <= MAX_PAGE_SECONDS
    assert np.abs(read_audio(record["audio"])).max() > 0.01, "Chromium's own device beeps once a second"


def test_nothing_is_fetched_from_elsewhere(page: Any, server: Server):
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.url)
    page.get_by_role("button", name="Generate").wait_for()
    assert asked and all(url.startswith((server.url, "data:", "blob:")) for url in asked), asked
