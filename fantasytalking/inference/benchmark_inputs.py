"""Writes the inputs of each benchmark clip (portrait, audio, driving videos) beside its video, for reproduction."""

from pathlib import Path

import numpy as np

from fantasytalking import media
from fantasytalking.common.files import atomic_write
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol, ProtocolClip, verify_references
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.inference.job import GenerationJob
from fantasytalking.inference.video_outputs import OUTPUT_SAMPLE_RATE

INPUTS_FOLDER = "given"
"""Folder of portraits, audio and driving videos, below the videos."""
DRIVING_VIDEO_CRF = 8
"""Quality of driving videos (x264 CRF): visually lossless for the expression encoder."""


def input_paths(clip: ProtocolClip, output: Path) -> tuple[Path, tuple[Path, ...], tuple[Path, ...]]:
    """Returns the paths of portrait, audio and driving videos of a clip."""
    folder = output / INPUTS_FOLDER
    driving_videos = tuple(folder / f"{clip.name}.driver_{index}.mp4" for index in range(len(clip.drivers)))
    audio_paths = () if driving_videos else (folder / f"{clip.name}.wav",)
    return folder / f"{clip.name}.png", audio_paths, driving_videos


def portrait_path(portraits: Path, clip: ProtocolClip) -> Path:
    """Returns the file of a clip's portrait in a folder of portraits."""
    return portraits / f"{clip.name}.png"


def write_inputs(
    protocol: BenchmarkProtocol,
    clip: ProtocolClip,
    references: Path,
    job: GenerationJob,
    portraits: Path | None = None,
) -> None:
    """Writes the input files of a job, all as long as the clip.

    The image is NAME.png of `portraits`; without that folder it is the portrait or the reference's first frame, as the
    protocol crops it. Then follow the driving videos or, without them, the audio of the reference.

    Raises:
        InputError: a file is missing or cannot be read, or a reference is another than the protocol's.
    """
    reference = verify_references(clip, references)
    job.image.parent.mkdir(parents=True, exist_ok=True)
    if portraits is None:
        portrait = protocol.portrait_clip(clip, references) or protocol.reference_clip(clip, references)
        media.write_image(job.image, portrait.frames[0])
    else:
        media.write_image(job.image, media.read_image(portrait_path(portraits, clip)))
    for audio_path in job.audio_paths:
        _write_audio(reference, clip.start, protocol.duration(clip), audio_path)
    for driver, target in zip(clip.drivers, job.driving_videos, strict=True):
        driving = driver.driver_clip(references, clip.name, protocol.fps, clip.frames, protocol.height)
        _write_driving_video(driving, target)


def _write_audio(path: Path, start: float, duration: float, target: Path) -> None:
    audio = media.read_audio(path, sample_rate=OUTPUT_SAMPLE_RATE, start=start, duration=duration)
    samples = np.zeros(round(duration * OUTPUT_SAMPLE_RATE), dtype=np.float32)
    samples[: len(audio)] = audio
    with atomic_write(target) as temporary:
        media.write_wav(temporary, samples, OUTPUT_SAMPLE_RATE)


def _write_driving_video(clip: EvaluationClip, target: Path) -> None:
    height, width = (side - side % 2 for side in clip.frames.shape[1:3])
    media.write_video(target, clip.frames[:, :height, :width], fps=clip.fps, crf=DRIVING_VIDEO_CRF)
