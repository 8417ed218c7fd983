"""What a benchmark's video is made from, written beside the videos, so that the record of each can be replayed."""

from pathlib import Path

import numpy as np

from fantasytalking import media
from fantasytalking.common.files import atomic_write
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol, ProtocolClip, verify_references
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.inference.generate import OUTPUT_SAMPLE_RATE
from fantasytalking.inference.job import GenerationJob

INPUTS_FOLDER = "given"
"""Folder of portraits, sounds and drivers, below the videos."""
DRIVING_VIDEO_CRF = 8
"""Of drivers' videos: nothing that an encoder of expressions could see is lost."""


def input_paths(clip: ProtocolClip, output: Path) -> tuple[Path, tuple[Path, ...], tuple[Path, ...]]:
    """The picture, the sounds and the drivers of a clip."""
    folder = output / INPUTS_FOLDER
    drivers = tuple(folder / f"{clip.name}.driver_{place}.mp4" for place in range(len(clip.drivers)))
    sounds = () if drivers else (folder / f"{clip.name}.wav",)
    return folder / f"{clip.name}.png", sounds, drivers


def write_inputs(protocol: BenchmarkProtocol, clip: ProtocolClip, references: Path, job: GenerationJob) -> None:
    """Writes what a job reads: the portrait or the reference's first frame, as the protocol crops it, and those who
    drive it, or else its sound, all as long as the clip."""
    path = verify_references(clip, references)
    shown = protocol.portrait_clip(clip, references) or protocol.reference_clip(clip, references)
    job.image.parent.mkdir(parents=True, exist_ok=True)
    media.write_image(job.image, shown.frames[0])
    for sound in job.audio_paths:
        _write_audio(path, clip.start, protocol.duration(clip), sound)
    for driver, target in zip(clip.drivers, job.driving_videos, strict=True):
        seen = driver.driver_clip(references, clip.name, protocol.fps, clip.frames, protocol.height)
        _write_driving_video(seen, target)


def _write_audio(path: Path, start: float, duration: float, target: Path) -> None:
    sound = media.read_audio(path, sample_rate=OUTPUT_SAMPLE_RATE, start=start, duration=duration)
    samples = np.zeros(round(duration * OUTPUT_SAMPLE_RATE), dtype=np.float32)
    samples[: len(sound)] = sound
    with atomic_write(target) as temporary:
        media.write_wav(temporary, samples, OUTPUT_SAMPLE_RATE)


def _write_driving_video(clip: EvaluationClip, target: Path) -> None:
    height, width = (side - side % 2 for side in clip.frames.shape[1:3])
    media.write_video(target, clip.frames[:, :height, :width], fps=clip.fps, crf=DRIVING_VIDEO_CRF)
