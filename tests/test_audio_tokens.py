"""Identity of an audio encoder: what counts as the same, and the times of tokens."""

from dataclasses import replace

import numpy as np
import pytest

from fantasytalking.audio_tokens import WAV2VEC2_TIMING, AudioEncoderSpec, TokenTiming, check_same_encoder
from fantasytalking.common.errors import ErrorCode
from tests.helpers.errors import raises_input_error

KNOWN = AudioEncoderSpec("wav2vec2", 768, weights=(0.0123, -0.5, 2e-3))


def test_centers_of_wav2vec2s_tokens() -> None:
    assert np.allclose(WAV2VEC2_TIMING.centers(3), [200 / 16000, 520 / 16000, 840 / 16000])


def test_the_description_survives_json() -> None:
    assert AudioEncoderSpec.from_dict(KNOWN.to_dict(), "here") == KNOWN


def test_half_precision_and_unknown_weights_are_the_same_encoder() -> None:
    rounded = replace(KNOWN, weights=tuple(weight * 1.004 for weight in KNOWN.weights))
    for found in (KNOWN, rounded, AudioEncoderSpec.unrecorded(768)):
        check_same_encoder(found, KNOWN, "this is", "use that")
        check_same_encoder(KNOWN, found, "this is", "use that")


@pytest.mark.parametrize(
    ("found", "value"),
    [
        (replace(KNOWN, kind="hubert"), "hubert"),
        (replace(KNOWN, dim=1024), 1024),
        (replace(KNOWN, timing=TokenTiming(25.0, 0.0125)), (25.0, 0.0125)),
        (replace(KNOWN, weights=(0.0123, -0.5, 3e-3)), (0.0123, -0.5, 3e-3)),
        (replace(KNOWN, weights=(0.0123, -0.5)), (0.0123, -0.5)),
    ],
)
def test_another_encoder_is_refused_in_one_line(found: AudioEncoderSpec, value: object) -> None:
    with raises_input_error(ErrorCode.conflict, "audio_encoder", value) as error:
        check_same_encoder(found, KNOWN, "this is", "use that")
    assert "\n" not in str(error.value)
