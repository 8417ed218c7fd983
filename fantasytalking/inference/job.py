"""One video to be made: the files that it is made from, and those that come of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import existing_file
from fantasytalking.inference.provenance import Record
from fantasytalking.pipeline.config import InferConfig


@dataclass(frozen=True)
class Job:
    """One video to make."""

    config: InferConfig
    image: Path
    sounds: tuple[Path, ...]
    """One for each of the first faces."""
    output: Path
    contact_sheet: bool = False
    replayed: Record | None = None
    """The record that is being made again."""
    drivers: tuple[Path, ...] = ()
    """Videos whose expression drives the faces, one for each of the first."""

    @property
    def people(self) -> int:
        """Faces that are needed where none is chosen."""
        return max(len(self.sounds), len(self.drivers), 1)

    @property
    def several_speak(self) -> bool:
        """Whether people must be told apart by their sounds."""
        return len(self.sounds) > 1

    @property
    def given(self) -> tuple[Path, ...]:
        """All that the video is made from."""
        return (self.image, *self.sounds, *self.drivers)


def replay_job(record: Path, output: Path | None, contact_sheet: bool) -> Job:
    """The job of a record; without `output` the video is made again in its own place."""
    made = Record.load(record)
    return Job(made.config, made.image, made.sounds, output or made.output, contact_sheet, made, made.drivers)


def default_output(image: Path, other: Path) -> Path:
    """outputs/IMAGE_OTHER.mp4, the other being the first sound or driver."""
    return Path("outputs") / f"{image.stem}_{other.stem}.mp4"


def check_image(image: Path | None) -> Path:
    """It is given and is a file.

    Raises:
        InputError: it is not.
    """
    if image is None:
        raise InputError("no image was given; use --image FILE")
    return existing_file(image, "image")


def check_sounds(sounds: Sequence[Path], drivers: Sequence[Path]) -> None:
    """All are files, and there is at least one of either.

    Raises:
        InputError: there is none, or one is no file.
    """
    if not sounds and not drivers:
        raise InputError("no audio was given; use --audio FILE, or --drive VIDEO")
    for name, paths in (("audio", sounds), ("driver", drivers)):
        for path in paths:
            existing_file(path, name)


def check_outputs(job: Job) -> list[Path]:
    """The files that will be written: video, record and, when wanted, contact sheet."""
    if job.output.suffix.lower() != ".mp4":
        raise InputError(f"output '{job.output}' does not end in .mp4, the one format that is written")
    paths = [job.output, job.output.with_suffix(".json")]
    if job.contact_sheet:
        paths.append(job.output.with_suffix(".sheet.png"))
    given = {path.resolve() for path in job.given}
    for path in paths:
        if path.is_dir():
            raise InputError(f"output '{path}' is a folder; give another --output")
        if path.resolve() in given:
            raise InputError(f"output '{path}' would overwrite what the video is made from; give another --output")
    return paths
