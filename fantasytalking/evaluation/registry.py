"""Every metric by name, in the order of the report, and which of them can be had with the weights at hand."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import fingerprint
from fantasytalking.evaluation.benchmark.protocol import Protocol
from fantasytalking.evaluation.metric import Against, Metric
from fantasytalking.evaluation.metrics.identity.csim import CSIM
from fantasytalking.evaluation.metrics.identity.csim_nano import NanoCSIM
from fantasytalking.evaluation.metrics.identity.idc import IDC
from fantasytalking.evaluation.metrics.motion.blink_rate import BlinkRate
from fantasytalking.evaluation.metrics.motion.dis_flow import DISFlow
from fantasytalking.evaluation.metrics.motion.output_motion import MotionIntensity
from fantasytalking.evaluation.metrics.motion.raft_flow import RAFTFlow
from fantasytalking.evaluation.metrics.motion.theval import THEval
from fantasytalking.evaluation.metrics.motion.theval_score import THEvalScore
from fantasytalking.evaluation.metrics.quality.aesthetic import Aesthetic
from fantasytalking.evaluation.metrics.quality.color_drift import ColourDrift
from fantasytalking.evaluation.metrics.quality.fid import FID
from fantasytalking.evaluation.metrics.quality.first_frame_shift import FirstFrameShift
from fantasytalking.evaluation.metrics.quality.flicker import Flicker
from fantasytalking.evaluation.metrics.quality.fvd import FVD
from fantasytalking.evaluation.metrics.quality.lpips import LPIPS
from fantasytalking.evaluation.metrics.quality.psnr import PSNR
from fantasytalking.evaluation.metrics.quality.real_time_factor import RealTimeFactor
from fantasytalking.evaluation.metrics.quality.ssim import SSIM
from fantasytalking.evaluation.metrics.reenactment.aed import ExpressionDistance
from fantasytalking.evaluation.metrics.reenactment.apd import PoseDistance
from fantasytalking.evaluation.metrics.reenactment.expression_correlation import ExpressionTruth
from fantasytalking.evaluation.metrics.reenactment.expression_correlation_nano import NanoExpressionTruth
from fantasytalking.evaluation.metrics.reenactment.expression_similarity import ESArcFace
from fantasytalking.evaluation.metrics.reenactment.gaze_error import GazeError
from fantasytalking.evaluation.metrics.reenactment.head_pose_error import HeadPoseDistance
from fantasytalking.evaluation.metrics.reenactment.leakage import Leakage
from fantasytalking.evaluation.metrics.reenactment.leakage_nano import NanoLeakage
from fantasytalking.evaluation.metrics.reenactment.lmd import LMD
from fantasytalking.evaluation.metrics.sync.audio_mouth_gain import EnvelopeGain
from fantasytalking.evaluation.metrics.sync.mouth_correlation import MouthTruth
from fantasytalking.evaluation.metrics.sync.sync_scores import Sync
from fantasytalking.evaluation.weights import Weights, find

METRICS: dict[str, type[Metric]] = {
    metric.name: metric
    for metric in (
        FID,
        FVD,
        Sync,
        MouthTruth,
        ExpressionTruth,
        NanoExpressionTruth,
        Leakage,
        NanoLeakage,
        CSIM,
        NanoCSIM,
        IDC,
        ESArcFace,
        RAFTFlow,
        DISFlow,
        Aesthetic,
        LPIPS,
        PSNR,
        SSIM,
        LMD,
        HeadPoseDistance,
        GazeError,
        ExpressionDistance,
        PoseDistance,
        THEvalScore,
        THEval,
        EnvelopeGain,
        MotionIntensity,
        BlinkRate,
        Flicker,
        FirstFrameShift,
        ColourDrift,
        RealTimeFactor,
    )
}


class Skipped(NamedTuple):
    """A metric that cannot be computed, and the weights that are not there."""

    name: str
    missing: tuple[Weights, ...]

    def told(self) -> str:
        """One line."""
        return f"{self.name}: {'; '.join(weights.told() for weights in self.missing)}"


def choose(
    names: Sequence[str] | None, weights: Path | None, required: Sequence[str] = ()
) -> tuple[list[str], list[Skipped]]:
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
        missing = tuple(need for need in metric.needs if find(need, weights) is None)
        if missing:
            skipped.append(Skipped(name, missing))
        else:
            usable.append(name)
    for entry in skipped:
        if entry.name in required:
            raise InputError(f"metric {entry.told()} must lie in --weights '{weights}'")
    if not usable:
        raise InputError(f"none of the metrics can be computed without weights: {skipped[0].told()}")
    return usable, skipped


def suitable(names: Sequence[str], protocol: Protocol, asked: Sequence[str]) -> list[str]:
    """Those of the metrics that a benchmark has.

    Raises:
        InputError: one that was asked for is none of them, or none is left.
    """
    reasons = {name: _unsuited(METRICS[name], protocol) for name in names}
    for name in asked:
        if reason := reasons.get(name):
            raise InputError(f"metric '{name}' {reason}; leave it out")
    left = [name for name in names if not reasons[name]]
    if not left:
        raise InputError(f"metric '{names[0]}' {reasons[names[0]]}; choose another of {', '.join(METRICS)}")
    return left


def is_suitable(name: str, protocol: Protocol) -> bool:
    """Whether a benchmark has a metric."""
    return not _unsuited(METRICS[name], protocol)


def _unsuited(metric: type[Metric], protocol: Protocol) -> str:
    """Why a benchmark does not have a metric, or nothing."""
    if metric.driven and not protocol.driven:
        return f"is about those who drive, and nobody does in benchmark {protocol.benchmark}"
    if metric.hears and protocol.driven:
        return "hears, and what a face drives need not be heard"
    if metric.paired and metric.against is Against.REFERENCE and not protocol.answered:
        return "holds videos against those that they should be, which nobody has for cross-reenactment of real people"
    return ""


def build(name: str, weights: Path | None) -> Metric:
    """A metric whose weights are there."""
    return METRICS[name](weights)


def measured_by(name: str, weights: Path | None) -> str:
    """What a metric's records say that they were measured by: its version and, where it needs any, its weights."""
    return " ".join([str(METRICS[name].version), *_prints(name, weights)])


@cache
def _prints(name: str, weights: Path | None) -> list[str]:
    """Of every file or folder of weights that a metric needs."""
    places = [find(need, weights) for need in METRICS[name].needs]
    return [fingerprint(place)[:16] for place in places if place is not None]
