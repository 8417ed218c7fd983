"""Loads the model once and generates the requested videos one after another."""

import ctypes
import json
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.app.estimate import PhaseTimer, SpeedModel
from fantasytalking.app.given_files import check_sound, page_words, prepare_people, video_seconds
from fantasytalking.app.logged_notes import logged_notes
from fantasytalking.app.request import AUTO_SIZE, PageRequest, RequestFiles
from fantasytalking.app.uploads import copy_upload, is_regular_file
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.generate import generate_video
from fantasytalking.inference.job import GenerationJob
from fantasytalking.inference.model_sources import load_pipeline, resolve_model
from fantasytalking.inference.stream import stream_video
from fantasytalking.perception.mouth_curve import MouthCurve, mouth_curve
from fantasytalking.pipeline.generation_plan import resolve_num_inference_steps

MAX_KEPT_VIDEOS = 50
"""Number of videos kept in the output folder; older ones are removed."""
OUTPUT_FOLDER_PREFIX = "made-"
"""Prefix of the folders that the page creates and may remove."""
NUMBERED_FOLDER = re.compile(rf"{OUTPUT_FOLDER_PREFIX}(\d{{6,}})-[0-9a-f]{{32}}")
"""A folder of the page: its number counts up, whatever the clock does."""
COST_STEPS = 50
"""A video may cost as many steps times frames as the longest one at the default frame rate and this many steps."""
WARM_UP_STEPS, WARM_UP_SECONDS = 2, 1.3
"""The video from which the speed of this machine is known before the first one was asked for."""
VIDEO_FILE = "video.mp4"
CURVE_SAMPLE_RATE = 16_000


class ServerStoppedError(Exception):
    """Raised inside the generation once the server stops."""


@dataclass(frozen=True)
class GenerationResult:
    """The outputs of a request."""

    video: Path
    record: Path
    summary: str
    mouth_curve: MouthCurve
    warnings: tuple[str, ...] = ()
    """About a portrait that the model cannot animate well, and about inputs that were not read as they are."""


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
        self.face_ranges = self._model.facts.face_ranges
        self._pipeline = load_pipeline(config, self._model)
        self._audio_only = (self._model, self._pipeline)
        stored = self._model.stored
        self._separates_speakers = stored.expression_adapter_affects_speech
        if stored.expression_adapter_affects_speech or stored.expression_adapter_affects_base:
            audio_model = resolve_model(config)
            self._audio_only = (audio_model, load_pipeline(config, audio_model))
        steps = resolve_num_inference_steps(self._pipeline.transformer.distillation, config.num_inference_steps)
        self.config = replace(config, num_inference_steps=steps)
        self.max_cost = max_seconds * config.fps * max(COST_STEPS, steps)
        self._lock = threading.Lock()
        self.speed = SpeedModel()
        self._stopped = threading.Event()
        self._unfinished: Path | None = None

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
        on_progress, on_frame = self._until_stopped(on_progress), self._until_stopped(on_frame)
        with self._lock, ExitStack() as failed:
            failed.callback(_return_free_memory)
            timer = PhaseTimer(on_progress)
            timer.report("read", 0.0)
            self._check_cost(config, files)
            own = self._unfinished = self._make_video_folder()
            failed.callback(self._remove_unfinished)
            job = _build_job(config, files, own)
            if job.num_faces > 1 and request.size == AUTO_SIZE:
                config, _ = prepare_people(config, job.image, job.num_faces, self.face_ranges)
                job = replace(job, config=config)
            warnings: list[str] = []
            whole = bool(job.driving_videos) or (job.is_multi_speaker and self._separates_speakers)
            model, pipeline = (self._model, self._pipeline) if whole else self._audio_only
            # A step cache, left in the middle, would take this video's features for the next one's.
            failed.callback(pipeline.maybe_free_model_hooks)
            try:
                with logged_notes() as notes:
                    if config.stream:
                        stream_video(job, model, lambda: pipeline, timer.report, on_frame, on_warning=warnings.append)
                    else:
                        generate_video(job, model, lambda: pipeline, timer.report, on_warning=warnings.append)
            except InputError as error:
                message = _visitor_words(str(error), job, files)
                raise InputError(message, code=error.code, field=error.field, value=error.value) from error
            timer.report("measure", 0.0)
            curve = _measure_mouth(job.output)
            timer.report("measure", 1.0)
            record = job.output.with_suffix(".json")
            summary = self._finish(record, config, timer)
            warnings += [_visitor_words(note, job, files) for note in notes]
            result = GenerationResult(job.output, record, summary, curve, tuple(warnings))
            failed.pop_all()
            _return_free_memory()
            self._unfinished = None
            self._remove_old_videos(own)
        return result

    def warm_up(self, portrait: Path, audio: Path) -> None:
        """Generates a short video and removes it, so that the time of the first one can be estimated.

        Raises:
            ServerStoppedError: the server stops meanwhile.
        """
        seconds = min(WARM_UP_SECONDS, self.max_seconds)
        request = PageRequest.of_config(self.config, portrait, audio, WARM_UP_STEPS, seconds)
        shutil.rmtree(self.generate(request, lambda phase, fraction: None).video.parent)

    def videos_named(self, names: Sequence[object]) -> list[Path]:
        """Returns those of the videos with these names that are still there; what is no name is left out."""
        valid = [name for name in names if isinstance(name, str) and NUMBERED_FOLDER.fullmatch(name)]
        videos = [self.output_folder / name / VIDEO_FILE for name in valid]
        return [video for video in videos if is_regular_file(video)]

    def estimated_seconds(self, config: InferConfig, files: RequestFiles) -> float | None:
        """Returns the estimated seconds of work for a video; None: nothing was generated yet.

        Raises:
            InputError: an audio or a driving video cannot be read.
        """
        assert config.num_inference_steps is not None, "set by the page"
        return self.speed.seconds(config.num_inference_steps, self.video_seconds(config, files) * config.fps)

    def video_seconds(self, config: InferConfig, files: RequestFiles) -> float:
        """Returns the length of a video, by decoding: what a file declares about its length may be wrong.

        Raises:
            InputError: an audio or a driving video cannot be read.
        """
        assert config.max_seconds is not None, "set by the page"
        sounds = [check_sound(path, self.max_seconds).seconds for path in files.audio_paths]
        longest = max(sounds or [video_seconds(path, self.max_seconds) for path in files.driving_videos])
        return min(longest, config.max_seconds)

    def _check_cost(self, config: InferConfig, files: RequestFiles) -> None:
        """Checks steps x frames of a video against what the page allows.

        Raises:
            InputError: it is too much, or the audio or driving video cannot be read.
        """
        assert config.num_inference_steps is not None, "set by the page"
        seconds = self.video_seconds(config, files)
        cost = seconds * config.fps * config.num_inference_steps
        if cost > self.max_cost:
            raise InputError(
                f"{seconds:.1f} s at {config.fps:g} frames per second and {config.num_inference_steps} steps are "
                f"{cost:,.0f} steps times frames; this page generates up to {self.max_cost:,.0f}: choose fewer steps, "
                "fewer frames per second, or a shorter length",
                code=ErrorCode.out_of_range,
                field="num_inference_steps",
                value=config.num_inference_steps,
            )

    def _finish(self, record: Path, config: InferConfig, timer: PhaseTimer) -> str:
        """Learns the speed of a finished video and returns a line about it."""
        assert config.num_inference_steps is not None, "set by the page"
        made = json.loads(record.read_text(encoding="utf-8"))["result"]
        self.speed.observe(config.num_inference_steps, made["frames"], timer.denoising_seconds, timer.other_seconds)
        taken = timer.denoising_seconds + timer.other_seconds
        line = f"{made['seconds']:.1f} s, {made['width']} x {made['height']}, made in {taken:.0f} s"
        first = made.get("first_frame_after")
        return line if first is None else f"{line}, first frame after {first:.1f} s"

    def stop(self, patience: float) -> bool:
        """Ends the running generation at its next report and refuses further ones.

        Args:
            patience: seconds to wait for the end; after it, the outputs of the generation are removed all the same.

        Returns:
            whether it has ended.
        """
        self._stopped.set()
        has_ended = self._lock.acquire(timeout=patience)
        if not has_ended:
            self._remove_unfinished()
        return has_ended

    def _remove_unfinished(self) -> None:
        if self._unfinished is not None:
            shutil.rmtree(self._unfinished, ignore_errors=True)
        self._unfinished = None

    def _until_stopped(self, callback: Callable[..., object]) -> Callable[..., object]:
        def report(*values: Any) -> object:
            if self._stopped.is_set():
                raise ServerStoppedError("the server has stopped")
            return callback(*values)

        return report

    def _make_video_folder(self) -> Path:
        number = max((_folder_number(folder) for folder in self._video_folders()), default=0) + 1
        own = self.output_folder / f"{OUTPUT_FOLDER_PREFIX}{number:06d}-{uuid.uuid4().hex}"
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

    def _video_folders(self) -> list[Path]:
        """Returns the folders of all videos, the oldest first."""
        folders = self.output_folder.glob(f"{OUTPUT_FOLDER_PREFIX}*")
        return sorted(folders, key=lambda folder: (_folder_number(folder), folder.name))

    def _remove_old_videos(self, newest: Path) -> None:
        """Removes the oldest folders, never `newest`."""
        others = [folder for folder in self._video_folders() if folder != newest]
        for old in others[: -(MAX_KEPT_VIDEOS - 1)]:
            shutil.rmtree(old, ignore_errors=True)


def _folder_number(folder: Path) -> int:
    """Returns the number of a folder; 0: an earlier release made it, which named folders by the clock."""
    numbered = NUMBERED_FOLDER.fullmatch(folder.name)
    return int(numbered[1]) if numbered else 0


def _return_free_memory() -> None:
    """Returns freed memory to the system. The threads of face detection leave it scattered over glibc's arenas, which
    keep it: a fifth more after a hundred videos."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _build_job(config: InferConfig, files: RequestFiles, folder: Path) -> GenerationJob:
    """Returns the job of a request, with its inputs copied into its folder."""

    def copied(paths: tuple[Path, ...], name: str) -> tuple[Path, ...]:
        names = [name if number == 1 else f"{name}_{number}" for number in range(1, len(paths) + 1)]
        return tuple(_copy_input(path, folder, name) for path, name in zip(paths, names, strict=True))

    (portrait,) = copied((files.portrait,), "portrait")
    audio_paths, driving_videos = copied(files.audio_paths, "sound"), copied(files.driving_videos, "driver")
    return GenerationJob(config, portrait, audio_paths, folder / VIDEO_FILE, driving_videos=driving_videos)


def _visitor_words(message: str, job: GenerationJob, files: RequestFiles) -> str:
    """Returns a message in the page's words, in which files have the names that their visitor gave them."""
    copies = job.input_files
    originals = (files.portrait, *files.audio_paths, *files.driving_videos)
    message = message.replace(f"{job.output.parent}/", "")  # the folder means nothing to a visitor
    for copy, original in zip(copies, originals, strict=True):
        message = message.replace(f"'{copy.name}'", f"'{original.name}'")
    return page_words(message)


def _copy_input(source: Path, folder: Path, name: str) -> Path:
    """Copies an upload next to the video, so that the record can be reproduced once the upload is gone."""
    suffix = "".join(letter for letter in source.suffix if letter.isalnum())[:8]
    return copy_upload(source, folder / f"{name}.{suffix or 'bin'}")


def _measure_mouth(video: Path) -> MouthCurve:
    silence = np.zeros(CURVE_SAMPLE_RATE, dtype=np.float32)
    audio = media.read_audio(video, sample_rate=CURVE_SAMPLE_RATE) if media.probe(video).has_audio else silence
    return mouth_curve(media.iter_frames(video, fps=None), audio, CURVE_SAMPLE_RATE)
