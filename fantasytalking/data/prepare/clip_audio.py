"""Reads the audio of a clip, and the speech of each of several people."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.audio_tokens import AUDIO_SAMPLE_RATE
from fantasytalking.common.errors import InputError
from fantasytalking.data.manifest import MAX_PEOPLE_PER_CLIP, ClipRejected, RejectionReason
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.data.prepare.plan import SceneClip

MULTI_SPEAKER_VIDEO = "video.mp4"
"""File name of videos beside which speech_0.wav, speech_1.wav, ... are the speech of its people from left to right."""
_LOUDNESS_SECONDS = 0.05
_LOUDNESS_PERCENTILE = 95
"""Percentile of the block levels that counts as the loudness of a clip."""


def read_clip_audio(clip: SceneClip, config: PreparationConfig, lag: float = 0.0) -> NDArray[np.float32]:
    """Reads the audio of the clip at 16 kHz, exactly as long as its frames.

    Args:
        clip: the clip.
        config: the settings.
        lag: seconds by which the audio is late; it is read from so much later on.

    Raises:
        ClipRejected: there is no audio, or it ends more than a frame early.
    """
    return _read_segment(clip.file.path, replace(clip, start=clip.start + lag), config)


def read_speaker_audio(clip: SceneClip, people: int, config: PreparationConfig) -> list[NDArray[np.float32]] | None:
    """Reads the speech of each person, from left to right, in the format of `read_clip_audio`.

    The speech of a person who only listens is silent.

    Args:
        clip: the clip.
        people: number of people in the video.
        config: the settings.

    Returns:
        One waveform per person; None if there are no speech files.

    Raises:
        ClipRejected: the number of speech files is not `people`, or one cannot be read or ends too early.
    """
    paths = speech_paths(clip.file.path)
    found = [path for path in paths if path.is_file()]
    if not found:
        return None
    if found != paths[:people]:
        names = ", ".join(path.name for path in found)
        raise ClipRejected(
            RejectionReason.SPEAKER_COUNT_MISMATCH, f"{people} people are visible, the speech files are {names}"
        )
    return [_read_segment(path, clip, config) for path in found]


def speech_paths(video: Path) -> list[Path]:
    """Returns the paths of the speech of a video's people, whether they exist or not; none if it cannot have them."""
    if video.name != MULTI_SPEAKER_VIDEO:
        return []
    return [video.with_name(f"speech_{number}.wav") for number in range(MAX_PEOPLE_PER_CLIP)]


def _read_segment(path: Path, clip: SceneClip, config: PreparationConfig) -> NDArray[np.float32]:
    """Reads a clip's segment of an audio file."""
    wanted = round(config.duration * AUDIO_SAMPLE_RATE)
    try:
        samples = media.read_audio(path, sample_rate=AUDIO_SAMPLE_RATE, start=clip.start, duration=config.duration)
    except InputError as error:
        raise ClipRejected(
            RejectionReason.NO_AUDIO, clip.file.error_detail(error).replace(str(path), path.name)
        ) from error
    if len(samples) < wanted - AUDIO_SAMPLE_RATE / config.fps:
        detail = f"{len(samples) / AUDIO_SAMPLE_RATE:.2f} s of audio for {config.duration:.2f} s of video"
        raise ClipRejected(RejectionReason.AUDIO_TOO_SHORT, detail)
    return np.pad(samples, (0, max(0, wanted - len(samples))))[:wanted]


def clip_loudness_db(samples: NDArray[np.float32]) -> float:
    """Returns the level, in dB of full scale, that the loudest twentieth of the audio reaches; -120 for silence."""
    length = round(_LOUDNESS_SECONDS * AUDIO_SAMPLE_RATE)
    blocks = samples[: len(samples) // length * length].reshape(-1, length).astype(np.float64)
    powers = blocks.var(axis=1) if len(blocks) else np.zeros(1)
    return float(10 * np.log10(np.percentile(powers, _LOUDNESS_PERCENTILE) + 1e-12))
