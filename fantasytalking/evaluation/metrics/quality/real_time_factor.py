"""Real-time factor of the generation, read from the record beside the video."""

import numpy as np

from fantasytalking.common.errors import InputError
from fantasytalking.common.limits import MAX_RECORD_BYTES
from fantasytalking.common.text_files import read_json
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import MeanMetric, Measurement, MetricValue, register_metric


@register_metric(rank=320)
class RealTimeFactor(MeanMetric):
    """Seconds of computation per second of video: `seconds_taken` over `seconds` of the `result` in VIDEO.json.

    scripts/infer.py writes this file beside VIDEO.mp4. Compare runs of one machine only.
    """

    name = "real_time"
    values = (
        MetricValue("real_time_factor", "s/s", "lower", "Seconds of computation per second of video, on its machine."),
    )
    paired = False

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Returns the factor; NaN if there is no such record beside the video."""
        path = video.path and video.path.with_suffix(".json")
        if path is None:
            return self.not_measurable()
        try:
            record = read_json(path, "record", MAX_RECORD_BYTES)
        except InputError:  # none, or an unrelated file of that name
            return self.not_measurable()
        return {"real_time_factor": np.array(_real_time_factor(record.get("result")))}


def _real_time_factor(result: object) -> float:
    if not isinstance(result, dict):
        return float("nan")
    taken, seconds = result.get("seconds_taken"), result.get("seconds")
    if not isinstance(taken, int | float) or not isinstance(seconds, int | float) or taken < 0 or seconds <= 0:
        return float("nan")
    return taken / seconds
