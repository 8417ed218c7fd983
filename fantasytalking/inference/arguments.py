"""Command line options of inference, and the job that they describe."""

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fantasytalking.common.command_parser import CommandParser
from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import existing_file
from fantasytalking.common.resources import resource_path
from fantasytalking.inference.cards import CARD_NAMES, CARD_PRESET, card_settings, resolve_card
from fantasytalking.inference.config import InferConfig, apply_options
from fantasytalking.inference.console import notify
from fantasytalking.inference.job import (
    STDIO_PATH,
    GenerationJob,
    check_speech_inputs,
    checked_image_path,
    job_from_record,
    unused_output_path,
)
from fantasytalking.pipeline.guidance import GUIDANCE_CONDITIONS
from fantasytalking.pipeline.loading.component_files import COMPONENT_NAMES


class ConfigOption(NamedTuple):
    """An option that sets a field of the configuration."""

    flag: str
    type: type
    help: str

    @property
    def name(self) -> str:
        """Name of the field."""
        return self.flag.replace("-", "_")


CONFIG_OPTIONS = (
    ConfigOption("prompt", str, "description of the video"),
    ConfigOption("negative-prompt", str, "description of what the video should not show"),
    ConfigOption("motion", float, "intensity of expression and body motion, 0 to 1; 0.5 is neutral"),
    ConfigOption("expression-motion", float, "intensity of the expression alone"),
    ConfigOption("body-motion", float, "intensity of head and body motion alone"),
    ConfigOption("text-guidance-scale", float, "scale of text guidance at every step; 1: none, useful: 3 to 7"),
    ConfigOption("audio-guidance-scale", float, "scale of audio guidance at every step"),
    ConfigOption("expression-guidance-scale", float, "scale of guidance by driving videos at every step"),
    ConfigOption("num-inference-steps", int, "denoising steps"),
    ConfigOption("seed", int, "seed of the noise"),
    ConfigOption("fps", float, "frames per second"),
    ConfigOption("size", str, "size of the video: N or WIDTHxHEIGHT, for Wan 2.1 multiples of 16"),
    ConfigOption("max-seconds", float, "longest part of audio and driving videos that is used"),
)
RENAMED_OPTIONS = {
    "--drive": "--driving-video",
    "--face": "--face-index",
    "--replay": "--reproduce",
    "--text-guidance": "--text-guidance-scale",
    "--audio-guidance": "--audio-guidance-scale",
    "--expression-guidance": "--expression-guidance-scale",
    "--steps": "--num-inference-steps",
    "--seconds": "--max-seconds",
}
"""New option by the name it had in earlier releases; the old name works for one more release."""
AUDIO_HELP = (
    "the speech: an audio file, or a video for its audio track; - : a pipe of WAV or s16le at 16 kHz (--stream); "
    "several times for several faces, from left to right or in the order of --face-index; required without "
    "--driving-video or --reproduce"
)
DRIVING_VIDEO_HELP = "a video whose expression drives the face; several times like --audio (default: none)"
CARD_HELP = (
    "memory of the GPU, for which configs/wan14b/CARD.yaml has settings; with --config, only its settings about memory "
    "(default: those of the configuration)"
)
COMPONENT_HELP = (
    f"a single file in place of a component of the base: {', '.join(COMPONENT_NAMES)}; several times (default: the "
    "base's)"
)
FACE_INDEX_HELP = (
    "the selected face, from 1 at the left; several times for several audio files or driving videos (default: all "
    "faces, from the left)"
)
CONDITION_HELP = (
    "the value of a condition that is registered from outside the package, as a file; several times for several "
    "conditions (default: none)"
)
CONDITION_GUIDANCE_HELP = "scale of guidance by a registered condition at every step; 1: none (default: 1)"
MAX_DEFAULT_CHARS = 60
"""Length to which defaults are shortened in the help."""
STREAM_HELP = "write frames while later ones are generated; with --output - to standard output"


def parse_job(arguments: Sequence[str], description: str, prog: str | None = None) -> GenerationJob:
    """Returns the job of a command line. Options override key=value, which overrides the configuration file.

    Raises:
        InputError: an option is unknown, or a value cannot be used.
    """
    options = _parser(description, prog).parse_intermixed_args(_rename_old_options(arguments))
    if options.reproduce is not None:
        _reject_other_options(options)
        return job_from_record(options.reproduce, options.output, options.contact_sheet)
    config = load_config(InferConfig, *_configuration(options))
    values = {option.name: getattr(options, option.name) for option in CONFIG_OPTIONS}
    scales = {name: _parse_scale(name, value) for name, value in _named(options, "condition_guidance_scale").items()}
    values |= {"face_indices": options.face_index, "condition_guidance_scales": scales}
    config = apply_options(config, values | {"stream": options.stream or None})
    if options.component:
        config = replace(config, components=replace(config.components, **_component_files(options.component)))
    audio_paths, driving_videos = (
        tuple(map(resource_path, given or ())) for given in (options.audio, options.driving_video)
    )
    if not config.stream and STDIO_PATH in (*audio_paths, options.output):
        raise InputError(
            "'-' is a pipe, which only a stream reads and writes; add --stream",
            code=ErrorCode.conflict,
            field="--output" if options.output == STDIO_PATH else "--audio",
            value="-",
        )
    image = checked_image_path(None if options.image is None else resource_path(options.image))
    is_piped = STDIO_PATH in audio_paths
    if not is_piped:
        check_speech_inputs(audio_paths, driving_videos)
    first = Path("live") if is_piped else (*audio_paths, *driving_videos)[0]
    output = options.output or unused_output_path(image, first)
    conditions = {
        name: existing_file(resource_path(path), f"condition {name}")
        for name, path in _named(options, "condition").items()
    }
    return GenerationJob(
        config,
        image,
        audio_paths,
        output,
        options.contact_sheet,
        driving_videos=driving_videos,
        conditions=conditions,
    )


def _configuration(options: argparse.Namespace) -> tuple[str | Path, list[str]]:
    """Returns the configuration file and the settings that replace some of its values."""
    if options.card is None:
        return options.config or preset_path("nano", "infer"), options.overrides
    card = resolve_card(options.card)
    if options.config is None:
        return preset_path(CARD_PRESET, card), options.overrides
    return options.config, [*card_settings(card), *options.overrides]


def _named(options: argparse.Namespace, name: str) -> dict[str, str]:
    """Returns the values of an option that is given as NAME=VALUE, several times, by NAME."""
    flag, found = f"--{name.replace('_', '-')}", {}
    for given in getattr(options, name) or []:
        key, separator, value = given.partition("=")
        if not (key and separator and value) or key in found:
            raise InputError(
                f"{flag} is '{given}'; give NAME=VALUE, and each NAME once",
                code=ErrorCode.invalid_type,
                field=flag,
                value=given,
            )
        found[key] = value
    return found


def _parse_scale(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise InputError(
            f"--condition-guidance-scale {name} is '{value}'; give a number",
            code=ErrorCode.invalid_type,
            field="--condition-guidance-scale",
            value=value,
        ) from error


def _parser(description: str, prog: str | None) -> CommandParser:
    parser = CommandParser(prog, description, allow_abbrev=False)
    parser.add_path(
        "--image",
        help="the portrait: JPEG, PNG, WebP, AVIF, JPEG 2000, TIFF, BMP, GIF, ...; required without --reproduce",
    )
    parser.add_path("--audio", action="append", help=AUDIO_HELP)
    parser.add_path("--driving-video", action="append", metavar="VIDEO", help=DRIVING_VIDEO_HELP)
    parser.add_argument("--condition", action="append", metavar="NAME=FILE", help=CONDITION_HELP)
    parser.add_argument(
        "--condition-guidance-scale", action="append", metavar="NAME=SCALE", help=CONDITION_GUIDANCE_HELP
    )
    parser.add_argument("--face-index", type=int, action="append", help=FACE_INDEX_HELP)
    defaults = _option_defaults()
    for option in CONFIG_OPTIONS:
        shown = f"{option.help} (default: {defaults[option.name]})".replace("%", "%%")
        parser.add_argument(f"--{option.flag}", type=option.type, help=shown)
    parser.add_path(
        "--config",
        help="the model and its settings, whose values replace the defaults above (default: configs/nano/infer.yaml)",
    )
    parser.add_argument("--card", choices=CARD_NAMES, help=CARD_HELP)
    parser.add_argument("--component", action="append", metavar="NAME=FILE", help=COMPONENT_HELP)
    parser.add_path(
        "--output", help="the video, .mp4 (default: outputs/IMAGE_AUDIO.mp4; of a record NAME.json, NAME.again.mp4)"
    )
    parser.add_argument("--contact-sheet", action="store_true", help="also write an image of some frames")
    parser.add_argument("--stream", action="store_const", const=True, help=STREAM_HELP)
    parser.add_path(
        "--reproduce", metavar="FILE", help="generate a record's video (.json) again (default: a new video)"
    )
    parser.add_settings("settings, such as guidance.audio.stop=0.7")
    return parser


def _component_files(given: Sequence[str]) -> dict[str, str]:
    """Parses `NAME=FILE` of every --component."""
    files = {}
    for argument in given:
        name, separator, file = argument.partition("=")
        if not separator or not file or name not in COMPONENT_NAMES:
            raise InputError(
                f"--component is '{argument}'; give NAME=FILE, with one of {', '.join(COMPONENT_NAMES)}",
                code=ErrorCode.invalid_choice,
                field="--component",
                value=argument,
            )
        files[name] = file
    return files


@cache
def _option_defaults() -> dict[str, str]:
    """Returns what each option is without it and without a configuration, as text, by name."""
    config = load_config(InferConfig, preset_path("nano", "infer"))
    guidance = {f"{name}_guidance_scale": getattr(config.guidance, name).scale_end for name in GUIDANCE_CONDITIONS}
    values = {**vars(config), **guidance, "motion": config.expression_motion, "size": config.sizes[0]}
    shown = {option.name: _shown(values[option.name]) for option in CONFIG_OPTIONS}
    return shown | {"max_seconds": "all" if config.max_seconds is None else shown["max_seconds"]}


def _shown(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return textwrap.shorten(text, MAX_DEFAULT_CHARS, placeholder=" ...") or "empty"


def _rename_old_options(arguments: Sequence[str]) -> list[str]:
    """Replaces options of earlier releases, with one warning each."""
    renamed, warned = [], set()
    for argument in arguments:
        flag, separator, value = argument.partition("=")
        new = RENAMED_OPTIONS.get(flag)
        if new is not None and flag not in warned:
            warned.add(flag)
            notify(f"note: {flag} was renamed to {new}; the old name works for one more release")
        renamed.append(argument if new is None else new + separator + value)
    return renamed


def _reject_other_options(options: argparse.Namespace) -> None:
    flags = ["image", "audio", "driving-video", "face-index", "component", "card", "config", "stream"]
    flags += ["condition", "condition-guidance-scale"]
    flags += [option.flag for option in CONFIG_OPTIONS]
    others = [f"--{flag}" for flag in flags if getattr(options, flag.replace("-", "_")) is not None] + options.overrides
    if others:
        raise InputError(
            f"--reproduce takes everything from its file; leave out '{others[0]}'",
            code=ErrorCode.conflict,
            field="--reproduce",
            value=others[0],
        )
