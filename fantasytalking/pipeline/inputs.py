"""Sounds and drivers as the pipeline takes them: paths, or what was read from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.encoders.expression import ExpressionEncoder
from fantasytalking.encoders.wav2vec import WAV2VEC_SAMPLE_RATE
from fantasytalking.pipeline.control_checks import check_audio_supported, check_driving_supported
from fantasytalking.pipeline.driving_video import encode_driving_video
from fantasytalking.pipeline.speakers import DrivingExpression

if TYPE_CHECKING:
    from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline

AudioInput = NDArray[np.float32] | str | Path
DrivingInput = DrivingExpression | str | Path


def load_audio_inputs(
    pipe: "FantasyTalkingPipeline", audio: AudioInput | Sequence[AudioInput] | None
) -> tuple[NDArray[np.float32], ...]:
    """Mono samples at 16 kHz of every sound.

    Raises:
        InputError: a file that is no sound, or a model that cannot hear.
    """
    given = [] if audio is None else [audio] if isinstance(audio, np.ndarray | str | Path) else list(audio)
    if given:
        check_audio_supported(pipe.trained_modules)
    return tuple(
        sound if isinstance(sound, np.ndarray) else media.read_audio(sound, sample_rate=WAV2VEC_SAMPLE_RATE)
        for sound in given
    )


def load_driving_inputs(
    pipe: "FantasyTalkingPipeline", driving_video: DrivingInput | Sequence[DrivingInput], fps: float
) -> tuple[DrivingExpression, ...]:
    """The drivers, at the rate of the video that is made.

    Raises:
        InputError: a file that is no driver, or a model that cannot be driven.
    """
    given = [driving_video] if isinstance(driving_video, DrivingExpression | str | Path) else list(driving_video)
    if not given:
        return ()
    are_ready = all(isinstance(one, DrivingExpression) for one in given)
    check_driving_supported(pipe.trained_modules, are_ready or pipe.expression_encoder_path is not None)
    encoder = None
    if not are_ready and pipe.expression_encoder_path is not None:
        encoder = ExpressionEncoder.from_pretrained(pipe.expression_encoder_path)

    def read(one: DrivingInput) -> DrivingExpression:
        if isinstance(one, DrivingExpression):
            return one
        assert encoder is not None, "check_drive has checked it"
        return encode_driving_video(one, encoder, fps)

    return tuple(map(read, given))
