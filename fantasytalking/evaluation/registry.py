"""Every metric by name, in the order of the report, and which of them can be had with the weights at hand."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import fingerprint
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol
from fantasytalking.evaluation.metric import Metric, Target
from fantasytalking.evaluation.metrics.identity.csim import CSIM
from fantasytalking.evaluation.metrics.identity.csim_nano import NanoCSIM
from fantasytalking.evaluation.metrics.identity.idc import IDC
from fantasytalking.evaluation.metrics.motion.blink_rate import BlinkRate
from fantasytalking.evaluation.metrics.motion.dis_flow import DISFlow
from fantasytalking.evaluation.metrics.motion.output_motion import OutputMotionIntensity
from fantasytalking.evaluation.metrics.motion.raft_flow import RAFTFlow
from fantasytalking.evaluation.metrics.motion.theval import THEval
from fantasytalking.evaluation.metrics.motion.theval_score import THEvalScore
from fantasytalking.evaluation.metrics.quality.aesthetic import Aesthetic
from fantasytalking.evaluation.metrics.quality.color_drift import ColorDrift
from fantasytalking.evaluation.metrics.quality.fid import FID
from fantasytalking.evaluation.metrics.quality.first_frame_shift import FirstFrameShift
from fantasytalking.evaluation.metrics.quality.flicker import Flicker
from fantasytalking.evaluation.metrics.quality.fvd import FVD
from fantasytalking.evaluation.metrics.quality.lpips import LPIPS
from fantasytalking.evaluation.metrics.quality.psnr import PSNR
from fantasytalking.evaluation.metrics.quality.real_time_factor import RealTimeFactor
from fantasytalking.evaluation.metrics.quality.ssim import SSIM
from fantasytalking.evaluation.metrics.reenactment.aed import AverageExpressionDistance
from fantasytalking.evaluation.metrics.reenactment.apd import AveragePoseDistance
from fantasytalking.evaluation.metrics.reenactment.expression_correlation import ExpressionCorrelation
from fantasytalking.evaluation.metrics.reenactment.expression_correlation_nano import NanoExpressionCorrelation
from fantasytalking.evaluation.metrics.reenactment.expression_similarity import ArcFaceExpressionSimilarity
from fantasytalking.evaluation.metrics.reenactment.gaze_error import GazeError
from fantasytalking.evaluation.metrics.reenactment.head_pose_error import HeadPoseError
from fantasytalking.evaluation.metrics.reenactment.leakage import ExpressionLeakage
from fantasytalking.evaluation.metrics.reenactment.leakage_nano import NanoLeakage
from fantasytalking.evaluation.metrics.reenactment.lmd import LMD
from fantasytalking.evaluation.metrics.sync.audio_mouth_gain import AudioMouthGain
from fantasytalking.evaluation.metrics.sync.mouth_correlation import MouthCorrelation
from fantasytalking.evaluation.metrics.sync.sync_scores import SyncNetMetric
from fantasytalking.evaluation.weights import MetricWeights, locate_metric_weights

METRICS: dict[str, type[Metric]] = {
    metric.name: metric
    for metric in (
        FID,
        FVD,
        SyncNetMetric,
        MouthCorrelation,
        ExpressionCorrelation,
        NanoExpressionCorrelation,
        ExpressionLeakage,
        NanoLeakage,
        CSIM,
        NanoCSIM,
        IDC,
        ArcFaceExpressionSimilarity,
        RAFTFlow,
        DISFlow,
        Aesthetic,
        LPIPS,
        PSNR,
        SSIM,
        LMD,
        HeadPoseError,
        GazeError,
        AverageExpressionDistance,
        AveragePoseDistance,
        THEvalScore,
        THEval,
        AudioMouthGain,
        OutputMotionIntensity,
        BlinkRate,
        Flicker,
        FirstFrameShift,
        ColorDrift,
        RealTimeFactor,
    )
}


class SkippedMetric(NamedTuple):
    """A metric that cannot be computed, and the weights that are not there."""

    name: str
    missing_weights: tuple[MetricWeights, ...]

    def describe(self) -> str:
        """One line."""
        return f"{self.name}: {'; '.join(weights.describe() for weights in self.missing_weights)}"


def select_metrics(
    names: Sequence[str] | None, weights: Path | None, required: Sequence[str] = ()
) -> tuple[list[str], list[SkippedMetric]]:
    """The metrics that can be computed, in the order of the registry, and those that are skipped.

    Args:
        names: what was asked for; None: everything.
        weights: folder of weight files, None: none are at hand.
        required: metrics that must not be skipped.

    Raises:
        InputError: an unknown name, a required metric without its weights, damaged weights, or no metric is left.
    """
    unknown = sorted({*(names or ()), *required} - METRICS.keys())
    if unknown:
        raise InputError(f"there is no metric '{unknown[0]}'; known: {', '.join(METRICS)}")
    usable, skipped = [], []
    for name, metric in METRICS.items():
        if names is not None and name not in (*names, *required):
            continue
        missing = tuple(need for need in metric.required_weights if locate_metric_weights(need, weights) is None)
        if missing:
            skipped.append(SkippedMetric(name, missing))
        else:
            usable.append(name)
    for entry in skipped:
        if entry.name in required:
            raise InputError(f"metric {entry.describe()} must lie in --weights '{weights}'")
    if not usable:
        raise InputError(f"none of the metrics can be computed without weights: {skipped[0].describe()}")
    return usable, skipped


def metrics_for_benchmark(names: Sequence[str], protocol: BenchmarkProtocol, requested: Sequence[str]) -> list[str]:
    """Those of the metrics that a benchmark has.

    Raises:
        InputError: one that was asked for is none of them, or none is left.
    """
    reasons = {name: _incompatibility(METRICS[name], protocol) for name in names}
    for name in requested:
        if reason := reasons.get(name):
            raise InputError(f"metric '{name}' {reason}; leave it out")
    left = [name for name in names if not reasons[name]]
    if not left:
        raise InputError(f"metric '{names[0]}' {reasons[names[0]]}; choose another of {', '.join(METRICS)}")
    return left


def supports_benchmark(name: str, protocol: BenchmarkProtocol) -> bool:
    """Whether a benchmark has a metric."""
    return not _incompatibility(METRICS[name], protocol)


def _incompatibility(metric: type[Metric], protocol: BenchmarkProtocol) -> str:
    """Why a benchmark does not have a metric, or nothing."""
    if metric.reenactment_only and not protocol.is_reenactment:
        return f"is about those who drive, and nobody does in benchmark {protocol.benchmark}"
    if metric.uses_audio and protocol.is_reenactment:
        return "hears, and what a face drives need not be heard"
    if metric.paired and metric.target is Target.REFERENCE and not protocol.answered:
        return "holds videos against those that they should be, which nobody has for cross-reenactment of real people"
    return ""


def build_metric(name: str, weights: Path | None) -> Metric:
    """A metric whose weights are there."""
    return METRICS[name](weights)


def measurement_key(name: str, weights: Path | None) -> str:
    """What a metric's records say that they were measured by: its version and, where it needs any, its weights."""
    return " ".join([str(METRICS[name].version), *_weight_fingerprints(name, weights)])


@cache
def _weight_fingerprints(name: str, weights: Path | None) -> list[str]:
    """Of every file or folder of weights that a metric needs."""
    places = [locate_metric_weights(need, weights) for need in METRICS[name].required_weights]
    return [fingerprint(place)[:16] for place in places if place is not None]
