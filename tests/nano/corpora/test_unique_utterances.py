"""Tests of the extended corpus: unique utterances, and rest after some of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.media import read_audio
from fantasytalking.nano.config import ExtendedVideosConfig
from fantasytalking.nano.corpora import unique_utterances
from fantasytalking.nano.corpora.unique_utterances import UniqueUtterancesPlan, render_extended_videos, vary_sentence
from fantasytalking.nano.corpora.video_corpus import training_sentences

WORDS = ExtendedVideosConfig(
    first_identity=4, num_identities=2, utterances_per_person=1, rest_interval=5, rest_seconds=1.2
)
RATE = 16000


def test_half_of_the_utterances_are_sentences_and_half_are_shuffled() -> None:
    sentences = training_sentences()
    random = np.random.default_rng(0)
    utterances = [vary_sentence(sentences, number, random) for number in range(400)]
    known = [text in sentences for text in utterances]
    assert 0.4 < np.mean(known) < 0.6
    spoken = {word.strip(",.?!") for sentence in sentences for word in sentence.split()}
    assert all(word.strip(",.?!") in spoken for text in utterances for word in text.split())
    lengths = [len(text.split()) for text in utterances]
    assert max(lengths) <= 2 + max(len(sentence.split()) for sentence in sentences)


def test_utterances_are_unique_and_independent_of_other_people() -> None:
    words = ExtendedVideosConfig(first_identity=100, num_identities=60)
    plan = UniqueUtterancesPlan(range(100, 160), training_sentences(), 96, videos_config=words)
    clips = list(plan.clips())
    assert len(clips) == 60 * 2 + 12 and len({clip.name for clip in clips}) == len(clips)
    assert len({clip.text for clip in clips}) > 0.75 * len(clips)
    assert {clip.identity % 5 for clip in clips if clip.rest_seconds} == {0}
    later = UniqueUtterancesPlan(range(130, 160), training_sentences(), 96, videos_config=words)
    assert list(later.clips()) == [clip for clip in clips if clip.identity >= 130]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path_factory.mktemp("more")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(unique_utterances, "training_sentences", lambda: ["Pip.", "Mow."])  # short
    request.addfinalizer(monkeypatch.undo)
    assert render_extended_videos(WORDS, folder, 96, seed=0, processes=1) == 3
    return folder


def test_resting_people_are_silent_with_the_mouth_closed(videos: Path) -> None:
    assert sorted(clip.name for clip in videos.glob("id*")) == ["id0004_s0000", "id0005_s0000", "id0005_s0001"]
    sound = read_audio(videos / "id0005_s0001" / "speech.wav", sample_rate=RATE)
    known = json.loads((videos / "id0005_s0001" / "truth.json").read_text())
    opening = np.array([frame["mouth_open"] for frame in known["frames"]])
    resting = round(WORDS.rest_seconds * known["fps"])
    assert np.abs(sound[-round(WORDS.rest_seconds * RATE) :]).max() == 0 < np.abs(sound[: RATE // 2]).max()
    assert opening[-resting + 5 :].max() < 0.1 < opening[:-resting].max()
    other = read_audio(videos / "id0005_s0000" / "speech.wav", sample_rate=RATE)
    assert np.abs(other[-RATE:]).max() > 0


def test_existing_videos_are_not_rendered_again(videos: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in videos.rglob("*.mp4")}
    assert render_extended_videos(WORDS, videos, 96, seed=0, processes=1) == 3
    assert {file: file.stat().st_mtime_ns for file in videos.rglob("*.mp4")} == before
    assert all(video.with_suffix(".txt").is_file() for video in before)
