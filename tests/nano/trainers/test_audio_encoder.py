"""The audio encoder: labels that lie where the sounds are, and that they are learnt."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fantasytalking.encoders.wav2vec import SAMPLE_RATE, AudioEncoder, token_count
from fantasytalking.nano.config import AudioConfig, FitConfig
from fantasytalking.nano.corpora.speech_dataset import (
    PHONEMES,
    SpeechSet,
    labels_at,
    phoneme_class,
    plan_held_out,
    plan_training,
    speech_set,
)
from fantasytalking.nano.corpora.video_corpus import held_out_sentences, training_sentences
from fantasytalking.nano.trainers.audio_encoder import (
    SILENCE,
    AudioTask,
    disturbed,
    normalised,
    save_audio_encoder,
    token_accuracy,
)
from fantasytalking.nano.trainers.component_trainer import fit
from fantasytalking.portrait_world.speech.synthesis import Phoneme

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> SpeechSet:
    return speech_set(plan_training(3, 0), tmp_path_factory.mktemp("speech") / "speech.safetensors", 1)


def tiny(steps: int = 60) -> AudioConfig:
    run = FitConfig(steps=steps, batch=2, learning_rate=0.002, warm_up=2)
    return AudioConfig(1, 1, seconds=1.0, layers=1, heads=2, feed_forward=32, channels=16, fit=run)


def test_mnemonics_lose_their_stress_and_find_their_class() -> None:
    assert PHONEMES[phoneme_class("'I")] == "I" and PHONEMES[phoneme_class("_")] == "_"
    assert PHONEMES[phoneme_class("@2")] == "@" and PHONEMES[phoneme_class("!")] == "unknown"


def test_labels_are_those_of_the_sounding_phoneme() -> None:
    phonemes = (Phoneme(0.0, 0.1, "_"), Phoneme(0.1, 0.2, "'aI"), Phoneme(0.2, 0.3, "m"))
    named = labels_at(phonemes, np.array([0.0, 0.099, 0.1, 0.25, 0.9]))
    assert [PHONEMES[label] for label in named] == ["_", "_", "aI", "m", "m"]


def test_a_set_is_kept_and_its_labels_follow_the_loudness(speech: SpeechSet) -> None:
    assert len(speech) == 3
    for index in range(3):
        samples, labels = speech[index]
        assert len(labels) == token_count(len(samples))
        levels = np.array([samples[320 * t : 320 * t + 400].std() for t in range(len(labels))])
        assert levels[labels == SILENCE].mean() < 0.2 * levels[labels != SILENCE].mean()
        assert labels[0] == SILENCE and (labels != SILENCE).mean() > 0.5


def test_training_and_held_out_sentences_do_not_meet() -> None:
    words = {utterance.text.lower() for utterance in plan_training(400, 0)}
    assert not words & {sentence.lower() for sentence in held_out_sentences()}
    assert {utterance.text for utterance in plan_held_out(60, 0)} <= set(held_out_sentences())
    assert len(set(training_sentences()) & {utterance.text for utterance in plan_training(400, 0)}) > 50


def test_disturbing_keeps_length_and_times(speech: SpeechSet) -> None:
    samples, _ = speech[0]
    heard = normalised(disturbed(samples, np.random.default_rng(0)))
    assert heard.shape == samples.shape and heard.dtype == np.float32
    assert abs(heard.mean()) < 1e-3 and heard.std() == pytest.approx(1, abs=1e-3)
    envelope = [np.abs(x[: len(x) // 320 * 320]).reshape(-1, 320).mean(1) for x in (samples, heard)]
    lags = [
        np.corrcoef(envelope[0][5:-5], envelope[1][5 + lag : len(envelope[1]) - 5 + lag])[0, 1] for lag in range(-5, 6)
    ]
    assert abs(int(np.argmax(lags)) - 5) <= 1


def test_training_lowers_the_loss_and_the_encoder_can_be_shipped(speech: SpeechSet, tmp_path: Path) -> None:
    task = AudioTask(tiny(), 16, speech, 0, CPU)
    report = fit(task, tiny().fit, tmp_path / "run", CPU, 0)
    assert report.last_loss < 0.9 * report.first_loss
    save_audio_encoder(task.encoder, tmp_path / "audio_encoder")
    encoder = AudioEncoder.from_pretrained(tmp_path, subfolder="audio_encoder")
    assert encoder.dim == 16
    found = token_accuracy(encoder, task.head, speech)
    assert found["utterances"] == 3 and 0 < found["accuracy"] <= 1
    tokens = encoder.encode(np.zeros(SAMPLE_RATE, np.float32))
    assert tokens.shape == (49, 16) and bool(tokens.isfinite().all())
