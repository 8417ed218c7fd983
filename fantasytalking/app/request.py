"""What someone asks the page for, as settings of inference."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from fantasytalking.common.errors import InputError
from fantasytalking.inference.cli import with_options
from fantasytalking.pipeline.config import InferConfig

AUTOMATIC = "automatic"
"""The size of the model whose shape is nearest to the portrait's."""
WHOLE_NUMBERS = ("steps", "seed", "face")
NUMBERS = (
    *("expression_motion", "body_motion", "text_guidance", "audio_guidance", "expression_guidance"),
    *("seconds", "fps", *WHOLE_NUMBERS),
)


class Given(NamedTuple):
    """The files of a request, sounds and drivers from the left person to the right one."""

    portrait: Path
    sounds: tuple[Path, ...]
    drivers: tuple[Path, ...]


@dataclass(frozen=True)
class Request:
    """The controls of the page, in their order on it. Numbers come from a browser: anything may be in them."""

    portrait: str | None
    sound: str | None
    """The first person's, who is the left one of two; none where a driver is enough."""
    driver: str | None
    """A video whose expression drives the first person's face."""
    second_sound: str | None
    second_driver: str | None
    prompt: str
    negative_prompt: str
    expression_motion: float | None
    body_motion: float | None
    text_guidance: float | None
    audio_guidance: float | None
    expression_guidance: float | None
    steps: float | None
    seed: float | None
    seconds: float | None
    fps: float | None
    size: str
    face: float | None
    """0 = the only one."""
    stream: bool
    """Show frames while later ones are made."""

    def config(self, default: InferConfig, most_seconds: float) -> InferConfig:
        """The settings of the request over those of the model.

        Raises:
            InputError: a field that is empty, no number, or outside its limits.
        """
        if not isinstance(self.stream, bool):
            raise InputError(f"show while it is made is {self.stream!r:.40}; it must be true or false")
        numbers = {name: self._number(name) for name in NUMBERS}
        if numbers["seconds"] > most_seconds:
            raise InputError(f"length is {numbers['seconds']:g} s; this page makes up to {most_seconds:g} s")
        face = numbers.pop("face")
        values = {name: int(value) if name in WHOLE_NUMBERS else value for name, value in numbers.items()}
        config = with_options(default, {**values, "prompt": self.prompt, "negative_prompt": self.negative_prompt})
        config = replace(config, stream=self.stream)
        if face:
            config = with_options(config, {"faces": [int(face)]})
        return config if self.size == AUTOMATIC else self._of_size(config)

    def files(self) -> Given:
        """What the video is made from.

        Raises:
            InputError: the portrait is not given, neither sound nor driver is, or a second one without a first.
        """
        if self.portrait is None:
            raise InputError("there is no portrait yet; give one")
        if self.sound is None and self.driver is None:
            raise InputError("there is no sound yet; give one, or a driver")
        pairs = {"sound": (self.sound, self.second_sound), "driver": (self.driver, self.second_driver)}
        for name, (first, second) in pairs.items():
            if first is None and second is not None:
                raise InputError(f"there is a second {name} and no first; the first is the left person's: give it too")
        sounds, drivers = (tuple(Path(path) for path in pair if path is not None) for pair in pairs.values())
        return Given(Path(self.portrait), sounds, drivers)

    def _of_size(self, config: InferConfig) -> InferConfig:
        if self.size not in config.sizes:
            raise InputError(f"size is '{self.size}'; this model has {', '.join(config.sizes)}")
        return replace(config, sizes=[self.size])

    def _number(self, name: str) -> float:
        value = getattr(self, name)
        label = name.replace("_", " ")
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise InputError(f"{label} is empty or no number; give one")
        if name in WHOLE_NUMBERS and value != int(value):
            raise InputError(f"{label} is {value:g}; give a whole number")
        return value
