"""Sounds and drivers as the pipeline takes them: paths, or what was read from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.encoders.expression import ExpressionEncoder
from fantasytalking.encoders.wav2vec import SAMPLE_RATE
from fantasytalking.pipeline.control_checks import check_drive, check_speech
from fantasytalking.pipeline.driving_video import read_driver
from fantasytalking.pipeline.speakers import Driver

if TYPE_CHECKING:
    from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline

AudioInput = NDArray[np.float32] | str | Path
DriveInput = Driver | str | Path


def read_sounds(
    pipe: "FantasyTalkingPipeline", audio: AudioInput | Sequence[AudioInput] | None
) -> tuple[NDArray[np.float32], ...]:
    """Mono samples at 16 kHz of every sound.

    Raises:
        InputError: a file that is no sound, or a model that cannot hear.
    """
    given = [] if audio is None else [audio] if isinstance(audio, np.ndarray | str | Path) else list(audio)
    if given:
        check_speech(pipe.trained_modules)
    return tuple(
        sound if isinstance(sound, np.ndarray) else media.read_audio(sound, sample_rate=SAMPLE_RATE) for sound in given
    )


def read_drivers(
    pipe: "FantasyTalkingPipeline", drive: DriveInput | Sequence[DriveInput], fps: float
) -> tuple[Driver, ...]:
    """The drivers, at the rate of the video that is made.

    Raises:
        InputError: a file that is no driver, or a model that cannot be driven.
    """
    given = [drive] if isinstance(drive, Driver | str | Path) else list(drive)
    if not given:
        return ()
    are_ready = all(isinstance(one, Driver) for one in given)
    check_drive(pipe.trained_modules, are_ready or pipe.expression_network is not None)
    encoder = None
    if not are_ready and pipe.expression_network is not None:
        encoder = ExpressionEncoder.from_pretrained(pipe.expression_network)

    def read(one: DriveInput) -> Driver:
        if isinstance(one, Driver):
            return one
        assert encoder is not None, "check_drive has checked it"
        return read_driver(one, encoder, fps)

    return tuple(map(read, given))
