"""The model, loaded once, and the videos that it makes one after another."""

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
from fantasytalking.common.errors import InputError
from fantasytalking.inference.generate import generate_video
from fantasytalking.inference.job import GenerationJob
from fantasytalking.inference.model_sources import load_pipeline, resolve_model
from fantasytalking.inference.stream import stream_video
from fantasytalking.perception.mouth_curve import MouthCurve, mouth_curve
from fantasytalking.pipeline.config import InferConfig
from fantasytalking.pipeline.generation_plan import resolve_num_inference_steps

MAX_KEPT_VIDEOS = 50
"""Videos that stay in the folder."""
OUTPUT_FOLDER_PREFIX = "made-"
"""Beginning of the names of the folders that are the page's own."""
CURVE_SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class GenerationResult:
    """What came of a request."""

    video: Path
    record: Path
    summary: str
    mouth_curve: MouthCurve


class GenerationService:
    """Makes videos, one at a time.

    Args:
        config: of the model, and what requests leave as it is.
        output_folder: every video gets a folder of its own in it, with what it was made from and its record; the last
            `KEPT` stay.
        max_seconds: of sounds and drivers, for one video.

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
        """Whether videos can drive the faces."""
        return "expression" in self.trained_modules and self._model.facts.has_expression_encoder

    def generate(
        self,
        request: PageRequest,
        on_progress: Callable[[str, float], object],
        on_frame: Callable[[float, NDArray[np.uint8]], object] = lambda start, frame: None,
    ) -> GenerationResult:
        """Makes a video and measures its mouth. What `on_progress` or `on_frame` raise ends it, and nothing of it
        stays.

        Args:
            on_progress: as of `fantasytalking.inference.generate.generate_video`.
            on_frame: given the time in seconds and (H, W, 3) of every frame of a request that streams.

        Raises:
            InputError: anything in the request that cannot be used.
        """
        config = request.to_config(self.config, self.max_seconds)
        given = request.files()
        with self._lock, ExitStack() as failed:
            own = self._make_video_folder()
            failed.callback(shutil.rmtree, own, ignore_errors=True)
            job = _build_job(config, given, own)
            whole = bool(job.driving_videos) or (job.is_multi_speaker and self._separates_speakers)
            place, pipeline = (self._model, self._pipeline) if whole else self._audio_only
            # A step cache, left in the middle, would take this video's features for the next one's.
            failed.callback(pipeline.maybe_free_model_hooks)
            try:
                if config.stream:
                    line = stream_video(job, place, lambda: pipeline, on_progress, on_frame)
                else:
                    line = generate_video(job, place, lambda: pipeline, on_progress)
            except InputError as error:
                raise InputError(str(error).replace(f"{own}/", "")) from error  # nobody there knows the folder
            on_progress("measure", 0.0)
            made = GenerationResult(job.output, job.output.with_suffix(".json"), line, _measure_mouth(job.output))
            failed.pop_all()
            self._remove_old_videos()
        return made

    def _make_video_folder(self) -> Path:
        own = self.output_folder / f"{OUTPUT_FOLDER_PREFIX}{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}"
        try:
            own.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"cannot write '{own}': {error.strerror}; start with another --output") from error
        return own

    def _remove_old_videos(self) -> None:
        """Removes the oldest folders; their names begin with the time."""
        for old in sorted(self.output_folder.glob(f"{OUTPUT_FOLDER_PREFIX}*"))[:-MAX_KEPT_VIDEOS]:
            shutil.rmtree(old, ignore_errors=True)


def _build_job(config: InferConfig, files: RequestFiles, folder: Path) -> GenerationJob:
    """The video of a request in its own folder, to which what it is made from is copied."""

    def copied(paths: tuple[Path, ...], name: str) -> tuple[Path, ...]:
        names = [name if number == 1 else f"{name}_{number}" for number in range(1, len(paths) + 1)]
        return tuple(_copy_input(path, folder, name) for path, name in zip(paths, names, strict=True))

    (portrait,) = copied((files.portrait,), "portrait")
    sounds, drivers = copied(files.audio_paths, "sound"), copied(files.driving_videos, "driver")
    return GenerationJob(config, portrait, sounds, folder / "video.mp4", driving_videos=drivers)


def _copy_input(source: Path, folder: Path, name: str) -> Path:
    """A copy beside the video, so that the record can be replayed when the upload is gone."""
    suffix = "".join(letter for letter in source.suffix if letter.isalnum())[:8]
    return shutil.copyfile(source, folder / f"{name}.{suffix or 'bin'}")


def _measure_mouth(video: Path) -> MouthCurve:
    silence = np.zeros(CURVE_SAMPLE_RATE, dtype=np.float32)
    sound = media.read_audio(video, sample_rate=CURVE_SAMPLE_RATE) if media.probe(video).has_audio else silence
    return mouth_curve(media.iter_frames(video, fps=None), sound, CURVE_SAMPLE_RATE)
