"""Validates the page's controls and maps them to an inference configuration."""

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.inference.config import InferConfig, apply_options

AUTO_SIZE = "automatic"
"""Picks the model's size whose aspect ratio is nearest to the portrait's."""
INTEGER_FIELDS = ("num_inference_steps", "seed", "face_index")
NUMBER_LABELS = {
    "expression_motion": "Expression motion",
    "body_motion": "Head and body motion",
    "text_guidance_scale": "Text guidance",
    "audio_guidance_scale": "Audio guidance",
    "expression_guidance_scale": "Expression guidance",
    "max_seconds": "Length",
    "fps": "Frames per second",
    "num_inference_steps": "Steps",
    "seed": "Seed",
    "face_index": "Face",
}
"""Fields that are numbers, and the labels of their controls."""


class Mode(StrEnum):
    """The tabs of the page: what makes the face move."""

    speech = "Speech"
    driving_video = "Driving video"
    two_people = "Two people"


UNUSED_IN_MODE: dict[Mode, tuple[str, ...]] = {
    Mode.speech: ("driving_video", "second_audio", "second_driving_video"),
    Mode.driving_video: ("second_audio", "second_driving_video"),
    Mode.two_people: (),
}
"""Inputs that a tab does not show."""


class RequestFiles(NamedTuple):
    """The files of a request. Audio and driving videos are ordered from the left person to the right one."""

    portrait: Path
    audio_paths: tuple[Path, ...]
    driving_videos: tuple[Path, ...]


@dataclass(frozen=True)
class PageRequest:
    """The controls of the page, in their order on it. Values come from a browser and are not trusted."""

    portrait: str | None
    audio: str | None
    """Speech of the first person, the left one of two; None where a driving video suffices."""
    driving_video: str | None
    """A video whose expression drives the first person's face."""
    second_audio: str | None
    second_driving_video: str | None
    prompt: str
    negative_prompt: str
    expression_motion: float | None
    body_motion: float | None
    text_guidance_scale: float | None
    audio_guidance_scale: float | None
    expression_guidance_scale: float | None
    num_inference_steps: float | None
    seed: float | None
    max_seconds: float | None
    fps: float | None
    size: str
    face_index: float | None
    """0 = the only face, 1 = the leftmost."""
    stream: bool
    """Shows frames while later ones are generated."""

    @classmethod
    def of_config(
        cls, config: InferConfig, portrait: Path, audio: Path, steps: int, max_seconds: float
    ) -> "PageRequest":
        """Returns the request of one speaker with the defaults of a configuration."""
        guidance = config.guidance
        return cls(
            portrait=str(portrait),
            audio=str(audio),
            driving_video=None,
            second_audio=None,
            second_driving_video=None,
            prompt=config.prompt,
            negative_prompt=config.negative_prompt,
            expression_motion=config.expression_motion,
            body_motion=config.body_motion,
            text_guidance_scale=guidance.text.scale_start,
            audio_guidance_scale=guidance.audio.scale_start,
            expression_guidance_scale=guidance.expression.scale_start,
            num_inference_steps=steps,
            seed=config.seed,
            max_seconds=max_seconds,
            fps=config.fps,
            size=AUTO_SIZE,
            face_index=0,
            stream=False,
        )

    def of_mode(self, mode: Mode) -> "PageRequest":
        """Returns the request with what the tab shows alone.

        Raises:
            InputError: two people were asked for, and nothing was given for the second.
        """
        unused: dict[str, Any] = dict.fromkeys(UNUSED_IN_MODE[mode])
        shown = replace(self, **unused)
        if mode is Mode.driving_video and shown.driving_video is None:
            raise InputError(
                "there is no driving video yet; upload one", code=ErrorCode.missing_value, field="driving_video"
            )
        if mode is Mode.two_people and shown.second_audio is None and shown.second_driving_video is None:
            raise InputError(
                "there is no speech for the right person yet; upload a recording",
                code=ErrorCode.missing_value,
                field="second_audio",
            )
        return shown

    def to_config(self, default: InferConfig, max_seconds: float) -> InferConfig:
        """Returns `default` with the values of the request.

        Args:
            default: configuration of the model that is served.
            max_seconds: longest video that the page generates.

        Raises:
            InputError: a field is empty, not a number, or outside its limits.
        """
        if not isinstance(self.stream, bool):
            raise InputError(
                f"stream is {self.stream!r:.40}; it must be true or false",
                code=ErrorCode.invalid_type,
                field="stream",
                value=self.stream,
            )
        numbers = {name: self._number(name) for name in NUMBER_LABELS}
        if numbers["max_seconds"] > max_seconds:
            raise InputError(
                f"Length is {numbers['max_seconds']:g} s; this page generates up to {max_seconds:g} s",
                code=ErrorCode.out_of_range,
                field="max_seconds",
                value=numbers["max_seconds"],
            )
        face = numbers.pop("face_index")
        values = {name: int(value) if name in INTEGER_FIELDS else value for name, value in numbers.items()}
        texts = {"prompt": self.prompt, "negative_prompt": self.negative_prompt}
        config = apply_options(default, {**values, **texts, "stream": self.stream})
        if face:
            config = apply_options(config, {"face_indices": [int(face)]})
        return config if self.size == AUTO_SIZE else self._with_size(config)

    def files(self) -> RequestFiles:
        """Returns the files that the video is generated from.

        Raises:
            InputError: the portrait is missing, audio and driving video are both missing, or a second one is given
                without a first.
        """
        if self.portrait is None:
            raise InputError("there is no portrait yet; upload one", code=ErrorCode.missing_value, field="portrait")
        if self.audio is None and self.driving_video is None:
            raise InputError(
                "there is no speech yet; upload a recording",
                code=ErrorCode.missing_value,
                field="audio",
            )
        pairs = {
            "audio": (self.audio, self.second_audio),
            "driving_video": (self.driving_video, self.second_driving_video),
        }
        for name, (first, second) in pairs.items():
            if first is None and second is not None:
                label = name.replace("_", " ")
                raise InputError(
                    f"there is a second {label} but no first, which is the left person's; upload the first too",
                    code=ErrorCode.missing_value,
                    field=name,
                )
        audio_paths, driving_videos = (
            tuple(Path(path) for path in pair if path is not None) for pair in pairs.values()
        )
        return RequestFiles(Path(self.portrait), audio_paths, driving_videos)

    def _with_size(self, config: InferConfig) -> InferConfig:
        if self.size not in config.sizes:
            raise InputError(
                f"Size is '{self.size}'; this model has {', '.join(config.sizes)}",
                code=ErrorCode.invalid_choice,
                field="size",
                value=self.size,
            )
        return replace(config, sizes=[self.size])

    def _number(self, name: str) -> float:
        value = getattr(self, name)
        label = NUMBER_LABELS[name]
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise InputError(
                f"{label} is empty or not a number; enter one",
                code=ErrorCode.invalid_type,
                field=name,
                value=value,
            )
        if name in INTEGER_FIELDS and value != int(value):
            raise InputError(
                f"{label} is {value:g}; enter a whole number", code=ErrorCode.invalid_type, field=name, value=value
            )
        return value
