"""Tests of the audio encoder's labels and training."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fantasytalking.audio_tokens import AUDIO_SAMPLE_RATE
from fantasytalking.encoders.audio_loading import load_audio_encoder
from fantasytalking.encoders.wav2vec import token_count
from fantasytalking.nano.corpora.speech_dataset import (
    PHONEME_CLASSES,
    SpeechDataset,
    load_or_synthesize,
    phoneme_class,
    phoneme_labels,
    plan_held_out_utterances,
    plan_training_utterances,
)
from fantasytalking.nano.corpora.video_corpus import held_out_sentences, training_sentences
from fantasytalking.nano.trainers.audio_encoder import (
    SILENCE_CLASS,
    AudioEncoderTask,
    augment_waveform,
    normalize_waveform,
    save_audio_encoder,
    token_accuracy,
)
from fantasytalking.nano.trainers.component_trainer import train_component
from fantasytalking.nano.trainers.config import AudioEncoderTraining, ComponentTrainingConfig
from fantasytalking.portrait_world.speech.synthesis import Phoneme

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> SpeechDataset:
    return load_or_synthesize(
        plan_training_utterances(3, 0), tmp_path_factory.mktemp("speech") / "speech.safetensors", 1
    )


def tiny(steps: int = 60) -> AudioEncoderTraining:
    run = ComponentTrainingConfig(steps=steps, batch_size=2, learning_rate=0.002, warmup_steps=2)
    return AudioEncoderTraining(
        1, 1, window_seconds=1.0, num_layers=1, num_heads=2, feed_forward_dim=32, conv_channels=16, fit=run
    )


def test_mnemonics_are_classified_without_stress_marks() -> None:
    assert PHONEME_CLASSES[phoneme_class("'I")] == "I" and PHONEME_CLASSES[phoneme_class("_")] == "_"
    assert PHONEME_CLASSES[phoneme_class("@2")] == "@" and PHONEME_CLASSES[phoneme_class("!")] == "unknown"


def test_labels_are_the_phonemes_at_each_time() -> None:
    phonemes = (Phoneme(0.0, 0.1, "_"), Phoneme(0.1, 0.2, "'aI"), Phoneme(0.2, 0.3, "m"))
    named = phoneme_labels(phonemes, np.array([0.0, 0.099, 0.1, 0.25, 0.9]))
    assert [PHONEME_CLASSES[label] for label in named] == ["_", "_", "aI", "m", "m"]


def test_a_dataset_is_saved_and_its_labels_follow_the_loudness(speech: SpeechDataset) -> None:
    assert len(speech) == 3
    for index in range(3):
        samples, labels = speech[index]
        assert len(labels) == token_count(len(samples))
        levels = np.array([samples[320 * t : 320 * t + 400].std() for t in range(len(labels))])
        assert levels[labels == SILENCE_CLASS].mean() < 0.2 * levels[labels != SILENCE_CLASS].mean()
        assert labels[0] == SILENCE_CLASS and (labels != SILENCE_CLASS).mean() > 0.5


def test_training_and_held_out_sentences_are_disjoint() -> None:
    words = {utterance.text.lower() for utterance in plan_training_utterances(400, 0)}
    assert not words & {sentence.lower() for sentence in held_out_sentences()}
    assert {utterance.text for utterance in plan_held_out_utterances(60, 0)} <= set(held_out_sentences())
    assert len(set(training_sentences()) & {utterance.text for utterance in plan_training_utterances(400, 0)}) > 50


def test_augmentation_keeps_length_and_times(speech: SpeechDataset) -> None:
    samples, _ = speech[0]
    augmented = normalize_waveform(augment_waveform(samples, np.random.default_rng(0)))
    assert augmented.shape == samples.shape and augmented.dtype == np.float32
    assert abs(augmented.mean()) < 1e-3 and augmented.std() == pytest.approx(1, abs=1e-3)
    envelope = [np.abs(x[: len(x) // 320 * 320]).reshape(-1, 320).mean(1) for x in (samples, augmented)]
    lags = [
        np.corrcoef(envelope[0][5:-5], envelope[1][5 + lag : len(envelope[1]) - 5 + lag])[0, 1] for lag in range(-5, 6)
    ]
    assert abs(int(np.argmax(lags)) - 5) <= 1


def test_training_lowers_the_loss_and_the_encoder_can_be_saved(speech: SpeechDataset, tmp_path: Path) -> None:
    task = AudioEncoderTask(tiny(), 16, speech, 0, CPU)
    report = train_component(task, tiny().fit, tmp_path / "run", CPU, 0)
    assert report.last_loss < 0.9 * report.first_loss
    save_audio_encoder(task.encoder, tmp_path / "audio_encoder")
    encoder = load_audio_encoder(tmp_path, subfolder="audio_encoder")
    assert encoder.dim == 16
    found = token_accuracy(encoder, task.head, speech)
    assert found["utterances"] == 3 and 0 < found["accuracy"] <= 1
    tokens = encoder.encode(np.zeros(AUDIO_SAMPLE_RATE, np.float32))
    assert tokens.shape == (49, 16) and bool(tokens.isfinite().all())
