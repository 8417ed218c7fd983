"""Metrics on pixels (flow, flicker, color), and the real-time factor."""

import json
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.features.time_series import drift_per_second, mean_per_second
from fantasytalking.evaluation.metric import Metric
from fantasytalking.evaluation.metrics.motion.dis_flow import DISFlow
from fantasytalking.evaluation.metrics.quality.color_drift import ColorDrift, mean_lab_colors
from fantasytalking.evaluation.metrics.quality.first_frame_shift import FirstFrameShift
from fantasytalking.evaluation.metrics.quality.flicker import Flicker
from fantasytalking.evaluation.metrics.quality.real_time_factor import RealTimeFactor
from fantasytalking.media import write_video
from tests.evaluation.video_edits import brighten, freeze_frames, with_frames


def summary(metric: Metric, *pairs: tuple[EvaluationClip, EvaluationClip | None]) -> dict[str, float]:
    metric.reset()
    for video, reference in pairs:
        metric.update(video, reference)
    return metric.compute()


def test_flow_of_a_known_shift(clips: list[EvaluationClip]) -> None:
    image = np.kron(
        np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8)
    )
    frames = np.stack([image[20:148, 20 + 2 * step : 148 + 2 * step] for step in range(5)])
    inner = DISFlow().flow_magnitudes(frames)[:, 40:-40, 40:-40]
    # 2 px of 128 are 4 of 256.
    assert np.median(inner) == pytest.approx(4, abs=0.2)


def test_the_person_moves_more_than_the_background(clips: list[EvaluationClip]) -> None:
    clip = clips[0].slice_frames(slice(0, 30))
    moving, frozen = (summary(DISFlow(), (video, None)) for video in (clip, freeze_frames(clip)))
    assert moving["sd_dis"] > 3 * moving["bd_dis"] > 0
    assert frozen["sd_dis"] == pytest.approx(0, abs=1e-3) and frozen["bd_dis"] == pytest.approx(0, abs=1e-3)
    # Half of the frames at half the rate: the same speed in pixels per second.
    slower = summary(DISFlow(), (clip.slice_frames(slice(0, None, 2)), None))
    assert slower["sd_dis"] == pytest.approx(moving["sd_dis"], rel=0.35)
    assert summary(DISFlow(), (clip.slice_frames(slice(0, 1)), None))["n"] == 0


def test_flicker_is_the_amplitude(clips: list[EvaluationClip]) -> None:
    still = freeze_frames(clips[0].slice_frames(slice(0, 12)))
    sign = np.where(np.arange(12) % 2, 6, -6)[:, None, None, None]
    middle = np.clip(still.frames.astype(int), 10, 240)
    alternating = with_frames(still, (middle + sign).astype(np.uint8))
    fading = with_frames(still, np.clip(middle + 2 * np.arange(12)[:, None, None, None], 0, 255).astype(np.uint8) // 2)
    assert summary(Flicker(), (still, None)) == {"flicker": 0, "n": 1}
    assert summary(Flicker(), (alternating, None))["flicker"] == pytest.approx(6, abs=0.05)
    assert summary(Flicker(), (fading, None))["flicker"] < 0.3
    assert summary(Flicker(), (clips[0], None))["flicker"] < 1.5
    assert summary(Flicker(), (still.slice_frames(slice(0, 2)), None))["n"] == 0


def test_the_first_frame_is_compared_with_the_portrait(clips: list[EvaluationClip]) -> None:
    assert mean_lab_colors(np.full((1, 8, 8, 3), 255, np.uint8))[0] == pytest.approx([100, 0, 0], abs=0.1)
    clip = clips[0].slice_frames(slice(0, 10))
    shifts = [summary(FirstFrameShift(), (brighten(clip, by), clip))["first_frame_shift"] for by in (0, 10, 40)]
    assert shifts[0] == 0 and 2 < shifts[1] < shifts[2]
    assert summary(FirstFrameShift(), (clips[2], clip))["first_frame_shift"] > 1


def test_color_drift_is_the_change_over_time(clips: list[EvaluationClip]) -> None:
    still = freeze_frames(clips[0].slice_frames(slice(0, 50)))
    assert summary(ColorDrift(), (still, None)) == pytest.approx({"colour_drift": 0, "n": 1}, abs=1e-6)
    assert summary(ColorDrift(), (brighten(still, 40), None))["colour_drift"] == pytest.approx(0, abs=1e-6)
    reddening = still.frames.astype(int)
    reddening[..., 0] += np.arange(50)[:, None, None]
    drifting = with_frames(still, np.clip(reddening, 0, 255).astype(np.uint8))
    assert summary(ColorDrift(), (drifting, None))["colour_drift"] > 3
    curve = ColorDrift().measure(drifting, None)["colour_curve"]
    assert curve.shape == (2,) and curve[1] > 2 * curve[0] > 0


def test_curves_have_one_point_per_second() -> None:
    times = np.arange(60) / 25
    values = np.where(times < 1, 3.0, 5.0)
    values[4] = np.nan
    assert mean_per_second(values, times, 60 / 25).tolist() == [3, 5]
    assert np.isnan(mean_per_second(np.full(60, np.nan), times, 2.4)).all()
    assert drift_per_second(2 * times + 1, times) == pytest.approx(2)
    assert np.isnan(drift_per_second(values[:1], times[:1]))


def test_the_real_time_factor_is_that_of_the_record(clips: list[EvaluationClip], tmp_path: Path) -> None:
    path = tmp_path / "made.mp4"
    write_video(path, clips[0].frames[:5], fps=25)
    metric, clip = RealTimeFactor(), EvaluationClip.from_file(path)
    assert summary(metric, (clip, None))["n"] == 0
    record = {"result": {"seconds": 4.0, "seconds_taken": 50.0}}
    path.with_suffix(".json").write_text(json.dumps(record))
    assert summary(metric, (clip, None)) == {"real_time_factor": 12.5, "n": 1}
    path.with_suffix(".json").write_text("[somebody else's]")
    assert np.isnan(metric.measure(clip, None)["real_time_factor"])
    path.with_suffix(".json").write_text(json.dumps({"result": {"seconds": "4"}}))
    assert summary(metric, (clip, None))["n"] == 0
