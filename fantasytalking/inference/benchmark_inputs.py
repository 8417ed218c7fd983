"""What a benchmark's video is made from, written beside the videos, so that the record of each can be replayed."""

from pathlib import Path

import numpy as np

from fantasytalking import media
from fantasytalking.common.files import written_whole
from fantasytalking.evaluation.benchmark.protocol import Protocol, ProtocolClip, check_reference
from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.inference.generate import SOUND_RATE
from fantasytalking.inference.job import Job

GIVEN = "given"
"""Folder of portraits, sounds and drivers, below the videos."""
DRIVER_CRF = 8
"""Of drivers' videos: nothing that an encoder of expressions could see is lost."""


def given_paths(clip: ProtocolClip, output: Path) -> tuple[Path, tuple[Path, ...], tuple[Path, ...]]:
    """The picture, the sounds and the drivers of a clip."""
    folder = output / GIVEN
    drivers = tuple(folder / f"{clip.name}.driver_{place}.mp4" for place in range(len(clip.drivers)))
    sounds = () if drivers else (folder / f"{clip.name}.wav",)
    return folder / f"{clip.name}.png", sounds, drivers


def write_given(protocol: Protocol, clip: ProtocolClip, references: Path, job: Job) -> None:
    """Writes what a job reads: the portrait or the reference's first frame, as the protocol crops it, and those who
    drive it, or else its sound, all as long as the clip."""
    path = check_reference(clip, references)
    shown = protocol.portrait(clip, references) or protocol.reference(clip, references)
    job.image.parent.mkdir(parents=True, exist_ok=True)
    media.write_image(job.image, shown.frames[0])
    for sound in job.sounds:
        _write_sound(path, clip.start, protocol.duration(clip), sound)
    for driver, target in zip(clip.drivers, job.drivers, strict=True):
        seen = driver.performance(references, clip.name, protocol.fps, clip.frames, protocol.height)
        _write_driver(seen, target)


def _write_sound(path: Path, start: float, length: float, target: Path) -> None:
    sound = media.read_audio(path, sample_rate=SOUND_RATE, start=start, duration=length)
    samples = np.zeros(round(length * SOUND_RATE), dtype=np.float32)
    samples[: len(sound)] = sound
    with written_whole(target) as temporary:
        media.write_wave(temporary, samples, SOUND_RATE)


def _write_driver(driver: Clip, target: Path) -> None:
    height, width = (side - side % 2 for side in driver.frames.shape[1:3])
    media.write_video(target, driver.frames[:, :height, :width], fps=driver.fps, crf=DRIVER_CRF)
