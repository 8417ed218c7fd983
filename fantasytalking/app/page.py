"""Builds the web page: tabs, inputs, the button, progress, the result, and what each of them does."""

import random
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import gradio as gr

from fantasytalking.app.audience import Audience
from fantasytalking.app.checks import Finding, InputChecks
from fantasytalking.app.controls import Controls, build_controls
from fantasytalking.app.examples import Example, Examples
from fantasytalking.app.request import Mode, PageRequest
from fantasytalking.app.service import GenerationService
from fantasytalking.app.talk import MESSAGE_SLOTS, TalkUpdates, create_talk, message_html, progress_html

TITLE = "FantasyTalking"
MAX_GRADIO_EVENTS = 64
"""Events of all kinds that Gradio lets wait; videos wait in a queue of their own."""
UPLOAD_CACHE_CLEANUP = (3600, 86_400)
"""Seconds between clean-ups, and age in seconds from which uploads are deleted."""
MAX_SEED = 2**31 - 1
MAX_SHOWN_VIDEOS = 12
"""Earlier videos of one browser that are shown."""
CSS_FILE, FAVICON_FILE = (Path(__file__).with_name(name) for name in ("style.css", "favicon.png"))
DRIVING_IN_MODE: dict[Mode, dict[str, Any]] = {
    Mode.speech: {"visible": False},
    Mode.driving_video: {"visible": True, "open": True, "label": "Driving video"},
    Mode.two_people: {"visible": True, "open": False, "label": "Driving videos (optional)"},
}
"""How a tab shows the driving videos."""
AUDIO_LABELS = {
    Mode.speech: "Speech",
    Mode.driving_video: "Speech (optional)",
    Mode.two_people: "Speech of the left person",
}
SHOW_RESULT = "(...values) => { document.getElementById('result')?.scrollIntoView({block: 'nearest'}); return values; }"
"""Brings the result into view before the request is sent."""


def build_page(service: GenerationService, examples: Examples, audience: Audience) -> gr.Blocks:
    """Returns the page of a service.

    Args:
        examples: inputs that are offered, and a finished video that is shown at first.
        audience: knows which sessions are listened to; a job that nobody listens to ends.
    """
    checks = InputChecks(service, examples)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=UPLOAD_CACHE_CLEANUP) as page:
        gr.HTML(
            f"<h1>{TITLE}</h1><p>Turns a portrait and speech, or a driving video, into a video.</p>", elem_id="header"
        )
        controls = build_controls(service, examples)
        mode = gr.State(None)
        shown_mode = gr.State(Mode.speech.value)
        made = gr.State(None)
        kept = gr.BrowserState([], storage_key="videos", secret=TITLE)
        inputs = [controls.fields[field.name] for field in fields(PageRequest)]
        outputs = TalkUpdates(
            *(controls.video, controls.line, controls.plot, controls.record, controls.picture, controls.progress),
            made,
            *(controls.messages[slot] for slot in MESSAGE_SLOTS),
        )
        talking = _connect_button(controls, inputs, outputs, mode, shown_mode, create_talk(service, audience, checks))
        remembered = talking.success(_remember, [made, kept], kept, api_visibility="private")
        remembered.then(lambda names: _gallery(service, names), kept, controls.gallery, api_visibility="private")
        _connect_tabs(controls, shown_mode, checks)
        _connect_checks(controls, inputs, shown_mode, checks)
        _connect_examples(controls, examples)
        controls.randomize.click(
            lambda: random.randint(0, MAX_SEED), outputs=controls.fields["seed"], api_visibility="private"
        )
        page.load(lambda names: _gallery(service, names), kept, controls.gallery, api_visibility="private")
    return page.queue(max_size=MAX_GRADIO_EVENTS, default_concurrency_limit=4, api_open=False)


def _connect_button(
    controls: Controls,
    inputs: list[Any],
    outputs: TalkUpdates,
    mode: gr.State,
    shown_mode: gr.State,
    talk: Callable[..., Any],
) -> Any:
    """The button: it is disabled while a video is made, and "Stop" is there only then. Returns the generation."""
    busy = [controls.make, controls.stop, controls.clear, controls.progress, controls.line, mode]
    busy += [controls.messages[slot] for slot in MESSAGE_SLOTS if slot != "portrait"]
    started = controls.make.click(
        lambda shown: [
            gr.update(value="Making …", interactive=False),
            gr.update(visible=True),
            gr.update(visible=False),
            progress_html("Waiting for the server", 0.0),
            "",
            shown,
            *[""] * (len(MESSAGE_SLOTS) - 1),
        ],
        shown_mode,
        busy,
        queue=False,
        js=SHOW_RESULT,
        api_visibility="private",
    )
    talking = started.then(
        talk,
        [*inputs, mode],
        list(outputs),
        api_name="talk",
        show_progress="hidden",
        concurrency_limit=None,
        trigger_mode="once",
    )
    idle = [controls.make, controls.stop, controls.clear]
    for ended in (talking.success, talking.failure):
        ended(_idle_buttons, None, idle, queue=False, api_visibility="private")
    controls.stop.click(
        lambda: [
            *_idle_buttons(),
            progress_html("Stopped"),
            gr.update(value=None, visible=False),
        ],
        None,
        [*idle, controls.progress, controls.picture],
        cancels=[talking],
        queue=False,
        api_visibility="private",
    )
    given = [controls.fields[name] for name in (*_files(), "portrait")]
    emptied = [*given, controls.video, controls.line, controls.plot, controls.record, controls.progress]
    emptied += list(controls.messages.values())
    controls.clear.click(
        lambda: [None] * (len(given) + 4) + [""] * (1 + len(controls.messages)),
        None,
        emptied,
        queue=False,
        api_visibility="private",
    )
    return talking


def _idle_buttons() -> list[Any]:
    return [gr.update(value="Make the video", interactive=True), gr.update(visible=False), gr.update(visible=True)]


def _files() -> tuple[str, ...]:
    return ("audio", "driving_video", "second_audio", "second_driving_video")


def _connect_tabs(controls: Controls, shown_mode: gr.State, checks: InputChecks) -> None:
    seconds = [controls.groups[name] for name in ("second_audio", "second_driving_video")]
    for mode, tab in controls.tabs.items():

        def select(portrait: str | None, mode: Mode = mode) -> list[Any]:
            found = checks.portrait(portrait, mode)
            return [
                mode.value,
                gr.update(label=AUDIO_LABELS[mode]),
                gr.update(**DRIVING_IN_MODE[mode]),
                *[gr.update(visible=mode is Mode.two_people) for _ in seconds],
                *[gr.update(visible=other is mode) for other in controls.example_sets],
                _found_html(found),
            ]

        tab.select(
            select,
            controls.fields["portrait"],
            [
                *(shown_mode, controls.fields["audio"], controls.driving, *seconds),
                *(*controls.example_sets.values(), controls.messages["portrait"]),
            ],
            show_progress="hidden",
            api_visibility="private",
        )


def _connect_checks(controls: Controls, inputs: list[Any], shown_mode: gr.State, checks: InputChecks) -> None:
    """Every file is checked when it is given, and the time is estimated from all inputs."""
    portrait = controls.fields["portrait"]
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    portrait.change(
        lambda path, shown: _found(path, checks.portrait(path, Mode(shown))),
        [portrait, shown_mode],
        [portrait, controls.messages["portrait"]],
        **quiet,
    )
    for name in _files():
        check = checks.driver if "driving" in name else checks.sound
        file, message = controls.fields[name], controls.messages[name]
        file.change(lambda path, check=check: _found(path, check(path)), file, [file, message], **quiet)
    for name in ("portrait", *_files()):
        controls.fields[name].clear(lambda: "", None, controls.messages[name], **quiet)

    def estimate(*values: Any) -> Any:
        *given, shown = values
        return progress_html(checks.estimate(PageRequest(*given), Mode(shown)))

    gr.on(
        [
            *(controls.fields[name].change for name in ("portrait", *_files())),
            *(controls.fields[name].release for name in ("max_seconds", "num_inference_steps", "fps")),
        ],
        estimate,
        [*inputs, shown_mode],
        controls.progress,
        **quiet,
    )


def _connect_examples(controls: Controls, examples: Examples) -> None:
    sets: dict[Mode, Sequence[Example]] = {
        Mode.speech: examples.speech,
        Mode.driving_video: examples.driving_video,
        Mode.two_people: examples.two_people,
    }
    names = [field.name for field in fields(Example)]
    for mode, dataset in controls.example_sets.items():

        def choose(index: int, mode: Mode = mode) -> list[str | None]:
            example = sets[mode][index]
            paths = [getattr(example, name) for name in names]
            return [None if path is None else str(path) for path in paths]

        dataset.click(
            choose,
            dataset,
            [controls.fields[name] for name in names],
            show_progress="hidden",
            api_visibility="private",
        )


def _found(path: str | None, found: Finding) -> list[Any]:
    """Returns what becomes of a file and its message: one that cannot be shown is taken out, and the message stays."""
    if path is None:
        return [gr.skip(), gr.skip()]
    return [None if found.is_unreadable else gr.skip(), _found_html(found)]


def _found_html(found: Finding) -> str:
    return message_html(found.text, "error" if found.is_error else "warning")


def _remember(name: str | None, names: Any) -> list[str]:
    """Adds a video to those that this browser has made, the newest first."""
    before = [other for other in names if isinstance(other, str)] if isinstance(names, list) else []
    return [name, *(other for other in before if other != name)][:MAX_SHOWN_VIDEOS] if name else before


def _gallery(service: GenerationService, names: Any) -> Any:
    """Returns the earlier videos of a browser: whoever knows the name of a video may see it."""
    videos = service.videos_named(names if isinstance(names, list) else [])
    return gr.update(value=[str(video) for video in videos], visible=bool(videos))
