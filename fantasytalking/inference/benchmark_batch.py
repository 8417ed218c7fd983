"""Generates one video per clip of a frozen benchmark.

The inputs of each video are written beside the videos, so that every record can be reproduced.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import fingerprint
from fantasytalking.common.resumable_tasks import ProcessState
from fantasytalking.evaluation.benchmark.prediction_pairing import MAX_LISTED_NAMES, find_references
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol
from fantasytalking.inference.benchmark_inputs import input_paths, portrait_path, write_inputs
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.console import notify_warning
from fantasytalking.inference.generate import generate_video
from fantasytalking.inference.job import GenerationJob
from fantasytalking.inference.model_sources import ResolvedModel, load_pipeline, resolve_model
from fantasytalking.inference.provenance import GenerationRecord
from fantasytalking.media import read_image
from fantasytalking.media.resolution import ResizeMode
from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline


@dataclass(frozen=True)
class BenchmarkJob:
    """A benchmark whose videos are to be generated."""

    protocol: BenchmarkProtocol
    references: Path
    """Folder of the reference videos that the protocol names."""
    output: Path
    """Folder for NAME.mp4 and NAME.json of every clip, and for their inputs (given/)."""
    config: InferConfig
    """The seed of clip n is `config.seed` + n. First frames of the references are not cropped beyond the protocol: fit
    acts as crop."""
    portraits: Path | None = None
    """Folder of the portraits, NAME.png of every clip. None: those of the protocol, or the references' first frames."""

    def clip_job(self, index: int) -> GenerationJob:
        """Returns the job of clip `index`."""
        clip = self.protocol.clips[index]
        keeps_framing = self.portraits is None and self.config.resize_mode is ResizeMode.fit
        config = replace(
            self.config,
            seed=self.config.seed + index,
            fps=self.protocol.fps,
            resize_mode=ResizeMode.crop if keeps_framing else self.config.resize_mode,
            min_face_fraction=0.0,
            notice="",
        )
        output = self.output / f"{clip.name}.mp4"
        image, audio_paths, driving_videos = input_paths(clip, self.output)
        return GenerationJob(config, image, audio_paths, output, driving_videos=driving_videos)


def generate_benchmark(benchmark: BenchmarkJob, process_state: ProcessState) -> int:
    """Generates the missing videos of this process, and returns its number of clips.

    Raises:
        InputError: the model or a reference is missing, the folder holds videos of another model or of other settings,
            or, after all others were generated, some clips could not be used.
    """
    clips = benchmark.protocol.clips
    model = resolve_model(benchmark.config, has_driving_video=benchmark.protocol.is_reenactment)
    find_references(benchmark.protocol, benchmark.references)
    fingerprints = {name: fingerprint(path) for name, path in model.paths.items()}
    # The whole folder is checked before anything is added, so that it never mixes models or settings.
    is_complete = [_is_complete(benchmark, index, fingerprints) for index in range(len(clips))]
    pipe: FantasyTalkingPipeline | None = None
    own = range(process_state.process_index, len(clips), process_state.num_processes)
    is_quiet = process_state.process_index > 0
    failed: list[str] = []
    warnings: list[str] = []
    for index in tqdm(own, desc="videos", unit=" clips", dynamic_ncols=True, disable=is_quiet):
        if is_complete[index]:
            continue
        if pipe is None:
            pipe = load_pipeline(benchmark.config, model)
            pipe.set_progress_bar_config(disable=True)
        reason = _generate_clip(benchmark, index, model, pipe, warnings.append)
        if reason:
            failed.append(f"{clips[index].name} ({reason})")
    if warnings:
        kept = " (benchmarks keep the framing of their protocol, and the report states face_fraction)"
        notify_warning(f"{len(warnings)} of {len(own)} clips: {warnings[0]}{'' if benchmark.portraits else kept}")
    if failed:
        raise InputError(
            f"{len(failed)} of {len(own)} clips could not be generated: {'; '.join(failed[:MAX_LISTED_NAMES])}",
            code=ErrorCode.unreadable_media,
            field="clips",
            value=len(failed),
        )
    return len(own)


def _generate_clip(
    benchmark: BenchmarkJob,
    index: int,
    model: ResolvedModel,
    pipe: FantasyTalkingPipeline,
    on_warning: Callable[[str], object],
) -> str:
    """Generates one video; returns why it could not be generated, or nothing."""
    job = benchmark.clip_job(index)
    try:
        clip = benchmark.protocol.clips[index]
        write_inputs(benchmark.protocol, clip, benchmark.references, job, benchmark.portraits)
        generate_video(job, model, lambda: pipe, on_warning=on_warning)
    except InputError as error:
        return str(error)
    return ""


def _is_complete(benchmark: BenchmarkJob, index: int, fingerprints: dict[str, str]) -> bool:
    """Whether the video of a clip exists; its record is written last.

    Raises:
        InputError: it was generated with other weights, settings or portraits.
    """
    job = benchmark.clip_job(index)
    path = job.output.with_suffix(".json")
    if not (job.output.is_file() and path.is_file()):
        return False
    record = GenerationRecord.load(path)
    changed = record.config != job.config or any(
        record.hashes.get(name) != value for name, value in fingerprints.items()
    )
    if benchmark.portraits is not None and not changed:
        portrait = read_image(portrait_path(benchmark.portraits, benchmark.protocol.clips[index]))
        changed = not np.array_equal(read_image(job.image), portrait)
    if changed:
        raise InputError(
            f"'{job.output}' was generated by another model, with other settings or of another portrait; choose "
            "another --output",
            code=ErrorCode.output_exists,
            field="--output",
            value=str(job.output),
        )
    return True
