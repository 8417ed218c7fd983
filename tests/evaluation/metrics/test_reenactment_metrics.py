"""Measures of reenactment: known answers on faces that were made up, known directions on videos."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.evaluation.benchmark.protocol import Protocol
from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.features.landmark_expressions import EYEBALL, gaze_direction, read_landmarks
from fantasytalking.evaluation.metric import Metric, Record
from fantasytalking.evaluation.metrics.centered_correlation import centred_sums, pooled_correlation
from fantasytalking.evaluation.metrics.reenactment.aed import ExpressionDistance
from fantasytalking.evaluation.metrics.reenactment.apd import PoseDistance
from fantasytalking.evaluation.metrics.reenactment.expression_correlation import ExpressionTruth
from fantasytalking.evaluation.metrics.reenactment.expression_correlation_nano import NanoExpressionTruth
from fantasytalking.evaluation.metrics.reenactment.gaze_error import GazeError
from fantasytalking.evaluation.metrics.reenactment.leakage import Leakage
from fantasytalking.evaluation.metrics.reenactment.leakage_nano import NanoLeakage
from fantasytalking.evaluation.registry import choose
from fantasytalking.perception.expression_reader import NAMES, ExpressionReader, LinearMap, reading_values
from fantasytalking.perception.landmark_measures import interocular_distance
from fantasytalking.perception.motion_intensity import EXPRESSIVE
from tests.evaluation.test_multi_person_clips import beside
from tests.evaluation.video_edits import delayed, frozen, moved, same_length, with_frames

COUNT = 20
DISTANCES: tuple[tuple[Metric, str], ...] = (
    (ExpressionDistance(), "aed"),
    (PoseDistance(), "apd"),
    (GazeError(), "gaze_error"),
)


def score(metric: Metric, video: Clip, reference: Clip) -> Record:
    return metric.measure(video, reference)


@pytest.fixture(scope="module")
def face(clips: list[Clip]) -> np.ndarray:
    """(478, 3) of someone whose irises lie in the middle of the corners."""
    points = clips[0].track.landmarks[0].astype(np.float64)
    for iris, corners in ((468, [33, 133]), (473, [362, 263])):
        points[iris] = points[corners].mean(axis=0)
    return points


def acted(clip: Clip, landmarks: np.ndarray) -> Clip:
    """A clip in which these (T, 478, 3) landmarks are seen."""
    part = clip.part(slice(0, len(landmarks)))
    track = replace(part.track, landmarks=landmarks, present=np.ones(len(landmarks), bool))
    return Clip("made up", lambda: clip._video, lambda: clip.sound, track=lambda: track)


def every_other(points: np.ndarray, changed: np.ndarray) -> np.ndarray:
    return np.stack([changed if frame % 2 else points for frame in range(COUNT)])


def turned(points: np.ndarray, yaw: float) -> np.ndarray:
    c, s = np.cos(yaw), np.sin(yaw)
    centre = points.mean(axis=0)
    return (points - centre) @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T + centre


def test_known_answers_on_a_made_up_face(clips: list[Clip], face: np.ndarray) -> None:
    still = acted(clips[0], every_other(face, face))
    eyes = float(interocular_distance(face))
    raised, looking = face.copy(), face.copy()
    brows = EXPRESSIVE[:10]
    across = face[[362, 263]].mean(axis=0) - face[[33, 133]].mean(axis=0)
    raised[list(brows)] += 0.2 * across
    looking[[468, 473]] += EYEBALL * np.sin(np.radians(10)) * across
    assert np.linalg.norm(across) == pytest.approx(eyes, rel=1e-6)
    half = {
        "aed": (0.1 * len(brows) / len(EXPRESSIVE), raised),
        "apd": (10 / 3 / 2, turned(face, np.radians(10))),
        "gaze_error": (10 / 2, looking),
    }
    for metric, name in DISTANCES:
        expected, changed = half[name]
        one = acted(clips[0], every_other(face, changed))
        assert float(score(metric, one, still)[name]) == pytest.approx(expected, rel=0.02)
        assert float(score(metric, one, one)[name]) == pytest.approx(0, abs=1e-9)
        # A change that stays is nothing once it is centred, and double of every other frame's before.
        always = score(metric, acted(clips[0], every_other(changed, changed)), still)
        assert float(always[name]) == pytest.approx(2 * expected, rel=0.02)
        assert float(always[f"{name}_centred"]) == pytest.approx(0, abs=1e-6)


def test_a_raised_brow_is_read_as_one(clips: list[Clip], face: np.ndarray) -> None:
    raised = face.copy()
    raised[list(EXPRESSIVE[:10]), 1] -= 0.1 * float(interocular_distance(face))
    brow = read_landmarks(acted(clips[0], every_other(face, raised)).track)["brow"]
    assert brow[1::2] - brow[::2] == pytest.approx(0.1, rel=0.05)


def test_the_gaze_is_an_angle_of_the_eyeball() -> None:
    sines = np.sin(np.radians([[0, 0], [20, 0], [0, -30]]))
    expected = [[0, 0, 1], [np.sin(np.radians(20)), 0, np.cos(np.radians(20))], [0, -0.5, np.cos(np.radians(30))]]
    assert gaze_direction(EYEBALL * sines) == pytest.approx(np.array(expected))
    assert gaze_direction(np.array([[1.0, 0.0]])) == pytest.approx(np.array([[1.0, 0.0, 0.0]]))


def test_distances_on_videos_go_the_known_way(clips: list[Clip]) -> None:
    clip = clips[0].part(slice(0, 30))
    mine, other = same_length(clip, clips[2])
    late = [delayed(clip, frames) for frames in (0, 2, 6)]
    grey = with_frames(clip, np.full_like(clip.frames, 128))
    for metric, name in DISTANCES:
        again, soon, later = (float(score(metric, video, clip)[name]) for video in late)
        assert again == pytest.approx(0, abs=1e-9)
        assert again < soon < later
        assert float(score(metric, moved(clip, 2, 1), clip)[name]) < 0.7 * later
        for value in (name, f"{name}_centred"):
            assert score(metric, frozen(clip), clip)[value] > 0.5 * soon
            assert score(metric, other, mine)[value] > score(metric, late[0], clip)[value]
        unseen = metric.summarise([score(metric, grey, clip)])
        assert unseen["n"] == 0 and np.isnan(unseen[name])


def test_correlations_are_pooled_over_centred_clips() -> None:
    random = np.random.default_rng(0)
    one, other = random.normal(size=(2, 50))
    clips = [centred_sums(one + 100, 3 * one), centred_sums(other - 100, 3 * other)]
    assert pooled_correlation(clips) == pytest.approx(1)
    assert pooled_correlation([centred_sums(one, -one)]) == pytest.approx(-1)
    assert np.isnan(pooled_correlation([centred_sums(one, np.ones(50))]))


def test_what_is_read_follows_the_truth(protocol: Protocol, world: Path, clips: list[Clip]) -> None:
    metric = ExpressionTruth()
    real = [protocol.reference(clip, world) for clip in protocol.clips]
    own = metric.summarise([metric.measure(clip, None) for clip in real])
    assert own["n"] == 4
    assert min(own["expression_mouth"], own["expression_head"], own["expression_blink"]) > 0.75
    assert own["expression_gaze"] > 0.5
    truths = [clip.truth for clip in real]
    swapped = [
        metric.measure(Clip.from_arrays(clip.frames, clip.fps).with_truth(lambda truth=truth: truth), None)
        for clip, truth in zip(real, [*truths[1:], truths[0]], strict=True)
    ]
    strange = metric.summarise(swapped)
    for group in ("mouth", "head", "gaze"):
        assert strange[f"expression_{group}"] < own[f"expression_{group}"] - 0.3
    nobody_knows = metric.summarise([metric.measure(clips[0], None)])
    assert nobody_knows["n"] == 0 and np.isnan(nobody_knows["expression_mouth"])


def test_a_swap_of_drivers_is_all_leakage(protocol: Protocol, world: Path) -> None:
    metric = Leakage()
    one, other, third = (protocol.reference(clip, world) for clip in protocol.clips[:3])
    truths = one.truth, other.truth
    both = beside(one, other)
    straight = both.with_people([lambda: truths[0], lambda: truths[1]])
    crossed = both.with_people([lambda: truths[1], lambda: truths[0]])
    own, swapped = (metric.summarise([metric.measure(clip, None)]) for clip in (straight, crossed))
    assert own["n"] == 1
    assert own["leakage_own"] > 0.6 > own["leakage_other"] + 0.3
    assert swapped["leakage_1_2"] == pytest.approx(own["leakage_1_1"])
    assert swapped["leakage_own"] == pytest.approx(own["leakage_other"])
    assert np.isnan(own["leakage_3_3"])
    assert metric.summarise([metric.measure(third, None)])["n"] == 0


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights with a reader that tells the mouth's opening as MediaPipe measures it, and nothing else."""
    width = reading_values(np.random.default_rng(0).normal(size=(1, 478, 3))).shape[1]
    weights = np.zeros((width, len(NAMES)))
    weights[-8, NAMES.index("mouth_open")] = 1.0
    folder = tmp_path_factory.mktemp("weights")
    made = ExpressionReader(LinearMap(np.zeros(width), weights, np.zeros(len(NAMES))))
    made.save(folder / "expression_reader.safetensors")
    return folder


def test_another_reader_is_taken_by_name(protocol: Protocol, world: Path, reader: Path) -> None:
    one, other = (protocol.reference(clip, world) for clip in protocol.clips[:2])
    own, nano = ExpressionTruth(), NanoExpressionTruth(reader)
    plain, read = (metric.summarise([metric.measure(one, None)]) for metric in (own, nano))
    assert read["n"] == 1
    assert read["expression_nano_mouth"] == pytest.approx(plain["expression_mouth"], abs=1e-5)
    assert np.isnan(read["expression_nano_head"])
    both = beside(one, other).with_people([lambda: one.truth, lambda: other.truth])
    metric = NanoLeakage(reader)
    table = metric.summarise([metric.measure(both, None)])
    assert table["leakage_nano_own"] > 0.8 > table["leakage_nano_other"] + 0.3
    usable, skipped = choose(["expression_truth", "leakage_nano"], None)
    assert usable == ["expression_truth"]
    assert "expression_reader.safetensors" in skipped[0].told()
