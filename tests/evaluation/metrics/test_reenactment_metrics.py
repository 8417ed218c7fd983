"""Metrics of reenactment: known values on synthetic landmarks, known directions on videos."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.features.expression_reader import (
    EXPRESSION_PARAMETERS,
    ExpressionReader,
    LinearMap,
    landmark_features,
)
from fantasytalking.evaluation.features.landmark_expressions import EYEBALL_RADIUS, gaze_from_iris, landmark_expressions
from fantasytalking.evaluation.metric import Measurement, Metric
from fantasytalking.evaluation.metrics.centered_correlation import centered_sums, pooled_correlation
from fantasytalking.evaluation.metrics.reenactment.aed import AverageExpressionDistance
from fantasytalking.evaluation.metrics.reenactment.apd import AveragePoseDistance
from fantasytalking.evaluation.metrics.reenactment.expression_correlation import ExpressionCorrelation
from fantasytalking.evaluation.metrics.reenactment.expression_correlation_nano import NanoExpressionCorrelation
from fantasytalking.evaluation.metrics.reenactment.gaze_error import GazeError
from fantasytalking.evaluation.metrics.reenactment.leakage import ExpressionLeakage
from fantasytalking.evaluation.metrics.reenactment.leakage_nano import NanoLeakage
from fantasytalking.evaluation.registry import select_metrics
from fantasytalking.perception.landmark_measures import interocular_distance
from fantasytalking.perception.motion_intensity import EXPRESSION_LANDMARKS
from tests.evaluation.test_multi_person_clips import beside
from tests.evaluation.video_edits import delay_frames, freeze_frames, shift_pixels, trim_to_shortest, with_frames

COUNT = 20
DISTANCES: tuple[tuple[Metric, str], ...] = (
    (AverageExpressionDistance(), "aed"),
    (AveragePoseDistance(), "apd"),
    (GazeError(), "gaze_error"),
)


def score(metric: Metric, video: EvaluationClip, reference: EvaluationClip) -> Measurement:
    return metric.measure(video, reference)


@pytest.fixture(scope="module")
def face(clips: list[EvaluationClip]) -> np.ndarray:
    """(478, 3) landmarks with the irises in the middle of the eye corners."""
    points = clips[0].track.landmarks[0].astype(np.float64)
    for iris, corners in ((468, [33, 133]), (473, [362, 263])):
        points[iris] = points[corners].mean(axis=0)
    return points


def with_landmarks(clip: EvaluationClip, landmarks: np.ndarray) -> EvaluationClip:
    """Returns a clip whose track has these (T, 478, 3) landmarks."""
    part = clip.slice_frames(slice(0, len(landmarks)))
    track = replace(part.track, landmarks=landmarks, present=np.ones(len(landmarks), bool))
    return EvaluationClip("synthetic", lambda: clip._video, lambda: clip.audio, load_track=lambda: track)


def every_other(points: np.ndarray, changed: np.ndarray) -> np.ndarray:
    return np.stack([changed if frame % 2 else points for frame in range(COUNT)])


def turned(points: np.ndarray, yaw: float) -> np.ndarray:
    c, s = np.cos(yaw), np.sin(yaw)
    center = points.mean(axis=0)
    return (points - center) @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T + center


def test_known_distances_on_a_synthetic_face(clips: list[EvaluationClip], face: np.ndarray) -> None:
    still = with_landmarks(clips[0], every_other(face, face))
    eyes = float(interocular_distance(face))
    raised, looking = face.copy(), face.copy()
    brows = EXPRESSION_LANDMARKS[:10]
    across = face[[362, 263]].mean(axis=0) - face[[33, 133]].mean(axis=0)
    raised[list(brows)] += 0.2 * across
    looking[[468, 473]] += EYEBALL_RADIUS * np.sin(np.radians(10)) * across
    assert np.linalg.norm(across) == pytest.approx(eyes, rel=1e-6)
    half = {
        "aed": (0.1 * len(brows) / len(EXPRESSION_LANDMARKS), raised),
        "apd": (10 / 3 / 2, turned(face, np.radians(10))),
        "gaze_error": (10 / 2, looking),
    }
    for metric, name in DISTANCES:
        expected, changed = half[name]
        one = with_landmarks(clips[0], every_other(face, changed))
        assert float(score(metric, one, still)[name]) == pytest.approx(expected, rel=0.02)
        assert float(score(metric, one, one)[name]) == pytest.approx(0, abs=1e-9)
        # A constant change is 0 after centering, and before it twice the change of every other frame.
        always = score(metric, with_landmarks(clips[0], every_other(changed, changed)), still)
        assert float(always[name]) == pytest.approx(2 * expected, rel=0.02)
        assert float(always[f"{name}_centred"]) == pytest.approx(0, abs=1e-6)


def test_a_raised_brow_is_measured(clips: list[EvaluationClip], face: np.ndarray) -> None:
    raised = face.copy()
    raised[list(EXPRESSION_LANDMARKS[:10]), 1] -= 0.1 * float(interocular_distance(face))
    brow = landmark_expressions(with_landmarks(clips[0], every_other(face, raised)).track)["brow"]
    assert brow[1::2] - brow[::2] == pytest.approx(0.1, rel=0.05)


def test_the_gaze_is_the_angle_of_the_eyeball() -> None:
    sines = np.sin(np.radians([[0, 0], [20, 0], [0, -30]]))
    expected = [[0, 0, 1], [np.sin(np.radians(20)), 0, np.cos(np.radians(20))], [0, -0.5, np.cos(np.radians(30))]]
    assert gaze_from_iris(EYEBALL_RADIUS * sines) == pytest.approx(np.array(expected))
    assert gaze_from_iris(np.array([[1.0, 0.0]])) == pytest.approx(np.array([[1.0, 0.0, 0.0]]))


def test_distances_on_videos_have_the_known_direction(clips: list[EvaluationClip]) -> None:
    clip = clips[0].slice_frames(slice(0, 20))
    mine, other = trim_to_shortest(clip, clips[2])
    late = [delay_frames(clip, frames) for frames in (0, 2, 6)]
    gray = with_frames(clip, np.full_like(clip.frames, 128))
    for metric, name in DISTANCES:
        again, soon, later = (float(score(metric, video, clip)[name]) for video in late)
        assert again == pytest.approx(0, abs=1e-9)
        assert again < soon < later
        assert float(score(metric, shift_pixels(clip, 2, 1), clip)[name]) < 0.7 * later
        for value in (name, f"{name}_centred"):
            assert score(metric, freeze_frames(clip), clip)[value] > 0.5 * soon
            assert score(metric, other, mine)[value] > score(metric, late[0], clip)[value]
        unseen = metric.summarize([score(metric, gray, clip)])
        assert unseen["n"] == 0 and np.isnan(unseen[name])


def test_correlations_are_pooled_over_centered_clips() -> None:
    random = np.random.default_rng(0)
    one, other = random.normal(size=(2, 50))
    clips = [centered_sums(one + 100, 3 * one), centered_sums(other - 100, 3 * other)]
    assert pooled_correlation(clips) == pytest.approx(1)
    assert pooled_correlation([centered_sums(one, -one)]) == pytest.approx(-1)
    assert np.isnan(pooled_correlation([centered_sums(one, np.ones(50))]))


def test_measured_expressions_follow_the_truth(
    protocol: BenchmarkProtocol, world: Path, clips: list[EvaluationClip]
) -> None:
    metric = ExpressionCorrelation()
    real = [protocol.reference_clip(clip, world) for clip in protocol.clips]
    own = metric.summarize([metric.measure(clip, None) for clip in real])
    assert own["n"] == 4
    assert min(own["expression_mouth"], own["expression_head"], own["expression_blink"]) > 0.75
    assert own["expression_gaze"] > 0.5
    truths = [clip.ground_truth for clip in real]
    swapped = [
        metric.measure(
            EvaluationClip.from_arrays(clip.frames, clip.fps).with_ground_truth(lambda truth=truth: truth), None
        )
        for clip, truth in zip(real, [*truths[1:], truths[0]], strict=True)
    ]
    others = metric.summarize(swapped)
    for group in ("mouth", "head", "gaze"):
        assert others[f"expression_{group}"] < own[f"expression_{group}"] - 0.3
    unknown = metric.summarize([metric.measure(clips[0], None)])
    assert unknown["n"] == 0 and np.isnan(unknown["expression_mouth"])


def test_a_swap_of_drivers_is_all_leakage(protocol: BenchmarkProtocol, world: Path) -> None:
    metric = ExpressionLeakage()
    one, other, third = (protocol.reference_clip(clip, world) for clip in protocol.clips[:3])
    truths = one.ground_truth, other.ground_truth
    both = beside(one, other)
    straight = both.with_people([lambda: truths[0], lambda: truths[1]])
    crossed = both.with_people([lambda: truths[1], lambda: truths[0]])
    own, swapped = (metric.summarize([metric.measure(clip, None)]) for clip in (straight, crossed))
    assert own["n"] == 1
    assert own["leakage_own"] > 0.6 > own["leakage_other"] + 0.3
    assert swapped["leakage_1_2"] == pytest.approx(own["leakage_1_1"])
    assert swapped["leakage_own"] == pytest.approx(own["leakage_other"])
    assert np.isnan(own["leakage_3_3"])
    assert metric.summarize([metric.measure(third, None)])["n"] == 0


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights with a reader of the mouth opening only, as MediaPipe measures it."""
    width = landmark_features(np.random.default_rng(0).normal(size=(1, 478, 3))).shape[1]
    weights = np.zeros((width, len(EXPRESSION_PARAMETERS)))
    weights[-8, EXPRESSION_PARAMETERS.index("mouth_open")] = 1.0
    folder = tmp_path_factory.mktemp("weights")
    mouth_reader = ExpressionReader(LinearMap(np.zeros(width), weights, np.zeros(len(EXPRESSION_PARAMETERS))))
    mouth_reader.save(folder / "expression_reader.safetensors")
    return folder


def test_the_nano_metrics_use_their_own_reader(protocol: BenchmarkProtocol, world: Path, reader: Path) -> None:
    one, other = (protocol.reference_clip(clip, world) for clip in protocol.clips[:2])
    own, nano = ExpressionCorrelation(), NanoExpressionCorrelation(reader)
    plain, read = (metric.summarize([metric.measure(one, None)]) for metric in (own, nano))
    assert read["n"] == 1
    assert read["expression_nano_mouth"] == pytest.approx(plain["expression_mouth"], abs=1e-5)
    assert np.isnan(read["expression_nano_head"])
    both = beside(one, other).with_people([lambda: one.ground_truth, lambda: other.ground_truth])
    metric = NanoLeakage(reader)
    table = metric.summarize([metric.measure(both, None)])
    assert table["leakage_nano_own"] > 0.8 > table["leakage_nano_other"] + 0.3
    usable, skipped = select_metrics(["expression_truth", "leakage_nano"], None)
    assert usable == ["expression_truth"]
    assert "expression_reader.safetensors" in skipped[0].describe()
