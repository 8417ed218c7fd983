"""What someone asks the page for, as settings of inference."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from fantasytalking.common.errors import InputError
from fantasytalking.pipeline.config import InferConfig, apply_options

AUTO_SIZE = "automatic"
"""The size of the model whose shape is nearest to the portrait's."""
INTEGER_FIELDS = ("steps", "seed", "face")
NUMERIC_FIELDS = (
    *("expression_motion", "body_motion", "text_guidance", "audio_guidance", "expression_guidance"),
    *("seconds", "fps", *INTEGER_FIELDS),
)


class RequestFiles(NamedTuple):
    """The files of a request, sounds and drivers from the left person to the right one."""

    portrait: Path
    audio_paths: tuple[Path, ...]
    driving_videos: tuple[Path, ...]


@dataclass(frozen=True)
class PageRequest:
    """The controls of the page, in their order on it. Numbers come from a browser: anything may be in them."""

    portrait: str | None
    audio: str | None
    """The first person's, who is the left one of two; none where a driver is enough."""
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
    """0 = the only one."""
    stream: bool
    """Show frames while later ones are made."""

    def to_config(self, default: InferConfig, max_seconds: float) -> InferConfig:
        """The settings of the request over those of the model.

        Raises:
            InputError: a field that is empty, no number, or outside its limits.
        """
        if not isinstance(self.stream, bool):
            raise InputError(f"show while it is made is {self.stream!r:.40}; it must be true or false")
        numbers = {name: self._number(name) for name in NUMERIC_FIELDS}
        if numbers["seconds"] > max_seconds:
            raise InputError(f"length is {numbers['seconds']:g} s; this page makes up to {max_seconds:g} s")
        face = numbers.pop("face")
        values = {name: int(value) if name in INTEGER_FIELDS else value for name, value in numbers.items()}
        config = apply_options(default, {**values, "prompt": self.prompt, "negative_prompt": self.negative_prompt})
        config = replace(config, stream=self.stream)
        if face:
            config = apply_options(config, {"face_indices": [int(face)]})
        return config if self.size == AUTO_SIZE else self._with_size(config)

    def files(self) -> RequestFiles:
        """What the video is made from.

        Raises:
            InputError: the portrait is not given, neither sound nor driver is, or a second one without a first.
        """
        if self.portrait is None:
            raise InputError("there is no portrait yet; give one")
        if self.audio is None and self.driving_video is None:
            raise InputError("there is no sound yet; give one, or a driver")
        pairs = {"sound": (self.audio, self.second_audio), "driver": (self.driving_video, self.second_driving_video)}
        for name, (first, second) in pairs.items():
            if first is None and second is not None:
                raise InputError(f"there is a second {name} and no first; the first is the left person's: give it too")
        sounds, drivers = (tuple(Path(path) for path in pair if path is not None) for pair in pairs.values())
        return RequestFiles(Path(self.portrait), sounds, drivers)

    def _with_size(self, config: InferConfig) -> InferConfig:
        if self.size not in config.sizes:
            raise InputError(f"size is '{self.size}'; this model has {', '.join(config.sizes)}")
        return replace(config, sizes=[self.size])

    def _number(self, name: str) -> float:
        value = getattr(self, name)
        label = name.replace("_", " ")
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise InputError(f"{label} is empty or no number; give one")
        if name in INTEGER_FIELDS and value != int(value):
            raise InputError(f"{label} is {value:g}; give a whole number")
        return value
