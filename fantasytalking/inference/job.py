"""One video to be made: the files that it is made from, and those that come of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import existing_file
from fantasytalking.inference.provenance import GenerationRecord
from fantasytalking.pipeline.config import InferConfig


@dataclass(frozen=True)
class GenerationJob:
    """One video to make."""

    config: InferConfig
    image: Path
    audio_paths: tuple[Path, ...]
    """One for each of the first faces."""
    output: Path
    contact_sheet: bool = False
    reproduced: GenerationRecord | None = None
    """The record that is being made again."""
    driving_videos: tuple[Path, ...] = ()
    """Videos whose expression drives the faces, one for each of the first."""

    @property
    def num_faces(self) -> int:
        """Faces that are needed where none is chosen."""
        return max(len(self.audio_paths), len(self.driving_videos), 1)

    @property
    def is_multi_speaker(self) -> bool:
        """Whether people must be told apart by their sounds."""
        return len(self.audio_paths) > 1

    @property
    def input_files(self) -> tuple[Path, ...]:
        """All that the video is made from."""
        return (self.image, *self.audio_paths, *self.driving_videos)


def job_from_record(record: Path, output: Path | None, contact_sheet: bool) -> GenerationJob:
    """The job of a record; without `output` the video is made again in its own place."""
    made = GenerationRecord.load(record)
    return GenerationJob(
        made.config, made.image, made.audio_paths, output or made.output, contact_sheet, made, made.driving_videos
    )


def default_output_path(image: Path, other: Path) -> Path:
    """outputs/IMAGE_OTHER.mp4, the other being the first sound or driver."""
    return Path("outputs") / f"{image.stem}_{other.stem}.mp4"


def checked_image_path(image: Path | None) -> Path:
    """It is given and is a file.

    Raises:
        InputError: it is not.
    """
    if image is None:
        raise InputError("no image was given; use --image FILE")
    return existing_file(image, "image")


def check_speech_inputs(audio_paths: Sequence[Path], driving_videos: Sequence[Path]) -> None:
    """All are files, and there is at least one of either.

    Raises:
        InputError: there is none, or one is no file.
    """
    if not audio_paths and not driving_videos:
        raise InputError("no audio was given; use --audio FILE, or --drive VIDEO")
    for name, paths in (("audio", audio_paths), ("driver", driving_videos)):
        for path in paths:
            existing_file(path, name)


def checked_output_paths(job: GenerationJob) -> list[Path]:
    """The files that will be written: video, record and, when wanted, contact sheet."""
    if job.output.suffix.lower() != ".mp4":
        raise InputError(f"output '{job.output}' does not end in .mp4, the one format that is written")
    paths = [job.output, job.output.with_suffix(".json")]
    if job.contact_sheet:
        paths.append(job.output.with_suffix(".sheet.png"))
    given = {path.resolve() for path in job.input_files}
    for path in paths:
        if path.is_dir():
            raise InputError(f"output '{path}' is a folder; give another --output")
        if path.resolve() in given:
            raise InputError(f"output '{path}' would overwrite what the video is made from; give another --output")
    return paths
