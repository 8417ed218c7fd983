"""wav2vec2 features: one pass and windows, times, lengths, and errors."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fantasytalking.audio_tokens import AUDIO_SAMPLE_RATE
from fantasytalking.common.errors import ErrorCode
from fantasytalking.encoders.audio_loading import load_audio_encoder
from fantasytalking.encoders.wav2vec import Wav2Vec2AudioEncoder, token_count, token_times
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_components import AUDIO_DIM


@pytest.fixture(scope="module")
def encoder(components: Path) -> Wav2Vec2AudioEncoder:
    return load_audio_encoder(components, subfolder="audio_encoder")


def sound(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """Noise whose loudness and offset change, so that statistics of a part are not those of the whole."""
    count = round(seconds * AUDIO_SAMPLE_RATE)
    loudness = np.linspace(0.05, 0.8, count)
    noise = np.random.default_rng(seed).standard_normal(count) * loudness + 0.1
    return np.clip(noise, -1, 1).astype(np.float32)


def test_features_equal_the_model_on_normalized_audio(encoder: Wav2Vec2AudioEncoder) -> None:
    samples = sound(1.0)
    features = encoder.encode(samples)
    normalized = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
    with torch.no_grad():
        expected = encoder.model(torch.from_numpy(normalized)[None]).last_hidden_state[0]
    assert features.shape == (49, AUDIO_DIM) == (token_count(len(samples)), encoder.dim)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("samples", [400, 719, 720, 16_000, 16_239, 80_123])
def test_token_count_is_the_models(encoder: Wav2Vec2AudioEncoder, samples: int) -> None:
    assert (
        len(encoder.encode(sound(samples / AUDIO_SAMPLE_RATE)))
        == token_count(samples)
        == len(token_times(token_count(samples)))
    )


def test_token_times_are_the_centers_of_the_receptive_fields(encoder: Wav2Vec2AudioEncoder) -> None:
    times = token_times(20)
    assert times[0] == 0.0125 and np.allclose(np.diff(times), 0.02)
    samples = sound(0.5)
    unit = (torch.zeros(32, 1), torch.ones(32, 1))
    for token in (0, 7):
        first, last = round(times[token] * AUDIO_SAMPLE_RATE) - 200, round(times[token] * AUDIO_SAMPLE_RATE) + 200
        outside = torch.from_numpy(samples).clone().requires_grad_()
        convolved = encoder._convolve(outside, unit)
        (gradient,) = torch.autograd.grad(convolved[0, :, token].sum(), outside)
        used = gradient.nonzero().flatten()
        assert used.min() >= first and used.max() < last


def test_convolution_in_windows_equals_one_pass(encoder: Wav2Vec2AudioEncoder) -> None:
    samples = torch.from_numpy(sound(6.0))
    whole = encoder.model.feature_extractor(samples[None])
    short = Wav2Vec2AudioEncoder(encoder.model, encoder.feature_extractor, window_seconds=1.0, context_seconds=0.2)
    statistics = short._group_norm_statistics(samples, token_count(len(samples)))
    pieces = [short._convolve(samples[320 * t : 320 * (t + 59) + 400], statistics) for t in range(0, 240, 60)]
    torch.testing.assert_close(torch.cat(pieces, dim=2), whole[:, :, :240], atol=1e-4, rtol=1e-3)


def test_long_sound_in_windows_agrees_with_one_pass(encoder: Wav2Vec2AudioEncoder) -> None:
    samples = sound(30.0)
    whole = Wav2Vec2AudioEncoder(encoder.model, encoder.feature_extractor, window_seconds=60.0).encode(samples)
    windows = Wav2Vec2AudioEncoder(
        encoder.model, encoder.feature_extractor, window_seconds=14.0, context_seconds=4.0
    ).encode(samples)
    assert windows.shape == whole.shape
    agreement = torch.nn.functional.cosine_similarity(windows, whole)
    assert agreement.min() >= 0.99, f"worst token agrees to {agreement.min():.4f}"
    alone = encoder.encode(samples[: 6 * AUDIO_SAMPLE_RATE])
    assert torch.nn.functional.cosine_similarity(alone, whole[: len(alone)]).min() < agreement.min(), (
        "statistics matter"
    )


def test_windows_never_exceed_their_length(encoder: Wav2Vec2AudioEncoder) -> None:
    """Memory does not grow: no forward pass is longer than a window."""
    lengths: list[int] = []
    hook = encoder.model.encoder.register_forward_hook(lambda _, inputs, __: lengths.append(inputs[0].shape[1]))
    Wav2Vec2AudioEncoder(encoder.model, encoder.feature_extractor, window_seconds=2.0, context_seconds=0.5).encode(
        sound(20.0)
    )
    hook.remove()
    assert len(lengths) == 20 and max(lengths) <= 100


def test_silence_gives_finite_features(encoder: Wav2Vec2AudioEncoder) -> None:
    assert encoder.encode(np.zeros(AUDIO_SAMPLE_RATE, dtype=np.float32)).isfinite().all()


def test_audio_shorter_than_a_token_is_refused(encoder: Wav2Vec2AudioEncoder) -> None:
    with raises_input_error(ErrorCode.out_of_range, "samples", 399):
        encoder.encode(sound(399 / AUDIO_SAMPLE_RATE))


def test_another_rate_is_refused(components: Path, tmp_path: Path) -> None:
    shutil.copytree(components / "audio_encoder", tmp_path / "audio_encoder")
    path = tmp_path / "audio_encoder" / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sampling_rate": 8000}))
    with raises_input_error(ErrorCode.unsupported, "audio_encoder", 8000):
        load_audio_encoder(tmp_path / "audio_encoder")


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    with raises_input_error(ErrorCode.missing_weights, "audio encoder") as error:
        load_audio_encoder(tmp_path)
    assert "hf download" in str(error.value)
