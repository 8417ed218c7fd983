"""The page itself: controls, progress, the video, the plot of its mouth."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import fields
from inspect import Parameter, Signature
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData

from fantasytalking.app.plot import curve_figure
from fantasytalking.app.progress_stream import Look, watched
from fantasytalking.app.request import AUTOMATIC, Request
from fantasytalking.app.service import Made, Studio
from fantasytalking.common.errors import InputError
from fantasytalking.inference.cli import GUIDED
from fantasytalking.pipeline.config import MAX_PROMPT

TITLE = "FantasyTalking"
WAITING = 8
"""Requests that may wait; more are turned away."""
DONE_BEFORE = {"read": 0.0, "denoise": 0.02, "decode": 0.8, "measure": 0.95}
"""Share of the whole that is done when a phase begins."""
QUIET_LOOKS = 8
"""Looks at a video that is made whole, for one message to the page: only with a message is a closed page noticed."""
UPLOADS_ARE_KEPT = (3600, 86_400)
"""Every hour, those of more than a day ago are deleted."""


def build_page(studio: Studio, examples: list[list[str]]) -> gr.Blocks:
    """The page of a studio; `examples` are pairs of portrait and sound."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=UPLOADS_ARE_KEPT) as page:
        gr.Markdown(
            f"# {TITLE}\nA portrait and speech, or a video that drives it, become a video. {studio.config.note}"
        )
        with gr.Row():
            with gr.Column():
                controls = _first_controls(studio)
                with gr.Accordion("A second person, to the right of the first", open=False):
                    controls |= _second_controls(studio)
                with gr.Row():
                    button = gr.Button("Make the video", variant="primary", elem_id="make")
                    stop = gr.Button("Stop", elem_id="stop")
                with gr.Accordion("More", open=False):
                    controls |= _more_controls(studio)
            with gr.Column():
                picture = gr.Image(
                    label="While it is made", visible=False, interactive=False, format="jpeg", elem_id="picture"
                )
                video = gr.Video(label="Video", elem_id="video")
                line = gr.Textbox(label="What was made", interactive=False, elem_id="line")
                plot = gr.Plot(label="Mouth and sound", show_label=False, elem_id="plot")
                record = gr.File(label="Record (scripts/infer.py --replay makes the same video again)")
        # In the order of the request's fields, so that none of them can be without a control.
        inputs = [controls[field.name] for field in fields(Request)]
        talking = button.click(
            _talk(studio),
            inputs,
            [video, line, plot, record, picture],
            api_name="talk",
            show_progress_on=video,
            concurrency_limit=1,
            trigger_mode="once",
        )
        stop.click(
            lambda: ("stopped", _no_picture()),
            outputs=[line, picture],
            cancels=[talking],
            queue=False,
            api_visibility="private",
        )
        if examples:
            gr.Examples(examples, [controls["portrait"], controls["sound"]])
    return page.queue(max_size=WAITING, default_concurrency_limit=1)


def _first_controls(studio: Studio) -> dict[str, Any]:
    config, moves = studio.config, "motion" in studio.trained_modules
    made: dict[str, Any] = {
        "portrait": gr.Image(label="Portrait", type="filepath", image_mode=None, sources=["upload", "clipboard"]),
        "sound": gr.Audio(label="Speech", type="filepath", sources=["upload", "microphone"], buttons=[]),
        "driver": _driver("Driver", studio),
        "prompt": gr.Textbox(config.prompt, label="What to see", max_length=MAX_PROMPT),
    }
    made["portrait"].preprocess = _as_uploaded
    untrained = None if moves else "This model's motion module was never trained."
    with gr.Row():
        for name, label in (("expression", "Expression"), ("body", "Head and body")):
            made[f"{name}_motion"] = gr.Slider(
                *(0, 1, getattr(config, f"{name}_motion")), label=f"{label} motion", info=untrained, interactive=moves
            )
    made["seconds"] = gr.Slider(
        *(0.2, studio.most_seconds, min(config.seconds or 10, studio.most_seconds)),
        label="Length",
        info="At most so many seconds of sounds and drivers",
    )
    made["stream"] = gr.Checkbox(
        config.stream,
        label="Show while it is made",
        info="Every window is ended before the next begins, so the video differs from the one that is made whole",
    )
    return made


def _second_controls(studio: Studio) -> dict[str, Any]:
    sound = gr.Audio(label="Second speech", type="filepath", sources=["upload", "microphone"], buttons=[])
    return {"second_sound": sound, "second_driver": _driver("Second driver", studio)}


def _driver(label: str, studio: Studio) -> gr.Video:
    if studio.can_be_driven:
        return gr.Video(label=f"{label}: a face whose expression is taken over", sources=["upload"])
    return gr.Video(label=f"{label}: this model has no expression module", sources=["upload"], interactive=False)


def _more_controls(studio: Studio) -> dict[str, Any]:
    config = studio.config
    made: dict[str, Any] = {
        "negative_prompt": gr.Textbox(config.negative_prompt, label="What not to see", max_length=MAX_PROMPT)
    }
    with gr.Row():
        for name in GUIDED:
            scale, follows = getattr(config.guidance, name).start, name != "expression" or studio.can_be_driven
            made[f"{name}_guidance"] = gr.Slider(
                0, max(10, scale), scale, label=f"{name.title()} guidance", info="1 = none", interactive=follows
            )
    assert config.steps is not None, "the studio has counted them"
    with gr.Row():
        made["steps"] = gr.Slider(1, max(100, config.steps), config.steps, step=1, label="Steps")
        made["fps"] = gr.Slider(min(8, config.fps), max(60, config.fps), config.fps, label="Frames a second")
    with gr.Row():
        made["seed"] = gr.Number(config.seed, label="Seed", precision=0, minimum=0)
        made["size"] = gr.Dropdown([AUTOMATIC, *config.sizes], value=AUTOMATIC, label="Size")
        made["face"] = gr.Number(
            config.face or 0, label="Face", precision=0, minimum=0, info="0 = the only one, 1 = the leftmost"
        )
    return made


def _talk(studio: Studio) -> Callable[..., AsyncIterator[list[Any]]]:
    async def talk(*values: Any) -> AsyncIterator[list[Any]]:
        *asked, progress = values
        request = Request(*asked)
        _tell(progress, "read", 0.0)
        try:
            async with aclosing(watched(lambda tell, show: studio.make(request, tell, show))) as looks:
                number = 0
                async for seen in looks:
                    if isinstance(seen, Made):
                        yield [str(seen.video), seen.line, curve_figure(seen.curve), str(seen.record), _no_picture()]
                    elif request.stream:
                        yield [gr.skip(), _words(seen), gr.skip(), gr.skip(), _picture(seen)]
                    else:
                        number += 1
                        if number % QUIET_LOOKS == 0:
                            yield [gr.skip()] * 5
                        _tell(progress, seen.phase, seen.share)
        except InputError as error:
            raise gr.Error(" ".join(str(error).split()), duration=None, print_exception=False) from error

    # Gradio reads from it the names for its own interface, and where the progress goes.
    names = [Parameter(field.name, Parameter.POSITIONAL_OR_KEYWORD) for field in fields(Request)]
    progress = Parameter("progress", Parameter.POSITIONAL_OR_KEYWORD, default=gr.Progress())
    talk.__signature__ = Signature([*names, progress])  # type: ignore[attr-defined]
    return talk


def _tell(progress: gr.Progress, phase: str, share: float) -> None:
    begin = DONE_BEFORE[phase]
    end = min((other for other in DONE_BEFORE.values() if other > begin), default=1.0)
    progress(begin + share * (end - begin), desc=phase)


def _words(seen: Look) -> str:
    """How far a stream is."""
    now = f"{seen.phase} {seen.share:.0%}" if seen.phase == "denoise" else seen.phase
    if seen.latency is None:
        return f"first window: {now}"
    return f"{seen.made:.2f} s of video made, the first frame after {seen.latency:.2f} s; now: {now}"


def _picture(seen: Look) -> dict[str, Any]:
    return gr.skip() if seen.picture is None else gr.update(value=seen.picture, visible=True)


def _no_picture() -> dict[str, Any]:
    return gr.update(value=None, visible=False)


def _as_uploaded(picture: ImageData | None) -> str | None:
    """In place of Gradio's reading, which fails without a word; `read_image` tells what is wrong."""
    return None if picture is None else picture.path
