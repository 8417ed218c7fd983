"""One video to generate: its input files, its configuration and its output files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import existing_file
from fantasytalking.inference.console import notify
from fantasytalking.inference.model_sources import ResolvedModel
from fantasytalking.inference.provenance import GenerationRecord
from fantasytalking.pipeline import GenerationPlan, ModelFacts, plan_generation
from fantasytalking.pipeline.config import InferConfig

STDIO_PATH = Path("-")
"""Standard input as the path of an audio, standard output as the path of a video."""


@dataclass(frozen=True)
class GenerationJob:
    """One video to generate."""

    config: InferConfig
    image: Path
    audio_paths: tuple[Path, ...]
    """One per face from the first face on."""
    output: Path
    contact_sheet: bool = False
    reproduced: GenerationRecord | None = None
    """The record that is reproduced."""
    driving_videos: tuple[Path, ...] = ()
    """Videos whose expression drives the faces, one per face from the first face on."""

    @property
    def num_faces(self) -> int:
        """Faces that are required where none is selected."""
        return max(len(self.audio_paths), len(self.driving_videos), 1)

    @property
    def has_driving_video(self) -> bool:
        """Whether a video drives a face."""
        return bool(self.driving_videos)

    @property
    def is_multi_speaker(self) -> bool:
        """Whether several people speak."""
        return len(self.audio_paths) > 1

    @property
    def input_files(self) -> tuple[Path, ...]:
        """All files that the video is generated from."""
        return (self.image, *self.audio_paths, *self.driving_videos)

    def plan(self, facts: ModelFacts) -> GenerationPlan:
        """Returns the checked plan of the video, before any weights are loaded.

        Raises:
            InputError: as `fantasytalking.pipeline.plan_generation`.
        """
        return plan_generation(
            facts,
            self.config.controls(),
            has_audio=bool(self.audio_paths),
            has_driving_video=self.has_driving_video,
        )

    def reproduction_result(self, video_sha256: str) -> str:
        """Returns the end of the summary line: whether a reproduced video equals the recorded one."""
        if self.reproduced is None:
            return ""
        return ", " + ("the" if video_sha256 == self.reproduced.video_sha256 else "NOT the") + " same bits as recorded"


def job_from_record(record: Path, output: Path | None, contact_sheet: bool) -> GenerationJob:
    """Returns the job that reproduces a record; without `output` it replaces the recorded video.

    Raises:
        InputError: the file is not a record.
    """
    recorded = GenerationRecord.load(record)
    return GenerationJob(
        recorded.config,
        recorded.image,
        recorded.audio_paths,
        output or recorded.output,
        contact_sheet,
        recorded,
        recorded.driving_videos,
    )


def start_record(job: GenerationJob, model: ResolvedModel) -> GenerationRecord:
    """Returns the record of the video to generate, and prints what differs from a reproduced record.

    Raises:
        InputError: an input file does not exist, or differs from that of the reproduced record.
    """
    record = GenerationRecord.create(job.config, job.image, job.audio_paths, job.driving_videos, model, job.output)
    if job.reproduced is not None:
        torch.set_num_threads(job.reproduced.num_threads)
        record = replace(record, num_threads=job.reproduced.num_threads)
        for difference in job.reproduced.differences(record):
            notify(f"note: {difference}; the video may differ")
    return record


def default_output_path(image: Path, other: Path) -> Path:
    """Returns outputs/IMAGE_OTHER.mp4, where `other` is the first audio or driving video."""
    return Path("outputs") / f"{image.stem}_{other.stem}.mp4"


def checked_image_path(image: Path | None) -> Path:
    """Returns the path of an existing image.

    Raises:
        InputError: it is missing.
    """
    if image is None:
        raise InputError("no image was given; use --image FILE", code=ErrorCode.missing_value, field="--image")
    return existing_file(image, "image")


def check_speech_inputs(audio_paths: Sequence[Path], driving_videos: Sequence[Path]) -> None:
    """Checks that there is an audio or a driving video, and that all exist.

    Raises:
        InputError: there is none, or a file is missing.
    """
    if not audio_paths and not driving_videos:
        raise InputError(
            "no audio was given; use --audio FILE, or --driving-video FILE",
            code=ErrorCode.missing_value,
            field="--audio",
        )
    for name, paths in (("audio", audio_paths), ("driving video", driving_videos)):
        for path in paths:
            existing_file(path, name)


def checked_output_paths(job: GenerationJob) -> list[Path]:
    """Returns the files that will be written: video, record and, if requested, contact sheet.

    Raises:
        InputError: one is a folder or an input file, or the video is not .mp4.
    """
    if job.output.suffix.lower() != ".mp4":
        raise InputError(
            f"output '{job.output}' does not end in .mp4; videos are written as .mp4 only: give another --output",
            code=ErrorCode.invalid_choice,
            field="--output",
            value=str(job.output),
        )
    paths = [job.output, job.output.with_suffix(".json")]
    if job.contact_sheet:
        paths.append(job.output.with_suffix(".sheet.png"))
    inputs = {path.resolve() for path in job.input_files}
    for path in paths:
        problem = "is a folder" if path.is_dir() else "would overwrite an input" if path.resolve() in inputs else ""
        if problem:
            raise InputError(
                f"output '{path}' {problem}; give another --output",
                code=ErrorCode.output_exists,
                field="--output",
                value=str(path),
            )
    return paths
