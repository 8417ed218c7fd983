"""The page itself: controls, progress, the video, the plot of its mouth."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import fields
from inspect import Parameter, Signature
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData

from fantasytalking.app.plot import mouth_curve_figure
from fantasytalking.app.progress_stream import ProgressSnapshot, stream_progress
from fantasytalking.app.request import AUTO_SIZE, PageRequest
from fantasytalking.app.service import GenerationResult, GenerationService
from fantasytalking.common.errors import InputError
from fantasytalking.pipeline.generation_plan import MAX_PROMPT_CHARS
from fantasytalking.pipeline.guidance import GUIDANCE_CONDITIONS

TITLE = "FantasyTalking"
MAX_QUEUED_REQUESTS = 8
"""Requests that may wait; more are turned away."""
PHASE_START_FRACTION = {"read": 0.0, "denoise": 0.02, "decode": 0.8, "measure": 0.95}
"""Share of the whole that is done when a phase begins."""
SNAPSHOTS_PER_KEEPALIVE = 8
"""Looks at a video that is made whole, for one message to the page: only with a message is a closed page noticed."""
UPLOAD_CACHE_CLEANUP = (3600, 86_400)
"""Every hour, those of more than a day ago are deleted."""


def build_page(service: GenerationService, examples: list[list[str]]) -> gr.Blocks:
    """The page of a studio; `examples` are pairs of portrait and sound."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=UPLOAD_CACHE_CLEANUP) as page:
        gr.Markdown(
            f"# {TITLE}\nA portrait and speech, or a video that drives it, become a video. {service.config.notice}"
        )
        with gr.Row():
            with gr.Column():
                controls = _main_controls(service)
                with gr.Accordion("A second person, to the right of the first", open=False):
                    controls |= _second_person_controls(service)
                with gr.Row():
                    button = gr.Button("Make the video", variant="primary", elem_id="make")
                    stop = gr.Button("Stop", elem_id="stop")
                with gr.Accordion("More", open=False):
                    controls |= _advanced_controls(service)
            with gr.Column():
                picture = gr.Image(
                    label="While it is made", visible=False, interactive=False, format="jpeg", elem_id="picture"
                )
                video = gr.Video(label="Video", elem_id="video")
                line = gr.Textbox(label="What was made", interactive=False, elem_id="line")
                plot = gr.Plot(label="Mouth and sound", show_label=False, elem_id="plot")
                record = gr.File(label="Record (scripts/infer.py --replay makes the same video again)")
        # In the order of the request's fields, so that none of them can be without a control.
        inputs = [controls[field.name] for field in fields(PageRequest)]
        talking = button.click(
            _generate_handler(service),
            inputs,
            [video, line, plot, record, picture],
            api_name="talk",
            show_progress_on=video,
            concurrency_limit=1,
            trigger_mode="once",
        )
        stop.click(
            lambda: ("stopped", _hide_frame()),
            outputs=[line, picture],
            cancels=[talking],
            queue=False,
            api_visibility="private",
        )
        if examples:
            gr.Examples(examples, [controls["portrait"], controls["sound"]])
    return page.queue(max_size=MAX_QUEUED_REQUESTS, default_concurrency_limit=1)


def _main_controls(service: GenerationService) -> dict[str, Any]:
    config, moves = service.config, "motion" in service.trained_modules
    made: dict[str, Any] = {
        "portrait": gr.Image(label="Portrait", type="filepath", image_mode=None, sources=["upload", "clipboard"]),
        "sound": gr.Audio(label="Speech", type="filepath", sources=["upload", "microphone"], buttons=[]),
        "driver": _driving_video_input("Driver", service),
        "prompt": gr.Textbox(config.prompt, label="What to see", max_length=MAX_PROMPT_CHARS),
    }
    made["portrait"].preprocess = _uploaded_path
    untrained = None if moves else "This model's motion module was never trained."
    with gr.Row():
        for name, label in (("expression", "Expression"), ("body", "Head and body")):
            made[f"{name}_motion"] = gr.Slider(
                *(0, 1, getattr(config, f"{name}_motion")), label=f"{label} motion", info=untrained, interactive=moves
            )
    made["seconds"] = gr.Slider(
        *(0.2, service.max_seconds, min(config.max_seconds or 10, service.max_seconds)),
        label="Length",
        info="At most so many seconds of sounds and drivers",
    )
    made["stream"] = gr.Checkbox(
        config.stream,
        label="Show while it is made",
        info="Every window is ended before the next begins, so the video differs from the one that is made whole",
    )
    return made


def _second_person_controls(service: GenerationService) -> dict[str, Any]:
    sound = gr.Audio(label="Second speech", type="filepath", sources=["upload", "microphone"], buttons=[])
    return {"second_sound": sound, "second_driver": _driving_video_input("Second driver", service)}


def _driving_video_input(label: str, service: GenerationService) -> gr.Video:
    if service.supports_driving:
        return gr.Video(label=f"{label}: a face whose expression is taken over", sources=["upload"])
    return gr.Video(label=f"{label}: this model has no expression module", sources=["upload"], interactive=False)


def _advanced_controls(service: GenerationService) -> dict[str, Any]:
    config = service.config
    made: dict[str, Any] = {
        "negative_prompt": gr.Textbox(config.negative_prompt, label="What not to see", max_length=MAX_PROMPT_CHARS)
    }
    with gr.Row():
        for name in GUIDANCE_CONDITIONS:
            scale, follows = getattr(config.guidance, name).start, name != "expression" or service.supports_driving
            made[f"{name}_guidance"] = gr.Slider(
                0, max(10, scale), scale, label=f"{name.title()} guidance", info="1 = none", interactive=follows
            )
    assert config.num_inference_steps is not None, "the studio has counted them"
    with gr.Row():
        made["steps"] = gr.Slider(
            1, max(100, config.num_inference_steps), config.num_inference_steps, step=1, label="Steps"
        )
        made["fps"] = gr.Slider(min(8, config.fps), max(60, config.fps), config.fps, label="Frames a second")
    with gr.Row():
        made["seed"] = gr.Number(config.seed, label="Seed", precision=0, minimum=0)
        made["size"] = gr.Dropdown([AUTO_SIZE, *config.sizes], value=AUTO_SIZE, label="Size")
        made["face"] = gr.Number(
            config.face_index or 0, label="Face", precision=0, minimum=0, info="0 = the only one, 1 = the leftmost"
        )
    return made


def _generate_handler(service: GenerationService) -> Callable[..., AsyncIterator[list[Any]]]:
    async def talk(*values: Any) -> AsyncIterator[list[Any]]:
        *asked, progress = values
        request = PageRequest(*asked)
        _report_progress(progress, "read", 0.0)
        try:
            async with aclosing(stream_progress(lambda tell, show: service.generate(request, tell, show))) as looks:
                number = 0
                async for seen in looks:
                    if isinstance(seen, GenerationResult):
                        yield [
                            str(seen.video),
                            seen.summary,
                            mouth_curve_figure(seen.mouth_curve),
                            str(seen.record),
                            _hide_frame(),
                        ]
                    elif request.stream:
                        yield [gr.skip(), _status_text(seen), gr.skip(), gr.skip(), _frame_update(seen)]
                    else:
                        number += 1
                        if number % SNAPSHOTS_PER_KEEPALIVE == 0:
                            yield [gr.skip()] * 5
                        _report_progress(progress, seen.phase, seen.fraction)
        except InputError as error:
            raise gr.Error(" ".join(str(error).split()), duration=None, print_exception=False) from error

    # Gradio reads from it the names for its own interface, and where the progress goes.
    names = [Parameter(field.name, Parameter.POSITIONAL_OR_KEYWORD) for field in fields(PageRequest)]
    progress = Parameter("progress", Parameter.POSITIONAL_OR_KEYWORD, default=gr.Progress())
    talk.__signature__ = Signature([*names, progress])  # type: ignore[attr-defined]
    return talk


def _report_progress(progress: gr.Progress, phase: str, fraction: float) -> None:
    begin = PHASE_START_FRACTION[phase]
    end = min((other for other in PHASE_START_FRACTION.values() if other > begin), default=1.0)
    progress(begin + fraction * (end - begin), desc=phase)


def _status_text(snapshot: ProgressSnapshot) -> str:
    """How far a stream is."""
    now = f"{snapshot.phase} {snapshot.fraction:.0%}" if snapshot.phase == "denoise" else snapshot.phase
    if snapshot.first_frame_latency is None:
        return f"first window: {now}"
    return (
        f"{snapshot.generated_seconds:.2f} s of video made, the first frame after "
        f"{snapshot.first_frame_latency:.2f} s; now: {now}"
    )


def _frame_update(snapshot: ProgressSnapshot) -> dict[str, Any]:
    return gr.skip() if snapshot.frame is None else gr.update(value=snapshot.frame, visible=True)


def _hide_frame() -> dict[str, Any]:
    return gr.update(value=None, visible=False)


def _uploaded_path(image: ImageData | None) -> str | None:
    """In place of Gradio's reading, which fails without a word; `read_image` tells what is wrong."""
    return None if image is None else image.path
