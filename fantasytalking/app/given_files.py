"""Checks the inputs of the page when they are given, and words every message in the page's own terms."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from fantasytalking import media
from fantasytalking.app.logged_notes import logged_notes
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.face_range import FaceRanges
from fantasytalking.inference.config import InferConfig
from fantasytalking.media.resolution import ResizeMode
from fantasytalking.models.presets import load_model_config
from fantasytalking.pipeline.portrait import Portrait, open_image, parse_sizes

CHECK_SAMPLE_RATE = 16_000
GROUP_ASPECT = 5 / 3
"""Width over height of the size for several people who do not fit into the model's own sizes."""
CACHED_CHECKS = 64
LABELS = (
    (r"give a wider --size, or resize_mode=letterbox", "choose the automatic Size"),
    (r"--face-index 1 \(left\) to --face-index (\d+) \(right\)(, \d+ times)?", r"Face 1 (left) to \1 (right)"),
    (r"--face-index", "Face"),
    (r"--driving-video", "Driving video"),
    (r"--audio", "Speech"),
    (r"--image", "Portrait"),
    (r"--stream", "Stream"),
    (r"--num-inference-steps", "Steps"),
    (r"--expression-guidance-scale", "Expression guidance"),
    (r" \(in a training configuration: [\w.]+\)", ""),
    (r"--max-seconds( N\b)?", "Length"),
    (r"--fps", "Frames per second"),
    (r"--size", "Size"),
    (r", or (use )?resize_mode=\w+", ""),
)
"""Options of the command line, and what the page calls them."""


def page_words(message: str) -> str:
    """Returns a message on one line, in which options of the command line have the names of the page's controls."""
    for option, label in LABELS:
        message = re.sub(option, label, message)
    return " ".join(message.split())


class SoundCheck(NamedTuple):
    """What decoding a sound shows."""

    seconds: float
    """That are used."""
    notes: tuple[str, ...]
    """What is silent, left out or corrected."""


@lru_cache(CACHED_CHECKS)
def check_sound(path: Path, max_seconds: float) -> SoundCheck:
    """Decodes the first `max_seconds` of a sound.

    Raises:
        InputError: it cannot be decoded, or has no samples.
    """
    with logged_notes() as notes:
        samples = media.read_audio(path, sample_rate=CHECK_SAMPLE_RATE, duration=max_seconds)
    return SoundCheck(len(samples) / CHECK_SAMPLE_RATE, tuple(note.removeprefix(f"'{path}': ") for note in notes))


@lru_cache(CACHED_CHECKS)
def video_seconds(path: Path, max_seconds: float) -> float:
    """Returns the seconds of a video that are used, by decoding them.

    Raises:
        InputError: it has no video, or cannot be decoded.
    """
    end = 0.0
    for time, _ in media.iter_frames(path, fps=None, duration=max_seconds):
        end = time
    return end


def prepare_people(
    config: InferConfig, image: Path, num_people: int, face_ranges: FaceRanges | None = None
) -> tuple[InferConfig, Portrait]:
    """Returns the configuration in which the whole faces of all people fit, and the portrait in it.

    The model's own sizes come first, then a wider one, then black bars above and below.

    Args:
        face_ranges: sizes and places of faces that the model knows; None: unknown.

    Raises:
        InputError: the image cannot be read, or does not show that number of people.
    """
    pixels = open_image(image)
    for candidate in _candidates(config, num_people):
        try:
            portrait = candidate.portrait_options(face_ranges).prepare(pixels, num_people)
        except InputError as error:
            if error.field != "sizes":
                raise
            continue
        return candidate, portrait
    raise InputError(
        f"the {num_people} faces do not fit into one picture; choose a portrait in which they are closer together",
        code=ErrorCode.conflict,
        field="portrait",
    )


def _candidates(config: InferConfig, num_people: int) -> Iterator[InferConfig]:
    yield config
    if num_people == 1:
        return
    sizes = sorted(parse_sizes(config.sizes), key=lambda size: size.width / size.height)
    for size in reversed(sizes):
        yield replace(config, sizes=[f"{size.width}x{size.height}"])
    height = sizes[0].height
    step = load_model_config(config.model).geometry.token_pixels
    wide = f"{round(GROUP_ASPECT * height / step) * step}x{height}"
    yield replace(config, sizes=[wide])
    yield replace(config, sizes=[wide], resize_mode=ResizeMode.letterbox)
