"""The options of scripts/infer.py."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import InputError
from fantasytalking.inference.job import (
    GenerationJob,
    check_speech_inputs,
    checked_image_path,
    default_output_path,
    job_from_record,
)
from fantasytalking.inference.stream import STDIO_PATH
from fantasytalking.pipeline.config import InferConfig


class ConfigOption(NamedTuple):
    """An option that sets a field of the configuration."""

    flag: str
    type: type
    help: str


CONFIG_OPTIONS = (
    ConfigOption("prompt", str, "what to see"),
    ConfigOption("negative-prompt", str, "what not to see"),
    ConfigOption("motion", float, "intensity of expression and body, 0 to 1; 0.5 = neutral"),
    ConfigOption("expression-motion", float, "of the expression alone"),
    ConfigOption("body-motion", float, "of head and body alone"),
    ConfigOption("text-guidance", float, "scale of text guidance at every step; 1 = none, useful: 3 to 7"),
    ConfigOption("audio-guidance", float, "scale of audio guidance at every step"),
    ConfigOption("expression-guidance", float, "scale of guidance by the drivers at every step"),
    ConfigOption("steps", int, "denoising steps"),
    ConfigOption("seed", int, "of the noise"),
    ConfigOption("fps", float, "frames a second"),
    ConfigOption("size", str, "of the video: N or WIDTHxHEIGHT, multiples of 16"),
    ConfigOption("seconds", float, "at most so much of sounds and drivers"),
)
GUIDANCE_CONDITIONS = ("text", "audio", "expression")


AUDIO_HELP = (
    "the speech: a sound file, or a video for its sound track; - = a pipe of WAV or s16le at 16 kHz (--stream); "
    "several times for several faces, from left to right or in the order of --face"
)
DRIVING_VIDEO_HELP = "a video whose expression drives the face; several times as --audio"
FACE_INDEX_HELP = "which of several faces, from 1 at the left; several times for several sounds or drivers"
STREAM_HELP = "write frames while later ones are made; with --output - to standard output"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for every other mistake."""
        raise InputError(f"{message}; --help tells all options")


def parse_job(arguments: Sequence[str], description: str, prog: str | None = None) -> GenerationJob:
    """What the command line asks for. Options prevail over key=value, which prevails over the configuration file.

    Raises:
        InputError: anything that cannot be used.
    """
    parser = _Parser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--image", type=Path, help="the portrait: jpg, png, webp, bmp, tiff or gif")
    parser.add_argument("--audio", type=Path, action="append", help=AUDIO_HELP)
    parser.add_argument("--drive", type=Path, action="append", metavar="VIDEO", help=DRIVING_VIDEO_HELP)
    parser.add_argument("--face", type=int, action="append", help=FACE_INDEX_HELP)
    for option in CONFIG_OPTIONS:
        parser.add_argument(f"--{option.flag}", type=option.type, help=option.help)
    parser.add_argument("--config", type=Path, help="default: configs/nano/infer.yaml")
    parser.add_argument("--output", type=Path, help="the video, .mp4; default: outputs/IMAGE_AUDIO.mp4")
    parser.add_argument("--contact-sheet", action="store_true", help="a picture of some frames beside the video")
    parser.add_argument("--stream", action="store_const", const=True, help=STREAM_HELP)
    parser.add_argument("--replay", type=Path, metavar="FILE", help="make the video of this JSON again")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, as in guidance.audio.stop=0.7")
    given = parser.parse_intermixed_args(arguments)
    if given.replay is not None:
        _reject_other_options(given)
        return job_from_record(given.replay, given.output, given.contact_sheet)
    config = load_config(InferConfig, given.config or preset_path("nano", "infer"), given.overrides)
    config = apply_options(
        config, {option.flag: getattr(given, option.flag.replace("-", "_")) for option in CONFIG_OPTIONS}
    )
    if given.face:
        config = apply_options(config, {"faces": given.face})
    if given.stream:
        config = replace(config, stream=True)
    sounds, drivers = tuple(given.audio or ()), tuple(given.drive or ())
    if not config.stream and STDIO_PATH in (*sounds, given.output):
        raise InputError("'-' is a pipe, which only a stream reads and writes; add --stream")
    image, first = checked_image_path(given.image), Path("live")
    if STDIO_PATH not in sounds:
        check_speech_inputs(sounds, drivers)
        first = (*sounds, *drivers)[0]
    output = given.output or default_output_path(image, first)
    return GenerationJob(config, image, sounds, output, given.contact_sheet, driving_videos=drivers)


def apply_options(config: InferConfig, values: dict[str, Any]) -> InferConfig:
    """The configuration with the options that are not None; checked again.

    Raises:
        InputError: a value outside its limits.
    """
    values = {flag.replace("-", "_"): value for flag, value in values.items() if value is not None}
    motion, size = values.pop("motion", None), values.pop("size", None)
    scales = {name: values.pop(f"{name}_guidance") for name in GUIDANCE_CONDITIONS if f"{name}_guidance" in values}
    if motion is not None:
        values = {"expression_motion": motion, "body_motion": motion, **values}
    if size is not None:
        values["sizes"] = [size]
    if "faces" in values:  # one face prevails over what the configuration says of several, and the other way round
        faces = values.pop("faces")
        values |= {"face": faces[0], "faces": []} if len(faces) == 1 else {"face": None, "faces": faces}
    schedules = {
        name: replace(getattr(config.guidance, name), start=scale, end=scale) for name, scale in scales.items()
    }
    guidance = replace(config.guidance, **schedules)
    guidance.validate_all()
    config = replace(config, guidance=guidance)
    config = replace(config, **values)
    config.validate()
    return config


def _reject_other_options(options: argparse.Namespace) -> None:
    flags = ["image", "audio", "drive", "face", "config", "stream", *(option.flag for option in CONFIG_OPTIONS)]
    others = [f"--{flag}" for flag in flags if getattr(options, flag.replace("-", "_")) is not None] + options.overrides
    if others:
        raise InputError(f"--replay takes everything from its file; leave '{others[0]}' out")
