"""All metrics by name, in the order of reports, and the selection of those that can be computed."""

import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fantasytalking.common.config import did_you_mean
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import fingerprint
from fantasytalking.evaluation import metrics
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol
from fantasytalking.evaluation.metric import REGISTERED_METRICS, Metric, Target
from fantasytalking.evaluation.weights import MetricWeights, locate_metric_weights


def _discover_metrics() -> dict[str, type[Metric]]:
    """Imports every module below metrics/ and returns the registered classes, sorted by rank, then by name."""
    for module in pkgutil.walk_packages(metrics.__path__, f"{metrics.__name__}."):
        importlib.import_module(module.name)
    ordered = sorted(REGISTERED_METRICS.items(), key=lambda entry: (entry[1].rank, entry[0]))
    return {name: registered.metric for name, registered in ordered}


METRICS: dict[str, type[Metric]] = _discover_metrics()


class SkippedMetric(NamedTuple):
    """A metric that cannot be computed because weights are missing."""

    name: str
    missing_weights: tuple[MetricWeights, ...]

    def describe(self) -> str:
        """Returns the name and the missing weights in one line."""
        return f"{self.name}: {'; '.join(weights.describe() for weights in self.missing_weights)}"


def select_metrics(
    names: Sequence[str] | None, weights: Path | None, required: Sequence[str] = ()
) -> tuple[list[str], list[SkippedMetric]]:
    """Returns the metrics that can be computed, in the order of the registry, and those that are skipped.

    Args:
        names: metrics to select from; None = all.
        weights: folder of weight files; None = no weights.
        required: metrics that must not be skipped.

    Raises:
        InputError: a name is unknown, weights of a required metric are missing, weights are damaged, or no metric
            remains.
    """
    unknown = sorted({*(names or ()), *required} - METRICS.keys())
    if unknown:
        raise InputError(
            f"metric '{unknown[0]}' does not exist;{did_you_mean(unknown[0], list(METRICS))} known: "
            f"{', '.join(METRICS)}",
            code=ErrorCode.unknown_key,
            field="--metrics" if unknown[0] in (names or ()) else "--required-metrics",
            value=unknown[0],
        )
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
            raise _missing_weights(f"metric {entry.describe()} is not in --weights '{weights}'; add the file", entry)
    if not usable:
        raise _missing_weights(
            f"no metric can be computed without weights: {skipped[0].describe()}; give the folder with --weights",
            skipped[0],
        )
    return usable, skipped


def _missing_weights(message: str, entry: SkippedMetric) -> InputError:
    return InputError(message, code=ErrorCode.missing_weights, field="--weights", value=entry.missing_weights[0].file)


def metrics_for_benchmark(names: Sequence[str], protocol: BenchmarkProtocol, requested: Sequence[str]) -> list[str]:
    """Returns the metrics that apply to a benchmark.

    Args:
        names: metrics to select from.
        protocol: the frozen benchmark.
        requested: metrics named by the user, which must apply.

    Raises:
        InputError: a requested metric does not apply, or no metric remains.
    """
    reasons = {name: _incompatibility(METRICS[name], protocol) for name in names}
    for name in requested:
        if reason := reasons.get(name):
            raise _unsupported_metric(name, f"metric '{name}' {reason}; leave it out")
    left = [name for name in names if not reasons[name]]
    if not left:
        raise _unsupported_metric(
            names[0], f"metric '{names[0]}' {reasons[names[0]]}; choose another of {', '.join(METRICS)}"
        )
    return left


def _unsupported_metric(name: str, message: str) -> InputError:
    return InputError(message, code=ErrorCode.unsupported, field="--metrics", value=name)


def supports_benchmark(name: str, protocol: BenchmarkProtocol) -> bool:
    """Returns whether a metric applies to a benchmark."""
    return not _incompatibility(METRICS[name], protocol)


def _incompatibility(metric: type[Metric], protocol: BenchmarkProtocol) -> str:
    """Returns why a metric does not apply to a benchmark; empty if it does."""
    if metric.reenactment_only and not protocol.is_reenactment:
        return f"needs driving videos, which benchmark {protocol.benchmark} does not have"
    if metric.uses_audio and protocol.is_reenactment:
        return "needs audio, which reenactment does not have"
    if metric.paired and metric.target is Target.REFERENCE and not protocol.answered:
        return "needs ground-truth videos, which do not exist for cross-reenactment of real people"
    return ""


def build_metric(name: str, weights: Path | None) -> Metric:
    """Returns a metric whose weights exist in the folder `weights`."""
    return METRICS[name](weights)


def measurement_key(name: str, weights: Path | None) -> str:
    """Returns the version of a metric and the fingerprints of its weights, as stored in its records."""
    return " ".join([str(METRICS[name].version), *_weight_fingerprints(name, weights)])


@cache
def _weight_fingerprints(name: str, weights: Path | None) -> list[str]:
    """Returns the fingerprint of each file or folder of weights that a metric needs."""
    paths = [locate_metric_weights(need, weights) for need in METRICS[name].required_weights]
    return [fingerprint(path)[:16] for path in paths if path is not None]
