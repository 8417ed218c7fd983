"""Mouth correlation: high for the real video, with a lag for a late one, low for other clips."""

from pathlib import Path

import numpy as np

from fantasytalking.common.errors import ErrorCode
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.ground_truth import GROUND_TRUTH_KEYS, load_ground_truth
from fantasytalking.evaluation.metrics.sync.mouth_correlation import MouthCorrelation
from tests.evaluation.conftest import LATE
from tests.helpers.errors import raises_input_error


def score(videos: list[EvaluationClip]) -> dict[str, float]:
    metric = MouthCorrelation()
    for video in videos:
        metric.update(video, None)
    return metric.compute()


def test_real_late_and_other_videos(protocol: BenchmarkProtocol, world: Path, late: Path) -> None:
    real = [protocol.reference_clip(clip, world) for clip in protocol.clips]
    own = score(real)
    assert own["mouth_truth"] > 0.9
    assert own["mouth_lag"] == 0
    assert own["n"] == 4
    delayed = score([protocol.prediction_clip(clip, late / f"{clip.name}.mp4", world) for clip in protocol.clips])
    assert delayed["mouth_lag"] == LATE
    assert delayed["mouth_truth"] < own["mouth_truth"] - 0.3
    assert delayed["mouth_truth_best"] > 0.88
    frames, fps = real[0].frames, real[0].fps
    truth = real[0].ground_truth
    frozen = EvaluationClip.from_arrays(np.repeat(frames[:1], len(frames), axis=0), fps).with_ground_truth(
        lambda: truth
    )
    backwards = EvaluationClip.from_arrays(frames[::-1].copy(), fps).with_ground_truth(lambda: truth)
    assert not score([frozen])["mouth_truth_best"] > 0.5
    assert score([backwards])["mouth_truth_best"] < 0.8 < score(real[:1])["mouth_truth_best"]


def test_clips_without_ground_truth_are_excluded(clips: list[EvaluationClip]) -> None:
    result = score([clips[0]])  # a plain file has no ground truth
    assert result["n"] == 0
    assert np.isnan(result["mouth_truth"])
    gray = EvaluationClip.from_arrays(np.full((20, 64, 64, 3), 128, np.uint8), 25.0).with_ground_truth(
        lambda: {"mouth_open": np.linspace(0, 1, 20)}
    )
    assert score([gray])["n"] == 0


def test_the_ground_truth_is_that_of_the_segment(world: Path, tmp_path: Path) -> None:
    path = next(world.glob("id*/truth.json"))
    later, whole = load_ground_truth(path, 25.0, 0.4), load_ground_truth(path, 25.0)
    assert later.keys() == whole.keys() == set(GROUND_TRUTH_KEYS)
    assert all(np.array_equal(later[name], whole[name][10:]) for name in GROUND_TRUTH_KEYS)
    with raises_input_error(ErrorCode.conflict, "fps", 25.0):
        load_ground_truth(path, 30.0)
    (tmp_path / "truth.json").write_text('{"frames": [{}], "fps": 25}')
    with raises_input_error(ErrorCode.malformed_file, "truth.json", str(tmp_path / "truth.json")):
        load_ground_truth(tmp_path / "truth.json", 25.0)
