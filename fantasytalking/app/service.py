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
from fantasytalking.app.request import Given, Request
from fantasytalking.common.errors import InputError
from fantasytalking.inference.generate import make_video
from fantasytalking.inference.job import Job
from fantasytalking.inference.model_sources import load_pipeline, workplace
from fantasytalking.inference.stream import stream_video
from fantasytalking.perception.mouth_curve import MouthCurve, mouth_curve
from fantasytalking.pipeline.config import InferConfig
from fantasytalking.pipeline.distillation_limits import step_count

KEPT = 50
"""Videos that stay in the folder."""
MARK = "made-"
"""Beginning of the names of the folders that are the page's own."""
CURVE_RATE = 16_000


@dataclass(frozen=True)
class Made:
    """What came of a request."""

    video: Path
    record: Path
    line: str
    curve: MouthCurve


class Studio:
    """Makes videos, one at a time.

    Args:
        config: of the model, and what requests leave as it is.
        folder: every video gets a folder of its own in it, with what it was made from and its record; the last `KEPT`
            stay.
        most_seconds: of sounds and drivers, for one video.

    Raises:
        InputError: weights are missing or damaged.
    """

    def __init__(self, config: InferConfig, folder: Path, most_seconds: float) -> None:
        self.folder, self.most_seconds = folder, most_seconds
        self._place = workplace(config, driven=True)
        self.trained_modules = self._place.weights.trained_modules()
        self._pipeline = load_pipeline(config, self._place.weights, self._place.device)
        self._plain = (self._place, self._pipeline)
        weights = self._place.weights
        self._tells_voices_apart = weights.expression_changes_speech
        if weights.expression_changes_speech or weights.expression_changes_network:
            place = workplace(config)
            self._plain = (place, load_pipeline(config, place.weights, place.device))
        steps = step_count(self._pipeline.transformer.distillation, config.steps)
        self.config = replace(config, steps=steps)
        self._turn = threading.Lock()

    @property
    def can_be_driven(self) -> bool:
        """Whether videos can drive the faces."""
        return "expression" in self.trained_modules and self._place.weights.expression_encoder is not None

    def make(
        self,
        request: Request,
        progress: Callable[[str, float], object],
        show: Callable[[float, NDArray[np.uint8]], object] = lambda start, frame: None,
    ) -> Made:
        """Makes a video and measures its mouth. What `progress` or `show` raise ends it, and nothing of it stays.

        Args:
            progress: as of `fantasytalking.inference.generate.make_video`.
            show: given the time in seconds and (H, W, 3) of every frame of a request that streams.

        Raises:
            InputError: anything in the request that cannot be used.
        """
        config = request.config(self.config, self.most_seconds)
        given = request.files()
        with self._turn, ExitStack() as failed:
            own = self._new_folder()
            failed.callback(shutil.rmtree, own, ignore_errors=True)
            job = _job(config, given, own)
            whole = bool(job.drivers) or (job.several_speak and self._tells_voices_apart)
            place, pipeline = (self._place, self._pipeline) if whole else self._plain
            # A step cache, left in the middle, would take this video's features for the next one's.
            failed.callback(pipeline.maybe_free_model_hooks)
            try:
                if config.stream:
                    line = stream_video(job, place, lambda: pipeline, progress, show)
                else:
                    line = make_video(job, place, lambda: pipeline, progress)
            except InputError as error:
                raise InputError(str(error).replace(f"{own}/", "")) from error  # nobody there knows the folder
            progress("measure", 0.0)
            made = Made(job.output, job.output.with_suffix(".json"), line, _curve(job.output))
            failed.pop_all()
            self._tidy()
        return made

    def _new_folder(self) -> Path:
        own = self.folder / f"{MARK}{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}"
        try:
            own.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"cannot write '{own}': {error.strerror}; start with another --output") from error
        return own

    def _tidy(self) -> None:
        """Removes the oldest folders; their names begin with the time."""
        for old in sorted(self.folder.glob(f"{MARK}*"))[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def _job(config: InferConfig, given: Given, own: Path) -> Job:
    """The video of a request in its own folder, to which what it is made from is copied."""

    def copied(paths: tuple[Path, ...], name: str) -> tuple[Path, ...]:
        names = [name if number == 1 else f"{name}_{number}" for number in range(1, len(paths) + 1)]
        return tuple(_copied(path, own, name) for path, name in zip(paths, names, strict=True))

    (portrait,) = copied((given.portrait,), "portrait")
    sounds, drivers = copied(given.sounds, "sound"), copied(given.drivers, "driver")
    return Job(config, portrait, sounds, own / "video.mp4", drivers=drivers)


def _copied(source: Path, folder: Path, name: str) -> Path:
    """A copy beside the video, so that the record can be replayed when the upload is gone."""
    suffix = "".join(letter for letter in source.suffix if letter.isalnum())[:8]
    return shutil.copyfile(source, folder / f"{name}.{suffix or 'bin'}")


def _curve(video: Path) -> MouthCurve:
    silence = np.zeros(CURVE_RATE, dtype=np.float32)
    sound = media.read_audio(video, sample_rate=CURVE_RATE) if media.probe(video).has_audio else silence
    return mouth_curve(media.iter_frames(video, fps=None), sound, CURVE_RATE)
