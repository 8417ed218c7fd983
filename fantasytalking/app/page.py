"""Builds the web page: controls, progress, the video and a plot of its mouth opening."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import fields
from inspect import Parameter, Signature
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData

from fantasytalking.app.audience import UNHEARD_SECONDS, Audience, JobQueue, Ticket
from fantasytalking.app.plot import mouth_curve_figure
from fantasytalking.app.progress_stream import ProgressSnapshot, stream_progress
from fantasytalking.app.request import AUTO_SIZE, PageRequest
from fantasytalking.app.service import GenerationResult, GenerationService, ServerStoppedError
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_PROMPT_CHARS
from fantasytalking.pipeline.guidance import GUIDANCE_CONDITIONS

TITLE = "FantasyTalking"
MAX_GRADIO_EVENTS = 64
"""Events of all kinds that Gradio lets wait; videos wait in a `JobQueue`."""
PHASE_START_FRACTION = {"read": 0.0, "denoise": 0.02, "decode": 0.8, "measure": 0.95}
"""Completed fraction of a generation at the start of each phase."""
WAITING_SECONDS = 0.25
"""Seconds between two looks at the queue while a job waits in it."""
UPLOAD_CACHE_CLEANUP = (3600, 86_400)
"""Seconds between clean-ups, and age in seconds from which uploads are deleted."""


def build_page(service: GenerationService, examples: list[list[str]], audience: Audience) -> gr.Blocks:
    """Returns the page of a service.

    Args:
        examples: pairs of portrait and speech.
        audience: knows which sessions are listened to; a job that nobody listens to ends.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=UPLOAD_CACHE_CLEANUP) as page:
        gr.Markdown(
            f"# {TITLE}\nTurns a portrait and speech, or a driving video, into a video. {service.config.notice}"
        )
        with gr.Row():
            with gr.Column():
                controls = _main_controls(service)
                with gr.Accordion("A second person, to the right of the first", open=False):
                    controls |= _second_person_controls(service)
                with gr.Row():
                    button = gr.Button("Generate", variant="primary", elem_id="make")
                    stop = gr.Button("Stop", elem_id="stop")
                with gr.Accordion("More", open=False):
                    controls |= _advanced_controls(service)
            with gr.Column():
                picture = gr.Image(label="Preview", visible=False, interactive=False, format="jpeg", elem_id="picture")
                video = gr.Video(label="Video", elem_id="video")
                line = gr.Textbox(label="Summary", interactive=False, elem_id="line")
                plot = gr.Plot(label="Mouth and audio", show_label=False, elem_id="plot")
                record = gr.File(label="Record (fantasytalking infer --reproduce generates the same video again)")
        # In the order of the request's fields, so that every field has a control.
        inputs = [controls[field.name] for field in fields(PageRequest)]
        talking = button.click(
            _generate_handler(service, audience),
            inputs,
            [video, line, plot, record, picture],
            api_name="talk",
            show_progress_on=video,
            concurrency_limit=None,
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
            gr.Examples(examples, [controls["portrait"], controls["audio"]])
    return page.queue(max_size=MAX_GRADIO_EVENTS, default_concurrency_limit=4, api_open=False)


def _main_controls(service: GenerationService) -> dict[str, Any]:
    config, has_motion = service.config, "motion" in service.trained_modules
    controls: dict[str, Any] = {
        "portrait": gr.Image(label="Portrait", type="filepath", image_mode=None, sources=["upload", "clipboard"]),
        "audio": gr.Audio(label="Speech", type="filepath", sources=["upload", "microphone"], buttons=[]),
        "driving_video": _driving_video_input("Driving video", service),
        "prompt": gr.Textbox(config.prompt, label="Prompt", max_length=MAX_PROMPT_CHARS),
    }
    controls["portrait"].preprocess = _uploaded_path
    untrained = None if has_motion else "This model's motion module was never trained."
    with gr.Row():
        for name, label in (("expression", "Expression"), ("body", "Head and body")):
            controls[f"{name}_motion"] = gr.Slider(
                *(0, 1, getattr(config, f"{name}_motion")),
                label=f"{label} motion",
                info=untrained,
                interactive=has_motion,
            )
    controls["max_seconds"] = gr.Slider(
        *(0.2, service.max_seconds, min(config.max_seconds or 10, service.max_seconds)),
        label="Length",
        info="Longest video in seconds; audio and driving videos are cut there",
    )
    controls["stream"] = gr.Checkbox(
        config.stream,
        label="Stream",
        info="Shows frames while later ones are generated. The video differs from one that is generated as a whole.",
    )
    return controls


def _second_person_controls(service: GenerationService) -> dict[str, Any]:
    audio = gr.Audio(label="Second speech", type="filepath", sources=["upload", "microphone"], buttons=[])
    return {
        "second_audio": audio,
        "second_driving_video": _driving_video_input("Second driving video", service),
    }


def _driving_video_input(label: str, service: GenerationService) -> gr.Video:
    if service.supports_driving:
        return gr.Video(label=f"{label}: its expression is transferred", sources=["upload"])
    return gr.Video(label=f"{label}: this model has no expression module", sources=["upload"], interactive=False)


def _advanced_controls(service: GenerationService) -> dict[str, Any]:
    config = service.config
    controls: dict[str, Any] = {
        "negative_prompt": gr.Textbox(config.negative_prompt, label="Negative prompt", max_length=MAX_PROMPT_CHARS)
    }
    with gr.Row():
        for name in GUIDANCE_CONDITIONS:
            scale, is_used = (
                getattr(config.guidance, name).scale_start,
                name != "expression" or service.supports_driving,
            )
            controls[f"{name}_guidance_scale"] = gr.Slider(
                0, max(10, scale), scale, label=f"{name.title()} guidance", info="1 = none", interactive=is_used
            )
    assert config.num_inference_steps is not None, "the service has resolved it"
    with gr.Row():
        controls["num_inference_steps"] = gr.Slider(
            1, max(100, config.num_inference_steps), config.num_inference_steps, step=1, label="Steps"
        )
        controls["fps"] = gr.Slider(min(8, config.fps), max(60, config.fps), config.fps, label="Frames per second")
    with gr.Row():
        controls["seed"] = gr.Number(config.seed, label="Seed", precision=0, minimum=0)
        controls["size"] = gr.Dropdown([AUTO_SIZE, *config.sizes], value=AUTO_SIZE, label="Size")
        controls["face_index"] = gr.Number(
            config.face_index or 0, label="Face", precision=0, minimum=0, info="0 = the only face, 1 = the leftmost"
        )
    return controls


def _generate_handler(service: GenerationService, audience: Audience) -> Callable[..., AsyncIterator[list[Any]]]:
    queue = JobQueue()

    async def talk(*values: Any) -> AsyncIterator[list[Any]]:
        *controls, client, progress = values
        request = PageRequest(*controls)
        try:
            with queue.entered(client.client.host) as ticket:
                while ahead := queue.ahead(ticket):
                    _check_heard(ticket, audience, client)
                    progress(0.0, desc=f"{ahead} before this one")
                    await asyncio.sleep(WAITING_SECONDS)
                _report_progress(progress, "read", 0.0)
                async with aclosing(
                    stream_progress(lambda report, show: service.generate(request, report, show))
                ) as snapshots:
                    async for snapshot in snapshots:
                        if isinstance(snapshot, GenerationResult):
                            yield [
                                str(snapshot.video),
                                snapshot.summary,
                                mouth_curve_figure(snapshot.mouth_curve),
                                str(snapshot.record),
                                _hide_frame(),
                            ]
                            continue
                        _check_heard(ticket, audience, client)
                        if request.stream:
                            yield [gr.skip(), _status_text(snapshot), gr.skip(), gr.skip(), _frame_update(snapshot)]
                        else:
                            _report_progress(progress, snapshot.phase, snapshot.fraction)
        except InputError as error:
            raise gr.Error(" ".join(str(error).split()), duration=None, print_exception=False) from error
        except ServerStoppedError as error:
            raise gr.Error("the page has been stopped", duration=None, print_exception=False) from error

    # Gradio reads the names of its API, the request and the progress argument from the signature.
    names = [Parameter(field.name, Parameter.POSITIONAL_OR_KEYWORD) for field in fields(PageRequest)]
    client = Parameter("client", Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request)
    progress = Parameter("progress", Parameter.POSITIONAL_OR_KEYWORD, default=gr.Progress())
    talk.__signature__ = Signature([*names, client, progress])  # type: ignore[attr-defined]
    talk.__annotations__ = {"client": gr.Request}
    return talk


def _check_heard(ticket: Ticket, audience: Audience, client: gr.Request) -> None:
    if ticket.is_unheard(audience.hears(str(client.session_hash))):
        raise InputError(
            f"nobody has listened to this video for {UNHEARD_SECONDS:g} s; listen to the events of a call at once",
            code=ErrorCode.conflict,
        )


def _report_progress(progress: gr.Progress, phase: str, fraction: float) -> None:
    begin = PHASE_START_FRACTION[phase]
    end = min((other for other in PHASE_START_FRACTION.values() if other > begin), default=1.0)
    progress(begin + fraction * (end - begin), desc=phase)


def _status_text(snapshot: ProgressSnapshot) -> str:
    """Returns one line about the progress of a stream."""
    now = f"{snapshot.phase} {snapshot.fraction:.0%}" if snapshot.phase == "denoise" else snapshot.phase
    if snapshot.first_frame_latency is None:
        return f"first window: {now}"
    return (
        f"{snapshot.generated_seconds:.2f} s of video generated, first frame after "
        f"{snapshot.first_frame_latency:.2f} s; now: {now}"
    )


def _frame_update(snapshot: ProgressSnapshot) -> dict[str, Any]:
    return gr.skip() if snapshot.frame is None else gr.update(value=snapshot.frame, visible=True)


def _hide_frame() -> dict[str, Any]:
    return gr.update(value=None, visible=False)


def _uploaded_path(image: ImageData | None) -> str | None:
    """Replaces Gradio's decoding, which fails silently; `read_image` reports what is wrong."""
    return None if image is None else image.path
