"""A frozen benchmark in, one video a clip out: what scripts/generate_benchmark.py does once its options are read.

Every clip's first frame and sound are written beside the videos, so that the record of each video can be replayed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol as Interface

import numpy as np
from tqdm import tqdm

from fantasytalking import media
from fantasytalking.errors import InputError
from fantasytalking.evaluation.protocol import Protocol, ProtocolClip
from fantasytalking.files import written_whole
from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline
from fantasytalking.pipeline.run import SOUND_RATE, Job, Workplace, load_pipeline, make_video, workplace
from fantasytalking.pipeline.settings import InferConfig

GIVEN = "given"
"""Folder of first frames and sounds, below the videos."""
NAMES_SHOWN = 3


class Processes(Interface):
    """What accelerate's PartialState tells of the processes of a run."""

    process_index: int
    num_processes: int


@dataclass(frozen=True)
class Batch:
    """A benchmark to be generated."""

    protocol: Protocol
    references: Path
    """Folder of the real videos that the protocol names."""
    output: Path
    """NAME.mp4 and NAME.json of every clip, and what they were made from in given/."""
    config: InferConfig
    """The seed of clip n is `config.seed` + n; the picture is taken as the protocol crops it."""

    def job(self, number: int) -> Job:
        """The video of clip `number`."""
        clip = self.protocol.clips[number]
        config = replace(self.config, seed=self.config.seed + number, fps=self.protocol.fps, least_face=0.0)
        image, audio = (self.output / GIVEN / f"{clip.name}{suffix}" for suffix in (".png", ".wav"))
        return Job(config, image, audio, self.output / f"{clip.name}.mp4")


def make_batch(batch: Batch, processes: Processes) -> int:
    """Makes this process's share of the videos that are not there yet; gives how many clips that share has.

    Raises:
        InputError: the model or a reference is missing; or, once all others were made, clips could not be used.
    """
    place = workplace(batch.config)
    _check_references(batch.protocol, batch.references)
    pipe: FantasyTalkingPipeline | None = None
    share = range(processes.process_index, len(batch.protocol.clips), processes.num_processes)
    refused: list[str] = []
    for number in tqdm(share, desc="videos", unit=" clips", dynamic_ncols=True, disable=processes.process_index > 0):
        job = batch.job(number)
        if _is_made(job):
            continue
        if pipe is None:
            pipe = load_pipeline(batch.config, place.weights, place.device)
            pipe.set_progress_bar_config(disable=True)
        reason = _make(batch, number, job, place, pipe)
        if reason:
            refused.append(f"{batch.protocol.clips[number].name} ({reason})")
    if refused:
        shown = "; ".join(refused[:NAMES_SHOWN])
        raise InputError(f"{len(refused)} of {len(share)} clips could not be made: {shown}")
    return len(share)


def _make(batch: Batch, number: int, job: Job, place: Workplace, pipe: FantasyTalkingPipeline) -> str:
    """Makes one video; gives why it could not be made, or nothing."""
    try:
        _write_given(batch.protocol, batch.protocol.clips[number], batch.references, job)
        make_video(replace(job, config=replace(job.config, note="")), place, lambda: pipe)
    except InputError as error:
        return str(error)
    return ""


def _write_given(protocol: Protocol, clip: ProtocolClip, references: Path, job: Job) -> None:
    """The reference's first frame, as the protocol crops it, and its sound, as long as the clip."""
    real = protocol.reference(clip, references)
    length = protocol.duration(clip)
    sound = media.read_audio(references / clip.video, sample_rate=SOUND_RATE, start=clip.start, duration=length)
    samples = np.zeros(round(length * SOUND_RATE), dtype=np.float32)
    samples[: len(sound)] = sound
    job.image.parent.mkdir(parents=True, exist_ok=True)
    media.write_image(job.image, real.frames[0])
    with written_whole(job.audio) as temporary:
        media.write_wave(temporary, samples, SOUND_RATE)


def _is_made(job: Job) -> bool:
    """The record is the last to be put in place."""
    return job.output.is_file() and job.output.with_suffix(".json").is_file()


def _check_references(protocol: Protocol, references: Path) -> None:
    if not references.is_dir():
        raise InputError(f"references '{references}' is not a folder; give the data set's")
    missing: Sequence[str] = [clip.video for clip in protocol.clips if not (references / clip.video).is_file()]
    if missing:
        shown = ", ".join(missing[:NAMES_SHOWN])
        raise InputError(f"{len(missing)} of {len(protocol.clips)} references are not in '{references}': {shown}")
