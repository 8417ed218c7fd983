"""Tests of the included nano checkpoint on held-out people, sentences and recordings.

They take minutes and run with --slow only; -s shows the measurements.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.encoders.arcface import FaceEncoder
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.model_sources import load_pipeline, resolve_model
from fantasytalking.media import read_audio, write_video
from fantasytalking.nano.config import BuildConfig
from fantasytalking.perception.body_pose import track_body
from fantasytalking.perception.face_crop import five_points
from fantasytalking.perception.face_track import FaceTrack, track_faces
from fantasytalking.perception.landmark_measures import mouth_opening
from fantasytalking.perception.motion_intensity import measure_motion
from fantasytalking.perception.signals import loudness_envelope
from fantasytalking.pipeline import FantasyTalkingPipeline
from fantasytalking.pipeline.portrait import Portrait, parse_sizes, prepare_portrait
from fantasytalking.portrait_world.corpus.clip_corpus import HELD_OUT_SENTENCES_FILE, read_sentences
from fantasytalking.portrait_world.corpus.group_scene import GroupRenderer
from fantasytalking.portrait_world.corpus.rendered_clip import ClipPlan, Performance, PortraitRenderer, perform_plan
from fantasytalking.portrait_world.people.identity import HELD_OUT_IDENTITIES, make_identity
from tests.helpers.paths import ROOT

NANO = ROOT / "checkpoints" / "nano"
SAMPLE_RATE = 16_000
PEOPLE = 8
SECONDS_APART = 2
TALK_SECONDS = 2
WIDE = "160x96"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


@dataclass(frozen=True)
class Made:
    """Video (T, H, W, 3) and its face track."""

    frames: np.ndarray
    track: FaceTrack

    @property
    def opening(self) -> np.ndarray:
        return mouth_opening(self.track.landmarks).astype(np.float64)

    @property
    def motion(self) -> tuple[float, float]:
        measured = measure_motion(self.track, track_body(self.frames, self.track.times))
        return measured.expression, measured.body


class Nano:
    """The included pipeline with its default settings."""

    def __init__(self) -> None:
        self.config = load_config(InferConfig, preset_path("nano", "infer"), [])
        self.pipe = FantasyTalkingPipeline.from_pretrained(NANO)
        self.pipe.set_progress_bar_config(disable=True)
        self.zoom = load_config(BuildConfig, preset_path("nano", "build"), []).zoom

    def portrait(self, identity: int) -> Portrait:
        picture = PortraitRenderer(make_identity(identity), 256, self.zoom).portrait()
        return prepare_portrait(picture, parse_sizes(self.config.sizes))

    def say(self, portrait: Portrait, samples: np.ndarray, motion: float = 0.5, seed: int = 0) -> Made:
        made = self.pipe(
            portrait,
            samples,
            controls=replace(self.config.controls(), expression_motion=motion, body_motion=motion),
            generator=torch.Generator().manual_seed(seed),
        )
        frames = (made.frames[0] * 255).round().astype(np.uint8)
        (track,) = track_faces(frames, np.arange(len(frames)) / self.config.fps, max_people=1)
        return Made(frames, track)


@pytest.fixture(scope="module")
def nano() -> Nano:
    return Nano()


def audio_samples(act: Performance) -> np.ndarray:
    """Returns the performance's audio at the pipeline's sample rate."""
    from scipy.signal import resample_poly

    speech = act.speech
    return resample_poly(speech.samples.astype(np.float32) / 32768, SAMPLE_RATE, speech.sample_rate).astype(np.float32)


def held_out_act(number: int) -> tuple[int, Performance]:
    identity = HELD_OUT_IDENTITIES[number]
    sentences = read_sentences(HELD_OUT_SENTENCES_FILE, HELD_OUT_IDENTITIES)
    sentence = number % len(sentences)
    return identity, perform_plan(make_identity(identity), ClipPlan(identity, sentence, sentences[sentence], 0))


def true_opening(act: Performance, frames: int) -> np.ndarray:
    return np.array([state.mouth_open for state in act.animation.states])[:frames]


def tell(line: str) -> None:
    print(line)  # noqa: T201


def centered(values: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([value - value.mean() for value in values])


def pooled(measured: list[np.ndarray], known: list[np.ndarray]) -> float:
    """Returns the correlation pooled over clips after removing each clip's mean."""
    return float(np.corrcoef(centered(measured), centered(known))[0, 1])


def test_mouths_of_held_out_people_follow_the_speech(nano: Nano):
    measured, known, others = [], [], []
    for number in range(PEOPLE):
        identity, act = held_out_act(number)
        opening = nano.say(nano.portrait(identity), audio_samples(act)).opening
        true = true_opening(act, len(opening))
        seen = np.isfinite(opening[: len(true)])
        measured.append(opening[: len(true)][seen])
        known.append(true[seen])
        others.append(np.roll(true, len(true) // 2)[seen])
    own, rolled = pooled(measured, known), pooled(measured, others)
    tell(f"mouth opening against the truth: {own:.3f}; against the truth rolled by half: {rolled:.3f}")
    assert own >= 0.7
    assert rolled < 0.3


def test_two_people_each_say_their_sentence(nano: Nano):
    pipe = load_pipeline(nano.config, resolve_model(nano.config, is_multi_speaker=True))
    pipe.set_progress_bar_config(disable=True)
    measured, own, others = [], [], []
    for first in range(0, PEOPLE, 2):
        (left, one), (right, two) = held_out_act(first), held_out_act(first + 1)
        group = GroupRenderer([left, right], (320, 192), nano.zoom, np.random.default_rng(first))
        portrait = prepare_portrait(group.portrait(), parse_sizes([WIDE]), num_faces=2)
        made = pipe(
            portrait,
            [audio_samples(act)[: TALK_SECONDS * SAMPLE_RATE] for act in (one, two)],
            controls=nano.config.controls(),
            generator=torch.Generator().manual_seed(first),
        )
        frames = (made.frames[0] * 255).round().astype(np.uint8)
        tracks = track_faces(frames, np.arange(len(frames)) / nano.config.fps, max_people=2)
        assert len(tracks) == 2
        tracks.sort(key=lambda track: float(np.nanmean(track.landmarks[..., 0])))
        true = [true_opening(act, len(frames)) for act in (one, two)]
        for track, mine, theirs in zip(tracks, true, true[::-1], strict=True):
            opening = mouth_opening(track.landmarks).astype(np.float64)
            seen = np.isfinite(opening)
            measured.append(opening[seen])
            own.append(mine[seen])
            others.append(theirs[seen])
    to_own, to_other = pooled(measured, own), pooled(measured, others)
    tell(f"two speakers, mouth opening against one's own sentence: {to_own:.3f}; against the other's: {to_other:.3f}")
    assert to_own - to_other >= 0.4


def test_swapped_driving_videos_swap_expressions(nano: Nano, tmp_path: Path):
    settings = ["guidance.text.scale_start=1", "guidance.text.scale_end=1"]
    settings += ["guidance.expression.scale_start=2.5", "guidance.expression.scale_end=2.5"]
    config = load_config(InferConfig, preset_path("nano", "infer"), settings)
    pipe = load_pipeline(config, resolve_model(config, has_driving_video=True, is_multi_speaker=True))
    pipe.set_progress_bar_config(disable=True)
    frames = config.window_frames

    def driver(number: int, *, moves: bool = True) -> tuple[Path, np.ndarray]:
        """A video of somebody else, who talks or sits still, and the true opening of the mouth in it."""
        identity, act = held_out_act(PEOPLE + number)
        states = act.animation.states[:frames] if moves else act.animation.states[:1] * frames
        path = tmp_path / f"{number}_{moves}.mp4"
        if not path.is_file():
            renderer = PortraitRenderer(make_identity(identity), 192, nano.zoom)
            write_video(path, [renderer.frame(state) for state in states], fps=config.fps)
        return path, np.array([state.mouth_open for state in states])

    def openings(portrait: Portrait, drivers: list[Path], seed: int) -> list[np.ndarray]:
        """Of both people from left to right."""
        made = pipe(
            portrait,
            (),
            controls=replace(config.controls(), num_inference_steps=10),
            driving_video=drivers,
            generator=torch.Generator().manual_seed(seed),
        )
        pictures = (made.frames[0] * 255).round().astype(np.uint8)
        tracks = track_faces(pictures, np.arange(len(pictures)) / config.fps, max_people=2)
        assert len(tracks) == 2
        tracks.sort(key=lambda track: float(np.nanmean(track.landmarks[..., 0])))
        return [mouth_opening(track.landmarks).astype(np.float64) for track in tracks]

    measured, own, others, moving, still = [], [], [], [], []
    for first in range(0, PEOPLE, 2):
        identities = [HELD_OUT_IDENTITIES[first], HELD_OUT_IDENTITIES[first + 1]]
        group = GroupRenderer(identities, (320, 192), nano.zoom, np.random.default_rng(first))
        portrait = prepare_portrait(group.portrait(), parse_sizes([WIDE]), num_faces=2)
        (one, its), (two, theirs) = driver(first), driver(first + 1)
        (rest, _), given = driver(first + 1, moves=False), [(one, its), (two, theirs)]
        for order in (given, given[::-1]):
            made = openings(portrait, [path for path, _ in order], first)
            for opening, (_, mine), (_, other) in zip(made, order, order[::-1], strict=True):
                seen = np.isfinite(opening)
                measured.append(opening[seen])
                own.append(mine[seen])
                others.append(other[seen])
                moving.append(np.nanstd(opening))
        still.append(np.nanstd(openings(portrait, [one, rest], first)[1]))
    to_own, to_other = pooled(measured, own), pooled(measured, others)
    tell(f"two drivers, both ways round, mouth opening against one's own: {to_own:.3f}; the other's: {to_other:.3f}")
    tell(f"spread of the opening: {np.mean(moving):.4f} driven, {np.mean(still):.4f} beside somebody who is")
    assert to_own - to_other >= 0.2
    assert np.mean(still) < np.mean(moving) / 2


def test_the_mouth_is_at_rest_in_silence(nano: Nano):
    measured = []
    for number in range(4):
        identity, act = held_out_act(number)
        speech = audio_samples(act)
        made = nano.say(nano.portrait(identity), np.concatenate([speech, np.zeros(2 * SAMPLE_RATE, np.float32)]))
        spoken = round(len(speech) / SAMPLE_RATE * nano.config.fps)
        talking, resting = made.opening[:spoken], made.opening[spoken + 8 :]
        measured.append([reading(part) for part in (talking, resting) for reading in (np.nanstd, np.nanmean)])
        tell(f"spread of the opening: {measured[-1][0]:.4f} in speech, {measured[-1][2]:.4f} in silence")
    talking_spread, talking_mean, resting_spread, resting_mean = np.mean(measured, axis=0)
    assert resting_spread < talking_spread / 3
    assert resting_mean < talking_mean


def test_the_mouth_follows_recorded_speech(nano: Nano, real_media: Path):
    samples = read_audio(real_media / "speech" / "woman_44k_stereo.wav", sample_rate=SAMPLE_RATE, duration=8.0)
    made = nano.say(nano.portrait(HELD_OUT_IDENTITIES[1]), samples)
    loud = loudness_envelope(samples, SAMPLE_RATE, made.track.times)
    seen = np.isfinite(made.opening)

    def agreement(lag: int) -> float:
        return float(np.corrcoef(made.opening[seen], np.roll(loud, lag)[seen])[0, 1])

    own = max(agreement(lag) for lag in range(-2, 3))
    away = [agreement(lag) for lag in range(25, len(loud) - 25, 10)]
    tell(f"opening against loudness: {own:.3f}; with the sound moved by a second and more: {np.max(away):.3f} at most")
    assert own > 0.3
    assert own > max(away)


def test_motion_increases_with_intensity(nano: Nano):
    wanted = (0.1, 0.5, 0.9)
    measured = []
    for number in range(4):
        identity, act = held_out_act(number)
        measured.append([nano.say(nano.portrait(identity), audio_samples(act), motion).motion for motion in wanted])
    values = np.array(measured)  # (clips, intensities, 2)
    expression, body = values.mean(axis=0).T
    tell(f"motion {wanted}: expression {expression}, body {body}")
    assert expression[0] < expression[1] < expression[2]
    assert body[0] < body[1] < body[2]
    relative = values / values.mean(axis=1, keepdims=True)
    asked = np.tile(wanted, len(values))
    assert spearmanr(asked, relative[..., 0].ravel()).statistic > 0.6
    assert spearmanr(asked, relative[..., 1].ravel()).statistic > 0.6


def test_thirty_seconds_do_not_drift(nano: Nano):
    """The last second of 30 s is as similar to the first as in a clip of 3 s."""
    face_encoder = FaceEncoder.from_pretrained(nano.pipe.face_encoder_path)
    identity = HELD_OUT_IDENTITIES[2]
    portrait = nano.portrait(identity)
    reference = face_encoder.encode(portrait.pixels, portrait.face_points[0])
    speech = np.concatenate([audio_samples(held_out_act(number)[1]) for number in range(40)])

    def seconds(made: Made) -> tuple[np.ndarray, np.ndarray]:
        """Mean color and likeness of every second."""
        points = five_points(made.track.landmarks)
        like = np.array(
            [face_encoder.encode(frame, place) @ reference for frame, place in zip(made.frames, points, strict=True)]
        )
        length = len(made.frames) // 25
        color = made.frames[: 25 * length].reshape(length, -1, 3).mean(axis=1)
        return color, like[: 25 * length].reshape(length, 25).mean(axis=1)

    pieces = [seconds(nano.say(portrait, speech[part * 3 * SAMPLE_RATE :][: 3 * SAMPLE_RATE])) for part in range(5)]
    color_limit = max(np.abs(color[-1] - color[0]).max() for color, _ in pieces)
    likeness_limit = max(like[0] - like[-1] for _, like in pieces)
    color, like = seconds(nano.say(portrait, speech[: 30 * SAMPLE_RATE]))
    assert len(color) == 30
    tell(
        f"last second against the first: color {np.abs(color[-1] - color[0]).max():.2f} of 255 "
        f"(within 3 s: {color_limit:.2f}), likeness {like[0]:.3f} -> {like[-1]:.3f} (within 3 s: {likeness_limit:.3f})"
    )
    assert np.abs(color[-1] - color[0]).max() <= color_limit
    assert like[0] - like[-1] <= max(likeness_limit, 0.0)
