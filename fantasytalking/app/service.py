"""Loads the model once and generates the requested videos one after another."""

import shutil
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.app.request import PageRequest, RequestFiles
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.inference.generate import generate_video
from fantasytalking.inference.job import GenerationJob
from fantasytalking.inference.model_sources import load_pipeline, resolve_model
from fantasytalking.inference.stream import stream_video
from fantasytalking.perception.mouth_curve import MouthCurve, mouth_curve
from fantasytalking.pipeline.config import InferConfig
from fantasytalking.pipeline.generation_plan import resolve_num_inference_steps

MAX_KEPT_VIDEOS = 50
"""Number of videos kept in the output folder; older ones are removed."""
OUTPUT_FOLDER_PREFIX = "made-"
"""Prefix of the folders that the page creates and may remove."""
CURVE_SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class GenerationResult:
    """The outputs of a request."""

    video: Path
    record: Path
    summary: str
    mouth_curve: MouthCurve


class GenerationService:
    """Generates videos, one at a time.

    Args:
        config: configuration of the model, and defaults for what requests do not set.
        output_folder: every video gets a folder of its own in it, with its inputs and its record; the last
            `MAX_KEPT_VIDEOS` are kept.
        max_seconds: longest video, in seconds.

    Raises:
        InputError: weights are missing or damaged.
    """

    def __init__(self, config: InferConfig, output_folder: Path, max_seconds: float) -> None:
        self.output_folder, self.max_seconds = output_folder, max_seconds
        self._model = resolve_model(config, has_driving_video=True)
        self.trained_modules = self._model.facts.trained_modules
        self._pipeline = load_pipeline(config, self._model)
        self._audio_only = (self._model, self._pipeline)
        stored = self._model.stored
        self._separates_speakers = stored.expression_adapter_affects_speech
        if stored.expression_adapter_affects_speech or stored.expression_adapter_affects_base:
            audio_model = resolve_model(config)
            self._audio_only = (audio_model, load_pipeline(config, audio_model))
        steps = resolve_num_inference_steps(self._pipeline.transformer.distillation, config.num_inference_steps)
        self.config = replace(config, num_inference_steps=steps)
        self._lock = threading.Lock()

    @property
    def supports_driving(self) -> bool:
        """Whether driving videos can be used."""
        return "expression" in self.trained_modules and self._model.facts.has_expression_encoder

    def generate(
        self,
        request: PageRequest,
        on_progress: Callable[[str, float], object],
        on_frame: Callable[[float, NDArray[np.uint8]], object] = lambda start, frame: None,
    ) -> GenerationResult:
        """Generates a video and measures its mouth opening.

        An exception of `on_progress` or `on_frame` stops the generation and removes its outputs.

        Args:
            request: the controls of the page.
            on_progress: as in `fantasytalking.inference.generate.generate_video`.
            on_frame: called with the time in seconds and the image (H, W, 3) of every frame of a streaming request.

        Raises:
            InputError: something in the request cannot be used.
        """
        config = request.to_config(self.config, self.max_seconds)
        files = request.files()
        with self._lock, ExitStack() as failed:
            own = self._make_video_folder()
            failed.callback(shutil.rmtree, own, ignore_errors=True)
            job = _build_job(config, files, own)
            whole = bool(job.driving_videos) or (job.is_multi_speaker and self._separates_speakers)
            model, pipeline = (self._model, self._pipeline) if whole else self._audio_only
            # A step cache, left in the middle, would take this video's features for the next one's.
            failed.callback(pipeline.maybe_free_model_hooks)
            try:
                if config.stream:
                    line = stream_video(job, model, lambda: pipeline, on_progress, on_frame)
                else:
                    line = generate_video(job, model, lambda: pipeline, on_progress)
            except InputError as error:
                message = str(error).replace(f"{own}/", "")  # the folder means nothing to a visitor
                raise InputError(message, code=error.code, field=error.field, value=error.value) from error
            on_progress("measure", 0.0)
            result = GenerationResult(job.output, job.output.with_suffix(".json"), line, _measure_mouth(job.output))
            failed.pop_all()
            self._remove_old_videos()
        return result

    def _make_video_folder(self) -> Path:
        own = self.output_folder / f"{OUTPUT_FOLDER_PREFIX}{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}"
        try:
            own.mkdir(parents=True)
        except OSError as error:
            raise InputError(
                f"cannot write '{own}': {error.strerror}; start with another --output",
                code=ErrorCode.output_exists,
                field="--output",
                value=str(own),
            ) from error
        return own

    def _remove_old_videos(self) -> None:
        """Removes the oldest folders; their names sort by time."""
        for old in sorted(self.output_folder.glob(f"{OUTPUT_FOLDER_PREFIX}*"))[:-MAX_KEPT_VIDEOS]:
            shutil.rmtree(old, ignore_errors=True)


def _build_job(config: InferConfig, files: RequestFiles, folder: Path) -> GenerationJob:
    """Returns the job of a request, with its inputs copied into its folder."""

    def copied(paths: tuple[Path, ...], name: str) -> tuple[Path, ...]:
        names = [name if number == 1 else f"{name}_{number}" for number in range(1, len(paths) + 1)]
        return tuple(_copy_input(path, folder, name) for path, name in zip(paths, names, strict=True))

    (portrait,) = copied((files.portrait,), "portrait")
    audio_paths, driving_videos = copied(files.audio_paths, "sound"), copied(files.driving_videos, "driver")
    return GenerationJob(config, portrait, audio_paths, folder / "video.mp4", driving_videos=driving_videos)


def _copy_input(source: Path, folder: Path, name: str) -> Path:
    """Copies an upload next to the video, so that the record can be reproduced once the upload is gone."""
    suffix = "".join(letter for letter in source.suffix if letter.isalnum())[:8]
    return shutil.copyfile(source, folder / f"{name}.{suffix or 'bin'}")


def _measure_mouth(video: Path) -> MouthCurve:
    silence = np.zeros(CURVE_SAMPLE_RATE, dtype=np.float32)
    audio = media.read_audio(video, sample_rate=CURVE_SAMPLE_RATE) if media.probe(video).has_audio else silence
    return mouth_curve(media.iter_frames(video, fps=None), audio, CURVE_SAMPLE_RATE)
