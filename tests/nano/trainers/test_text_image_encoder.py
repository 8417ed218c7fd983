"""Tests of captions, tokenizer, and text and image encoders."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.encoders.wan import ImageEncoder, TextEncoder
from fantasytalking.nano.config import BuildConfig
from fantasytalking.nano.corpora.captions import DEFAULT_CAPTION, make_caption
from fantasytalking.nano.corpora.portrait_images import PortraitImages
from fantasytalking.nano.trainers.component_trainer import train_component
from fantasytalking.nano.trainers.config import ComponentTrainingConfig, TextImageEncoderTraining
from fantasytalking.nano.trainers.text_image_encoder import (
    TextImageEncoderTask,
    save_text_image_encoders,
    train_tokenizer,
)
from fantasytalking.portrait_world.people.identity import make_identity

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recipe() -> BuildConfig:
    return load_config(BuildConfig, preset_path("nano", "build"))


@pytest.fixture(scope="module")
def tokenizer(recipe: BuildConfig):
    return train_tokenizer(recipe.text_image_encoder.vocab_size, seed=0)


def test_every_caption_fits_the_token_limit(recipe: BuildConfig, tokenizer) -> None:
    random = np.random.default_rng(0)
    captions = [
        DEFAULT_CAPTION,
        *(make_caption(make_identity(number), random) for number in [*range(200), *range(1000, 1100)]),
    ]
    lengths = [len(tokenizer(text).input_ids) for text in captions]
    assert max(lengths) <= recipe.max_text_tokens
    assert len(set(captions)) > 150


def test_a_caption_describes_the_person() -> None:
    random = np.random.default_rng(0)
    for number in range(60):
        person = make_identity(number)
        caption = make_caption(person, random)
        word = caption.split(" with ")[0].split()[-1]
        young = person.age < 16
        assert word == (("girl" if young else "woman") if person.softness > 0.5 else ("boy" if young else "man"))
        assert person.glasses != "none" or "glasses" not in caption
        assert person.beard in ("full", "goatee") or "beard" not in caption


def test_any_text_is_tokenized_and_decoded(tokenizer) -> None:
    for text in (DEFAULT_CAPTION, "Zwölf Boxkämpfer jagen Viktor", "日本語 🙂"):
        tokens = tokenizer(text).input_ids
        assert tokens[-1] == tokenizer.eos_token_id and tokenizer.unk_token_id not in tokens
        assert tokenizer.decode(tokens, skip_special_tokens=True).strip() == text


def test_training_lowers_the_loss_and_the_encoders_can_be_saved(
    stills: PortraitImages, tokenizer, tmp_path: Path
) -> None:
    run = ComponentTrainingConfig(steps=40, batch_size=3, learning_rate=0.002, warmup_steps=2)
    config = TextImageEncoderTraining(text_layers=1, image_layers=2, image_size=32, fit=run)
    task = TextImageEncoderTask(config, tokenizer, (16, 32), stills, 0, CPU)
    report = train_component(task, run, tmp_path / "run", CPU, 0)
    assert report.last_loss < 0.8 * report.first_loss
    assert task.retrieval_accuracy(stills, seed=0, rounds=4)["matched"] > 0.8, "chance is a third"
    save_text_image_encoders(task.text, task.image, tokenizer, config.image_size, tmp_path)
    text, image = TextEncoder.from_pretrained(tmp_path), ImageEncoder.from_pretrained(tmp_path)
    assert text.encode(DEFAULT_CAPTION).shape == (len(tokenizer(DEFAULT_CAPTION).input_ids), 16)
    tokens = [image.encode(torch.from_numpy(stills.images[place])) for place in (0, -1)]
    assert tokens[0].shape == (1 + 2 * 2, 32)
    assert not torch.allclose(tokens[0], tokens[1], atol=1e-2), "two people are not one picture"
