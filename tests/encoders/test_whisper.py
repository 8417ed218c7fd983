"""Whisper's encoder: windows of long audio, padding, and memory."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

from fantasytalking.encoders.whisper import WhisperAudioEncoder, WhisperSpeechEncoder
from tests.helpers.tiny_audio_encoders import tiny_whisper


@pytest.fixture(scope="module")
def encoder() -> WhisperAudioEncoder:
    """Reads 4 s at a time, of which the middle 3 s are kept."""
    torch.manual_seed(0)
    model = WhisperSpeechEncoder(tiny_whisper(16, seconds=4).config)
    return WhisperAudioEncoder(model.eval(), WhisperFeatureExtractor(chunk_length=4), context_seconds=0.5)


def speech(seconds: float) -> NDArray[np.float32]:
    """Noise that grows from a whisper, so that the loudest part lies in the last window."""
    count = round(seconds * 16_000)
    return (np.random.default_rng(0).standard_normal(count) * np.linspace(1e-6, 0.5, count)).astype(np.float32)


@pytest.mark.parametrize(
    ("samples", "tokens"), [(1, 1), (320, 1), (321, 2), (51_840, 162), (64_000, 200), (64_001, 201)]
)
def test_tokens_are_those_whose_centers_lie_in_the_audio(
    encoder: WhisperAudioEncoder, samples: int, tokens: int
) -> None:
    assert encoder.token_count(samples) == tokens == len(encoder.encode(speech(samples / 16_000)))


def test_silence_after_the_audio_is_padding(encoder: WhisperAudioEncoder) -> None:
    samples = speech(1.0)
    padded = encoder.encode(np.pad(samples, (0, 32_000)))
    torch.testing.assert_close(encoder.encode(samples), padded[:50])


def test_log_mel_values_of_windows_are_those_of_one_pass(
    encoder: WhisperAudioEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = speech(9.0)
    mels: list[torch.Tensor] = []

    def forward(input_features: torch.Tensor) -> object:
        mels.append(input_features)
        return original(input_features)

    original = encoder.model.forward
    monkeypatch.setattr(encoder.model, "forward", forward)
    assert encoder.encode(samples).shape == (450, 16)
    assert [mel.shape for mel in mels] == [(1, 80, 400)] * 3, "no pass is longer than a window"
    whole = WhisperFeatureExtractor(chunk_length=9)(samples, sampling_rate=16_000, return_tensors="pt").input_features
    for number, mel in enumerate(mels):
        first, last = max(0, 150 * number - 25), min(450, 150 * number + 175)  # tokens of two mel frames
        inner = slice(2, 2 * (last - first) - 2)  # the spectrogram reflects the audio at its ends
        expected = whole[:, :, 2 * first :][:, :, inner]
        torch.testing.assert_close(mel[:, :, inner], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("token", [0, 149, 150, 299, 300, 448])
def test_a_click_in_long_audio_is_in_its_token(encoder: WhisperAudioEncoder, token: int) -> None:
    samples = (np.random.default_rng(0).standard_normal(9 * 16_000) * 5e-3).astype(np.float32)
    clicked = samples.copy()
    clicked[320 * token] += 0.2
    difference = (encoder.encode(clicked) - encoder.encode(samples)).norm(dim=1)
    assert int(difference.argmax()) == token
