"""One video to be made: the files that it is made from, and those that come of it."""

from dataclasses import dataclass
from pathlib import Path

from fantasytalking.errors import InputError
from fantasytalking.files import existing_file
from fantasytalking.pipeline.record import Record
from fantasytalking.pipeline.settings import InferConfig


@dataclass(frozen=True)
class Job:
    """One video to make."""

    config: InferConfig
    image: Path
    audio: Path
    output: Path
    contact_sheet: bool = False
    replayed: Record | None = None
    """The record that is being made again."""


def replay_job(record: Path, output: Path | None, contact_sheet: bool) -> Job:
    """The job of a record; without `output` the video is made again in its own place."""
    made = Record.load(record)
    return Job(made.config, made.image, made.audio, output or made.output, contact_sheet, made)


def default_output(image: Path, audio: Path) -> Path:
    """outputs/IMAGE_AUDIO.mp4."""
    return Path("outputs") / f"{image.stem}_{audio.stem}.mp4"


def check_inputs(image: Path | None, audio: Path | None) -> tuple[Path, Path]:
    """Both are given and are files.

    Raises:
        InputError: one is not.
    """
    for name, path in (("image", image), ("audio", audio)):
        if path is None:
            raise InputError(f"no {name} was given; use --{name} FILE")
        existing_file(path, name)
    assert image is not None and audio is not None
    return image, audio


def check_outputs(job: Job) -> list[Path]:
    """The files that will be written: video, record and, when wanted, contact sheet."""
    if job.output.suffix.lower() != ".mp4":
        raise InputError(f"output '{job.output}' does not end in .mp4, the one format that is written")
    paths = [job.output, job.output.with_suffix(".json")]
    if job.contact_sheet:
        paths.append(job.output.with_suffix(".sheet.png"))
    for path in paths:
        if path.is_dir():
            raise InputError(f"output '{path}' is a folder; give another --output")
        if path.resolve() in (job.image.resolve(), job.audio.resolve()):
            raise InputError(f"output '{path}' would overwrite what the video is made from; give another --output")
    return paths
