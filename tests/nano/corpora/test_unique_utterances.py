"""Tests of the extended corpus: unique utterances, and rest after some of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.common.config import CONFIGS_FOLDER, load_config
from fantasytalking.common.errors import ErrorCode
from fantasytalking.media import read_audio, read_video
from fantasytalking.nano.config import BuildConfig, ExtendedVideosConfig, FramingConfig
from fantasytalking.nano.context import BuildContext
from fantasytalking.nano.corpora import unique_utterances
from fantasytalking.nano.corpora.frame_store import open_frame_store, project_features
from fantasytalking.nano.corpora.unique_utterances import (
    UniqueUtterancesPlan,
    compose_utterance,
    render_extended_videos,
    vary_sentence,
)
from fantasytalking.nano.corpora.video_corpus import training_sentences
from fantasytalking.nano.steps.extended_corpus import make_extended_videos, render_first_people
from fantasytalking.perception.face_track import track_faces
from fantasytalking.perception.landmark_measures import LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS
from fantasytalking.portrait_world.render.camera import MIN_ZOOM, Camera
from tests.helpers.errors import raises_input_error

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


def test_composed_utterances_have_the_words_of_the_sentences_and_pauses() -> None:
    random = np.random.default_rng(1)
    utterances = [compose_utterance(training_sentences(), 4 + number % 5, random) for number in range(200)]
    assert [len(text.split()) for text in utterances] == [4 + number % 5 for number in range(200)]
    assert len(set(utterances)) == 200
    spoken = {word.strip(",.?!").lower() for sentence in training_sentences() for word in sentence.split()}
    assert {word.strip(".") for text in utterances for word in text.split()} <= spoken
    assert 0.3 < np.mean(["." in text[:-1] for text in utterances]) < 0.5  # of four words, none


def test_framings_are_within_their_range_and_hide_the_ends_of_the_shoulders() -> None:
    framing = FramingConfig(min_zoom=0.8, max_zoom=1.4, max_x=0.2, max_y=0.03)
    drawn = [framing.draw(np.random.default_rng(number)) for number in range(300)]
    zooms = np.array([one.zoom for one in drawn])
    assert 0.8 <= zooms.min() < 0.82 and 1.38 < zooms.max() <= 1.4
    assert max(abs(one.y) for one in drawn) <= 0.03
    for one in drawn:
        assert 0.5 + abs(one.x) <= 0.5 * one.zoom / MIN_ZOOM + 1e-3
    assert max(abs(one.x) for one in drawn) > 0.17
    large = [FramingConfig(1.44, 1.45).draw(np.random.default_rng(number)) for number in range(50)]
    assert min(one.y for one in large) < -0.04 and max(one.y for one in large) < 0.01, "chins are not cut off"


def test_the_ground_truth_places_the_person_where_mediapipe_sees_it(tmp_path: Path) -> None:
    words = ExtendedVideosConfig(
        first_identity=1_000_000,
        num_identities=1,
        utterances_per_person=1,
        rest_interval=7,
        min_words=2,
        max_words=2,
        framing=FramingConfig(min_zoom=1.1, max_zoom=1.2, max_x=0.2, max_y=0.05),
    )
    assert render_extended_videos(words, tmp_path, 128, seed=3, processes=1) == 1
    folder = tmp_path / "id1000000_s0000"
    truth, video = json.loads((folder / "truth.json").read_text()), read_video(folder / "video.mp4")
    assert 1.1 <= truth["closeness"] <= 1.2 and abs(truth["offset"][0]) > 0.02
    camera = Camera.portrait(128, 128, truth["closeness"], tuple(truth["offset"]))
    centers = project_features(1_000_000, truth["frames"], camera, truth["closeness"])
    (track,) = track_faces(video.frames, video.times)
    for feature, landmarks in enumerate(([78, 308, 13, 14], LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS)):
        seen = track.landmarks[:, landmarks, :2].mean(axis=1)
        assert np.abs(seen - centers[:, feature]).max() < 5  # of 128 pixels


def test_corpora_of_people_who_do_not_speak_and_of_coupled_scenes(tmp_path: Path) -> None:
    idle = ExtendedVideosConfig(1_000_000, 1, 1, rest_interval=7, idle_seconds=0.6, framing=FramingConfig())
    idle.validate()
    render_extended_videos(idle, tmp_path / "idle", 96, seed=0, processes=1)
    (folder,) = (tmp_path / "idle").glob("id*")
    truth = json.loads((folder / "truth.json").read_text())
    assert truth["text"] == "" and len(truth["frames"]) == 15
    assert np.abs(read_audio(folder / "speech.wav", sample_rate=RATE)).max() == 0
    coupled = ExtendedVideosConfig(1_000_000, 1, 1, rest_interval=7, min_words=1, max_words=1, coupling=0.8)
    render_extended_videos(coupled, tmp_path / "coupled", 96, seed=0, processes=1)
    assert json.loads((tmp_path / "coupled" / "corpus.json").read_text())["coupling"] == 0.8
    video = read_video(next((tmp_path / "coupled").glob("id*/video.mp4"))).frames
    corner = video[:, :12, :12].reshape(len(video), -1).mean(axis=1)
    assert corner.std() > 2  # the light of the scene changes, where nobody is
    with raises_input_error(ErrorCode.out_of_range, "extended_videos.coupling", 2):
        ExtendedVideosConfig(coupling=2).validate()


def test_the_first_people_are_those_that_the_whole_corpus_has(tmp_path: Path) -> None:
    words = ExtendedVideosConfig(4, 2, 1, rest_interval=7, min_words=1, max_words=1)
    config = load_config(BuildConfig, CONFIGS_FOLDER / "nano" / "build_smoke.yaml", [f"work_dir={tmp_path}"])
    context = BuildContext(replace(config, extended_videos=words, num_processes=1), tmp_path / "nano")
    (first,) = render_first_people(context, 1)
    assert first.parent.name == "id0004_s0000"
    modified = first.stat().st_mtime_ns
    assert make_extended_videos(context) == {"videos": 2}
    assert first.stat().st_mtime_ns == modified and render_first_people(context, 1) == [first]
    store = open_frame_store(first.parent.parent, tmp_path / "store", [first])
    assert len(store) == 3 and store.video_length(2) == store.video_length(0)
