"""One video to generate: its input files, its configuration and its output files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import check_has_stem, existing_file, report_write_errors, shorten_name
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.console import notify
from fantasytalking.inference.model_sources import ResolvedModel
from fantasytalking.inference.provenance import GenerationRecord, is_record
from fantasytalking.pipeline import GenerationPlan, ModelFacts, plan_generation
from fantasytalking.pipeline.portrait import check_sizes

STDIO_PATH = Path("-")
"""Standard input as the path of an audio, standard output as the path of a video."""
CONTACT_SHEET_SUFFIX = ".sheet.png"
MAX_STEM_BYTES = 80
"""Longest part of an input's name in the name of an output that is not given."""


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
    conditions: dict[str, Path] = field(default_factory=dict)
    """Files of registered conditions, by name."""

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
        return (self.image, *self.audio_paths, *self.driving_videos, *self.conditions.values())

    @property
    def prompts(self) -> tuple[str, str]:
        """Prompt and negative prompt."""
        return self.config.prompt, self.config.negative_prompt

    def plan(self, facts: ModelFacts) -> GenerationPlan:
        """Returns the checked plan of the video, before any weights are loaded.

        Raises:
            InputError: a size has no whole tokens with this model, or as `fantasytalking.pipeline.plan_generation`.
        """
        check_sizes(self.config.sizes, facts.geometry)
        return plan_generation(
            facts,
            self.config.controls(),
            has_audio=bool(self.audio_paths),
            has_driving_video=self.has_driving_video,
            extra_conditions=self.conditions,
        )

    def reproduction_result(self, video_sha256: str) -> str:
        """Returns the end of the summary line: whether a reproduced video equals the recorded one."""
        if self.reproduced is None:
            return ""
        return ", " + ("the" if video_sha256 == self.reproduced.video_sha256 else "NOT the") + " same bits as recorded"


def job_from_record(record: Path, output: Path | None, contact_sheet: bool) -> GenerationJob:
    """Returns the job that reproduces a record; without `output` it writes NAME.again.mp4 beside the record NAME.json.

    Where the recorded video was written does not matter: the record may be from elsewhere.

    Raises:
        InputError: the file is not a record, or NAME.again.mp4 exists and is not of an earlier reproduction.
    """
    recorded = GenerationRecord.load(record)
    output = output or _unused(record.with_name(f"{record.stem}.again.mp4"))
    return GenerationJob(
        recorded.config,
        recorded.image,
        recorded.audio_paths,
        output,
        contact_sheet,
        recorded,
        recorded.driving_videos,
        recorded.conditions,
    )


def start_record(job: GenerationJob, model: ResolvedModel) -> GenerationRecord:
    """Returns the record of the video to generate, and prints what differs from a reproduced record.

    Raises:
        InputError: an input file does not exist, or differs from that of the reproduced record.
    """
    record = GenerationRecord.create(
        job.config, job.image, job.audio_paths, job.driving_videos, model, job.output, job.conditions
    )
    if job.reproduced is not None:
        torch.set_num_threads(job.reproduced.num_threads)
        record = replace(record, num_threads=job.reproduced.num_threads)
        for difference in job.reproduced.differences(record):
            notify(f"note: {difference}; the video may differ")
    return record


def unused_output_path(image: Path, other: Path) -> Path:
    """Returns outputs/IMAGE_OTHER.mp4, where `other` is the first audio or driving video; long names are shortened.

    Raises:
        InputError: that file exists and is not the video of an earlier run.
    """
    stem = "_".join(shorten_name(path.stem, MAX_STEM_BYTES) for path in (image, other))
    return _unused(Path("outputs") / f"{stem}.mp4")


def _unused(output: Path) -> Path:
    """Returns an output that was not given, unless it is a file without a record, which is not ours."""
    with report_write_errors(output, field="--output"):
        is_foreign = output.exists() and not is_record(output.with_suffix(".json"))
    _refuse(output, "exists without a record, so it is not of an earlier run" if is_foreign else "")
    return output


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


def checked_output_paths(job: GenerationJob, *further_suffixes: str) -> list[Path]:
    """Returns the files that will be written: video, record and, if requested, contact sheet.

    Args:
        further_suffixes: suffixes of files that are also written beside the video.

    Raises:
        InputError: one is a folder or an input file, one beside the video is not of an earlier run, or the video is not
            .mp4.
    """
    check_has_stem(job.output, [".mp4"], "--output")
    if job.output.suffix.lower() != ".mp4":
        raise InputError(
            f"output '{job.output}' does not end in .mp4; videos are written as .mp4 only: give another --output",
            code=ErrorCode.invalid_choice,
            field="--output",
            value=str(job.output),
        )
    suffixes = [".json", *([CONTACT_SHEET_SUFFIX] if job.contact_sheet else []), *further_suffixes]
    beside = [job.output.with_suffix(suffix) for suffix in suffixes]
    inputs = {os.path.realpath(path) for path in job.input_files}
    with report_write_errors(job.output, job.output.parent, field="--output"):
        for path in (job.output, *beside):
            _refuse(path, "is a folder" if path.is_dir() else "")
            _refuse(path, "would overwrite an input" if os.path.realpath(path) in inputs else "")
        is_ours = is_record(beside[0])
        for path in beside:
            _refuse(path, "exists and is not of an earlier run" if path.exists() and not is_ours else "")
    return [job.output, *beside]


def _refuse(output: Path, problem: str) -> None:
    if problem:
        raise InputError(
            f"output '{output}' {problem}; give another --output",
            code=ErrorCode.output_exists,
            field="--output",
            value=str(output),
        )
