"""The page in a real browser without a window: somebody uses it, sees all they need, and everything they set arrives.

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
from fantasytalking.media import read_audio, write_image
from fantasytalking.portrait_world.corpus.demo import DEMO_FOLDER, DEMO_PORTRAIT_FILE, DEMO_SPEECH_FILE
from fantasytalking.portrait_world.corpus.rendered_clip import PortraitRenderer
from fantasytalking.portrait_world.people.identity import make_identity
from tests.app.conftest import MAX_PAGE_SECONDS, Server, wait_until

pytestmark = pytest.mark.browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
]
SIZES = [(1280, 800), (390, 844)]
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
PATIENCE = 20_000
"""Milliseconds."""
LEAST_CONTRAST = 4.5
SHOWN_LINE = "document.querySelector('#line textarea').value"
CONTRASTS = """() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const shown = element => element.checkVisibility({opacityProperty: true, visibilityProperty: true});
  const linear = v => v <= 10.3 ? v / 3295 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] > 0.99) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const box = element.getBoundingClientRect();
    if (!texts.currentNode.data.trim() || !shown(element) || box.width < 2) continue;
    if (['SCRIPT', 'STYLE'].includes(element.tagName)) continue;
    const [one, other] = [parse(getComputedStyle(element).color), behind(element)].map(light);
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    found.push([texts.currentNode.data.trim(), Math.round(ratio * 100) / 100]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[Any]:
    """One tab of a browser; `asked` on it lists the address of every request."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
        opened.set_default_timeout(PATIENCE)
        opened.asked = []
        opened.on("request", lambda request: opened.asked.append(request.url))
        yield opened
        browser.close()


@pytest.fixture
def fresh(page: Any, server: Server) -> Any:
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(server.url)
    page.locator("#make").wait_for()
    page.wait_for_function("document.querySelector('#video video')?.readyState >= 2")
    return page


def choose_example(page: Any, kind: str = "speech") -> None:
    """Clicks on the first example and waits until its files and the estimate are there."""
    page.locator(f"#examples-{kind} img").first.click()
    page.locator("#portrait-image img").first.wait_for()
    page.get_by_text("Takes about").wait_for()


def make(page: Any, server: Server) -> dict[str, Any]:
    """Presses the button and waits; returns the record of the video that the page shows."""
    before = set(server.output.rglob("video.json"))
    page.locator("#make").click()
    page.wait_for_function(f"{SHOWN_LINE}.includes('made in')")
    (record,) = set(server.output.rglob("video.json")) - before
    return json.loads(record.read_text())


def outside(page: Any, *names: str) -> list[str]:
    """Those of the elements that are not wholly in the window."""
    inside = """([name]) => {
      const box = document.getElementById(name)?.getBoundingClientRect();
      return !!box && box.width > 0 && box.top >= 0 && box.left >= 0 &&
        box.bottom <= innerHeight && box.right <= document.documentElement.clientWidth;
    }"""
    return [name for name in names if not page.evaluate(inside, [name])]


def message(page: Any, slot: str) -> str:
    place = page.locator(f"#message-{slot} [role=alert]")
    place.wait_for()
    return str(place.inner_text())


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_all_that_a_video_needs_is_in_view_before_during_and_after(fresh: Any, server: Server, width: int, height: int):
    fresh.set_viewport_size({"width": width, "height": height})
    needed = ("modes", "portrait", "motion", "make", "result")
    assert outside(fresh, *needed, "video", "line") == []
    assert fresh.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off at the side"
    for tab, kind in (("Driving video", "driving_video"), ("Two people", "two_people"), ("Speech", "speech")):
        fresh.get_by_role("tab", name=tab).click()
        fresh.locator(f"#examples-{kind} img").first.wait_for()
        assert outside(fresh, *needed) == [], tab
    choose_example(fresh)
    fresh.evaluate("scrollTo(0, 0)")
    assert outside(fresh, *needed, "progress") == []

    fresh.locator("#make").click()
    fresh.locator("#stop").wait_for()
    assert fresh.locator("#make").is_disabled() and fresh.locator("#make").inner_text() == "Making …"
    fresh.get_by_text("elapsed").wait_for()
    assert outside(fresh, "portrait", "motion", "make", "stop", "progress", "result") == []
    fresh.wait_for_function(f"{SHOWN_LINE}.includes('made in')")
    fresh.wait_for_function("!document.querySelector('#make').disabled")
    assert outside(fresh, "portrait", "motion", "make", "result", "video", "line") == []
    assert fresh.locator("#stop").count() == 0 or not fresh.locator("#stop").is_visible()


def test_the_first_look_is_readable_and_has_a_finished_video(fresh: Any, server: Server):
    from fantasytalking.app.page import FAVICON_FILE

    assert fresh.title() == "FantasyTalking"
    assert fresh.evaluate("document.querySelector('#video video').duration") > 1
    assert fresh.request.get(f"{server.url}/favicon.ico").body() == FAVICON_FILE.read_bytes()
    fresh.get_by_text("Advanced settings").click()
    fresh.get_by_label("Prompt", exact=True).wait_for()
    contrasts = fresh.evaluate(CONTRASTS)
    assert len(contrasts) > 20
    assert [each for each in contrasts if each[1] < LEAST_CONTRAST] == []


def test_a_focused_slider_is_seen(fresh: Any):
    fresh.get_by_text("Advanced settings").click()
    slider = fresh.locator("input[type=range]").first
    slider.focus()
    fresh.keyboard.press("ArrowRight")
    assert slider.evaluate("element => parseFloat(getComputedStyle(element).outlineWidth)") >= 2


def test_what_is_missing_is_told_beside_its_control(fresh: Any):
    fresh.locator("#make").click()
    assert message(fresh, "portrait") == "there is no portrait yet; upload one"
    fresh.wait_for_function("!document.querySelector('#make').disabled")
    fresh.get_by_role("tab", name="Two people").click()
    fresh.locator("#group-second_audio").wait_for()
    fresh.locator("#make").click()
    assert "no speech for the right person yet" in message(fresh, "second_audio")
    assert "Traceback" not in fresh.content() and "--" not in fresh.inner_text("#main")


def test_files_are_checked_when_they_are_given(fresh: Any, tmp_path: Path):
    for name in ("a picture.png", "a <b>sound</b>.wav"):
        (tmp_path / name.replace("/", "")).write_text("neither")
    fresh.locator("#portrait input[type=file]").set_input_files(str(tmp_path / "a picture.png"))
    assert "'a picture.png'" in message(fresh, "portrait") and str(tmp_path) not in message(fresh, "portrait")
    fresh.locator("#group-audio input[type=file]").set_input_files(str(tmp_path / "a <b>sound<b>.wav"))
    assert "cannot be decoded" in message(fresh, "audio")
    assert fresh.locator("#message-audio b").count() == 0, "names are text"
    fresh.wait_for_function("!document.querySelector('#portrait-image img')"), "no broken picture"
    write_image(tmp_path / "grey.png", np.full((64, 64, 3), 128, np.uint8))
    fresh.locator("#portrait input[type=file]").set_input_files(str(tmp_path / "grey.png"))
    fresh.wait_for_function("document.querySelector('#message-portrait').innerText.includes('no face')")


def test_a_portrait_that_the_model_was_not_trained_for_is_warned_of(fresh: Any, server: Server, tmp_path: Path):
    choose_example(fresh)
    assert fresh.locator("#message-portrait [role=alert]").count() == 0
    fresh.get_by_label("Remove Image").or_(fresh.get_by_label("Clear")).first.click()
    write_image(tmp_path / "other.png", PortraitRenderer(make_identity(1003), 128).portrait())
    fresh.locator("#portrait input[type=file]").set_input_files(str(tmp_path / "other.png"))
    warning = message(fresh, "portrait")
    assert warning.startswith("A model for tests") and "the examples work" in warning
    make(fresh, server)
    shown, prompt = fresh.locator("#progress [role=alert]").inner_text().splitlines()
    assert shown == warning and "reads the first" in prompt, "the prompt of the tests has more tokens than their model"


def test_an_example_with_every_control_moved_becomes_a_video_that_plays(fresh: Any, server: Server):
    choose_example(fresh)
    fresh.get_by_text("Advanced settings").click()
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

    shown = fresh.locator("#video video")
    fresh.wait_for_function("document.querySelector('#video video')?.videoWidth == 64")
    assert shown.evaluate("video => video.duration") == pytest.approx(0.6, abs=0.1)
    assert shown.evaluate("video => [video.videoWidth, video.videoHeight]") == [64, 32]
    fresh.get_by_text("About the result").click()
    fresh.wait_for_function("document.querySelector('#plot img')?.naturalWidth > 300")
    before = fresh.get_by_label("Seed").input_value()
    fresh.locator("#random-seed").click()
    fresh.wait_for_function("([old]) => document.querySelector('[aria-label=Seed]')?.value != old", arg=[before])


@pytest.mark.parametrize(
    ("tab", "kind", "sounds", "drivers"), [("Driving video", "driving_video", 0, 1), ("Two people", "two_people", 2, 0)]
)
def test_each_tab_has_an_example_that_works(fresh: Any, server: Server, tab: str, kind: str, sounds: int, drivers: int):
    choose_example(fresh)
    fresh.get_by_role("tab", name=tab).click()
    fresh.locator(f"#examples-{kind} img").first.wait_for()
    choose_example(fresh, kind)
    record = make(fresh, server)
    assert (len(record["audio"]), len(record["drive"])) == (sounds, drivers)


def test_stop_ends_a_video_and_clear_empties_the_page(fresh: Any, server: Server):
    choose_example(fresh)
    fresh.get_by_text("Advanced settings").click()
    steps = fresh.get_by_label("number input for Steps", exact=True)
    steps.fill("50")
    steps.blur()
    before = set(server.output.iterdir())
    fresh.locator("#make").click()
    fresh.get_by_text("Generating: step").wait_for()
    fresh.locator("#stop").click()
    fresh.get_by_text("Stopped").wait_for()
    wait_until(lambda: set(server.output.iterdir()) == before)
    assert fresh.locator("#make").is_enabled()
    fresh.locator("#clear").click()
    fresh.wait_for_function("!document.querySelector('#portrait-image img')")


def test_frames_take_the_place_of_the_result_while_it_is_made(fresh: Any, server: Server):
    choose_example(fresh)
    fresh.get_by_text("Advanced settings").click()
    fresh.get_by_label("Stream").check()
    steps = fresh.get_by_label("number input for Steps", exact=True)
    steps.fill("20")
    steps.blur()
    fresh.locator("#make").click()
    fresh.locator("#picture img").wait_for()
    assert not fresh.locator("#video").is_visible()
    fresh.wait_for_function(f"{SHOWN_LINE}.includes('first frame after')")
    fresh.locator("#video").wait_for()
    assert not fresh.locator("#picture").is_visible()


def test_earlier_videos_are_found_again(fresh: Any, server: Server):
    choose_example(fresh)
    make(fresh, server)
    fresh.locator("#gallery").wait_for()
    fresh.goto(server.url)
    fresh.locator("#gallery").wait_for()


def test_what_the_microphone_hears_is_spoken(fresh: Any, server: Server, tmp_path: Path):
    picture = tmp_path / "somebody.png"
    shutil.copyfile(DEMO_FOLDER / DEMO_PORTRAIT_FILE, picture)
    fresh.locator("#portrait input[type=file]").set_input_files(str(picture))
    speech = fresh.locator("#group-audio")
    speech.get_by_label("Record audio").click()
    speech.get_by_role("button", name="Record", exact=True).click()
    fresh.wait_for_timeout(1500)
    speech.get_by_role("button", name="Stop").click()
    fresh.get_by_text("Takes about").wait_for()
    record = make(fresh, server)
    assert 0.5 < record["result"]["seconds"] <= MAX_PAGE_SECONDS
    assert np.abs(read_audio(record["audio"])).max() > 0.01, "Chromium's own device beeps once a second"


def test_nothing_was_fetched_from_elsewhere(fresh: Any, server: Server):
    """In all tests above."""
    assert fresh.asked and all(url.startswith((server.url, "data:", "blob:")) for url in fresh.asked), fresh.asked
