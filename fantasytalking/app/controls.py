"""The components of the page: inputs with their messages, the button, the result, the settings and the examples."""

from abc import ABCMeta
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData

from fantasytalking.app.examples import Example, Examples
from fantasytalking.app.request import AUTO_SIZE, Mode
from fantasytalking.app.service import GenerationService
from fantasytalking.common.limits import MAX_PROMPT_CHARS, MAX_UPLOAD_BYTES
from fantasytalking.pipeline.guidance import GUIDANCE_CONDITIONS

EXAMPLE_NOTE = "An example, made by nano"
LIMIT_NOTE = f"Files have up to {MAX_UPLOAD_BYTES // 2**20} MB."


def _path_as_uploaded(self: gr.Image, payload: ImageData | None) -> str | None:
    return None if payload is None else payload.path


# Gradio decodes images in a way that does not say what is wrong with them; `media.read_image` does. The class is made
# without Gradio's own metaclass code, which would write a stub file beside this module.
PortraitInput = ABCMeta.__new__(
    type(gr.Image), "PortraitInput", (gr.Image,), {"is_template": True, "preprocess": _path_as_uploaded}
)
"""An image whose path is passed on as it was uploaded. To the browser it is a `gr.Image`."""


@dataclass
class Controls:
    """The components by their purpose."""

    fields: dict[str, Any] = field(default_factory=dict)
    """The control of every field of `PageRequest`."""
    messages: dict[str, gr.HTML] = field(default_factory=dict)
    """The place beside an input where messages about it stand."""
    groups: dict[str, gr.Column] = field(default_factory=dict)
    """Each input with its message; what a tab shows or hides."""
    tabs: dict[Mode, gr.Tab] = field(default_factory=dict)
    example_sets: dict[Mode, gr.Dataset] = field(default_factory=dict)
    driving: Any = None
    make: Any = None
    stop: Any = None
    clear: Any = None
    randomize: Any = None
    progress: Any = None
    video: Any = None
    picture: Any = None
    line: Any = None
    plot: Any = None
    record: Any = None
    gallery: Any = None

    def message(self, slot: str) -> None:
        """Adds the place of messages about an input."""
        self.messages[slot] = gr.HTML("", elem_id=f"message-{slot}", elem_classes="message", container=False)

    def group(self, name: str, visible: bool) -> AbstractContextManager[Any]:
        """Adds a group that tabs show or hide."""
        self.groups[name] = gr.Column(visible=visible, elem_id=f"group-{name}", elem_classes="group", min_width=120)
        return self.groups[name]


def build_controls(service: GenerationService, examples: Examples) -> Controls:
    """Builds all components in their order on the page."""
    controls = Controls()
    with gr.Tabs(elem_id="modes"):
        for mode in Mode:
            is_possible = mode is not Mode.driving_video or service.supports_driving
            controls.tabs[mode] = gr.Tab(mode.value, id=mode.value, interactive=is_possible)
    with gr.Row(elem_id="main"):
        with gr.Column(elem_id="portrait", min_width=120):
            _build_portrait(controls)
        with gr.Column(elem_id="portrait-note", min_width=120):
            controls.message("portrait")
        with gr.Column(elem_id="motion", min_width=120):
            _build_motion(controls, service)
        with gr.Column(elem_id="actions", min_width=120):
            _build_actions(controls)
        with gr.Column(elem_id="result", min_width=120):
            _build_result(controls, examples)
    with gr.Column(elem_id="examples"):
        _build_examples(controls, service, examples)
    with gr.Accordion("Advanced settings", open=False, elem_id="advanced"):
        _build_settings(controls, service)
    with gr.Accordion("About the result", open=False, elem_id="about"):
        controls.plot = gr.Plot(label="Mouth and sound", show_label=False, elem_id="plot")
        controls.record = gr.File(label="Record: fantasytalking infer --reproduce generates the same video again")
    controls.gallery = gr.Gallery(
        label="Your videos", visible=False, elem_id="gallery", columns=6, height=180, interactive=False
    )
    return controls


def _build_portrait(controls: Controls) -> None:
    portrait = PortraitInput(
        label="Portrait",
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        buttons=[],
        elem_id="portrait-image",
        height="100%",
        placeholder="Drop a portrait, or click to choose one",
    )
    controls.fields["portrait"] = portrait


def _build_motion(controls: Controls, service: GenerationService) -> None:
    with gr.Accordion("Driving video", visible=False, elem_id="driving") as controls.driving:
        controls.fields["driving_video"] = _driving_video("Driving video", service)
        controls.message("driving_video")
        with controls.group("second_driving_video", visible=False):
            controls.fields["second_driving_video"] = _driving_video("Driving video of the right person", service)
            controls.message("second_driving_video")
    with controls.group("audio", visible=True):
        controls.fields["audio"] = _speech("Speech")
        controls.message("audio")
    with controls.group("second_audio", visible=False):
        controls.fields["second_audio"] = _speech("Speech of the right person")
        controls.message("second_audio")


def _speech(label: str) -> gr.Audio:
    return gr.Audio(
        label=label,
        type="filepath",
        sources=["upload", "microphone"],
        buttons=[],
        # The browser's own player takes less of the window.
        waveform_options=gr.WaveformOptions(show_recording_waveform=False),
        elem_classes="speech",
    )


def _driving_video(label: str, service: GenerationService) -> gr.Video:
    if service.supports_driving:
        return gr.Video(label=label, sources=["upload"], buttons=[], elem_classes="driver", height=150)
    return gr.Video(label=f"{label}: this model has no expression module", sources=["upload"], interactive=False)


def _build_actions(controls: Controls) -> None:
    with gr.Row(elem_id="buttons"):
        controls.make = gr.Button("Make the video", variant="primary", elem_id="make", min_width=120, scale=3)
        controls.stop = gr.Button("Stop", variant="stop", elem_id="stop", visible=False, min_width=80, scale=1)
        controls.clear = gr.Button("Clear", elem_id="clear", min_width=80, scale=1)
    controls.progress = gr.HTML("", elem_id="progress", container=False)
    controls.message("make")
    controls.message("settings")


def _build_result(controls: Controls, examples: Examples) -> None:
    finished = None if examples.finished is None else str(examples.finished)
    controls.picture = gr.Image(
        label="Being made",
        visible=False,
        interactive=False,
        format="jpeg",
        buttons=[],
        elem_id="picture",
        height="100%",
    )
    controls.video = gr.Video(
        finished, label="Result", elem_id="video", interactive=False, height="100%", buttons=["download"]
    )
    controls.line = gr.Textbox(
        EXAMPLE_NOTE if finished else "",
        label="Result",
        show_label=False,
        interactive=False,
        elem_id="line",
        lines=1,
        placeholder=" ",
    )


def _build_settings(controls: Controls, service: GenerationService) -> None:
    config, has_motion = service.config, "motion" in service.trained_modules
    inputs = controls.fields
    untrained = None if has_motion else "This model's motion module was never trained."
    inputs["prompt"] = gr.Textbox(config.prompt, label="Prompt", max_length=MAX_PROMPT_CHARS)
    inputs["negative_prompt"] = gr.Textbox(config.negative_prompt, label="Negative prompt", max_length=MAX_PROMPT_CHARS)
    with gr.Row():
        inputs["max_seconds"] = gr.Slider(
            *(0.2, service.max_seconds, min(config.max_seconds or 10, service.max_seconds)),
            label="Length",
            info="Only the first N seconds are used",
        )
        for name, label in (("expression", "Expression"), ("body", "Head and body")):
            inputs[f"{name}_motion"] = gr.Slider(
                *(0, 1, getattr(config, f"{name}_motion")),
                label=f"{label} motion",
                info=untrained,
                interactive=has_motion,
            )
    with gr.Row():
        for name in GUIDANCE_CONDITIONS:
            scale = getattr(config.guidance, name).scale_start
            is_used = name != "expression" or service.supports_driving
            inputs[f"{name}_guidance_scale"] = gr.Slider(
                0, max(10, scale), scale, label=f"{name.title()} guidance", info="1 = none", interactive=is_used
            )
    assert config.num_inference_steps is not None, "the service has resolved it"
    with gr.Row():
        inputs["num_inference_steps"] = gr.Slider(
            1, max(100, config.num_inference_steps), config.num_inference_steps, step=1, label="Steps"
        )
        inputs["fps"] = gr.Slider(min(8, config.fps), max(60, config.fps), config.fps, label="Frames per second")
    with gr.Row():
        inputs["seed"] = gr.Number(config.seed, label="Seed", precision=0, minimum=0)
        controls.randomize = gr.Button("Random seed", elem_id="random-seed", min_width=100)
        inputs["size"] = gr.Dropdown([AUTO_SIZE, *config.sizes], value=AUTO_SIZE, label="Size")
        inputs["face_index"] = gr.Number(
            config.face_index or 0, label="Face", precision=0, minimum=0, info="0 = the only face, 1 = the leftmost"
        )
    inputs["stream"] = gr.Checkbox(
        config.stream,
        label="Stream",
        info="Shows frames while later ones are made. The video differs from one that is made as a whole.",
    )


def _build_examples(controls: Controls, service: GenerationService, examples: Examples) -> None:
    sets = {
        Mode.speech: (examples.speech, "Examples: a portrait and speech"),
        Mode.driving_video: (
            examples.driving_video if service.supports_driving else (),
            "Examples: a portrait and a driving video",
        ),
        Mode.two_people: (examples.two_people, "Example: two people, each with their own speech"),
    }
    for mode, (each, label) in sets.items():
        controls.example_sets[mode] = gr.Dataset(
            components=[gr.Image(visible=False, render=False)],
            samples=[[_picture(example)] for example in each],
            label=f"{label}. {LIMIT_NOTE}",
            type="index",
            visible=mode is Mode.speech,
            elem_id=f"examples-{mode.name}",
        )


def _picture(example: Example) -> str:
    return str(example.portrait)
