"""How long a video took to make, as the record beside it tells."""

from collections.abc import Sequence

import numpy as np

from fantasytalking.common.errors import InputError
from fantasytalking.common.tensor_io import read_json
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue, mean_over_clips

MAX_GENERATION_RECORD_BYTES = 1 << 20


class RealTimeFactor(Metric):
    """Seconds of work for a second of video: `seconds_taken` over `seconds` of the `result` in VIDEO.json, which
    scripts/infer.py writes beside VIDEO.mp4. Machines differ: compare runs of one machine only."""

    name = "real_time"
    values = (
        MetricValue("real_time_factor", "s/s", "lower", "Seconds of work for a second of video, on its machine."),
    )
    paired = False

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """The factor; NaN where no such record stands beside the video."""
        path = video.path and video.path.with_suffix(".json")
        if path is None or not path.is_file() or path.stat().st_size > MAX_GENERATION_RECORD_BYTES:
            return {"real_time_factor": np.array(np.nan)}
        try:
            told = read_json(path)
        except InputError:  # a file of somebody else's, which only has that name
            return {"real_time_factor": np.array(np.nan)}
        return {"real_time_factor": np.array(_real_time_factor(told.get("result")))}

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """The mean over clips that have a record."""
        return mean_over_clips(measurements, ("real_time_factor",))


def _real_time_factor(result: object) -> float:
    if not isinstance(result, dict):
        return float("nan")
    taken, seconds = result.get("seconds_taken"), result.get("seconds")
    if not isinstance(taken, int | float) or not isinstance(seconds, int | float) or taken < 0 or seconds <= 0:
        return float("nan")
    return taken / seconds
