"""Discovery, order and unique names of metrics."""

import sys
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.evaluation import metrics, registry
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import REGISTERED_METRICS, Metric, PairedMetric, register_metric
from fantasytalking.evaluation.metrics.quality.psnr import PSNR
from fantasytalking.evaluation.registry import METRICS

REPORT_ORDER = [
    *("fid", "fvd", "syncnet", "mouth_truth", "expression_truth", "expression_truth_nano", "leakage", "leakage_nano"),
    *("csim", "csim_nano", "idc", "es_arcface", "raft", "dis", "aesthetic", "lpips", "psnr", "ssim", "lmd", "pose"),
    *("gaze", "aed", "apd", "theval_score", "theval", "envelope", "motion", "blinks", "flicker", "first_frame"),
    *("colour", "real_time", "face_fraction", "face_detail"),
]

NEW_METRIC = '''
import numpy as np
from fantasytalking.evaluation.metric import FrameMetric, MetricValue, register_metric

@register_metric()
class LargestError(FrameMetric):
    """Largest difference of a pixel."""
    name = "largest_error"
    values = (MetricValue("largest_error", "levels", "lower", "Largest difference of a pixel."),)
    min_frame_side = 4

    def frame_score(self, frame, reference):
        return float(np.abs(frame.astype(int) - reference).max())
'''


def test_metrics_have_the_order_of_reports() -> None:
    assert list(METRICS) == REPORT_ORDER
    names = [value.name for metric in METRICS.values() for value in metric.values]
    assert len(names) == len(set(names))
    assert all(metric.name == name for name, metric in METRICS.items())


def test_a_new_metric_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "largest_error.py").write_text(NEW_METRIC)
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(tmp_path)])
    try:
        found = registry._discover_metrics()
    finally:
        REGISTERED_METRICS.pop("largest_error", None)
        sys.modules.pop(f"{metrics.__name__}.largest_error", None)
    assert list(found) == [*REPORT_ORDER, "largest_error"]
    metric = found["largest_error"]()
    reference = EvaluationClip.from_arrays(np.zeros((3, 8, 8, 3), np.uint8), 25.0)
    video = EvaluationClip.from_arrays(np.arange(3, dtype=np.uint8).repeat(192).reshape(3, 8, 8, 3), 25.0)
    metric.update(video, reference)
    assert metric.compute() == {"largest_error": 1, "n": 1}
    tiny = video.frames[:, :2, :2]
    metric.update(EvaluationClip.from_arrays(tiny, 25.0), EvaluationClip.from_arrays(tiny, 25.0))
    assert metric.compute()["n"] == 1, "frames that are too small are not measured"


def test_names_are_unique() -> None:
    with pytest.raises(AssertionError, match="psnr"):
        register_metric()(type("Other", (PSNR,), {}))


def test_paired_metrics_need_a_reference() -> None:
    paired = {name for name, metric in METRICS.items() if metric.paired}
    assert paired == {name for name, metric in METRICS.items() if issubclass(metric, PairedMetric)}
    assert all(issubclass(metric, Metric) for metric in METRICS.values())
    clip = EvaluationClip.from_arrays(np.zeros((1, 8, 8, 3), np.uint8), 25.0)
    with pytest.raises(AssertionError, match="reference"):
        PSNR().measure(clip, None)
