"""Numbers published in papers, for reference only: clips, crops, weights and code differ."""

from typing import NamedTuple

COMPARABILITY_NOTE = (
    "Not comparable with the table above: the clips are not named, and crops, weights and code differ. Papers report "
    "Frechet distances from 14.9 to 53.1 for one method on one dataset (HDTF)."
)


class PublishedResult(NamedTuple):
    """A row of a table in a paper, with the column names of the paper."""

    method: str
    source: str
    numbers: dict[str, float]


_PAPER_SOURCE = "FantasyTalking (arXiv 2504.04842), 50 clips"
_PAPER_COLUMNS = ("FID", "FVD", "Sync-C", "Sync-D", "ES", "IDC", "SD")

_PORTRAIT_SOURCE = "FantasyPortrait (arXiv 2507.12956), {} of ExprBench{}; estimators of AED and APD not stated"
_SELF_COLUMNS = ("FID", "FVD", "PSNR", "SSIM", "LMD", "MAE (gaze)")
_CROSS_COLUMNS = ("AED", "APD", "MAE (gaze)")


def _paper_result(method: str, *numbers: float) -> PublishedResult:
    return PublishedResult(method, _PAPER_SOURCE, dict(zip(_PAPER_COLUMNS, numbers, strict=True)))


def _reenactment_result(set_suffix: str, columns: tuple[str, ...], *numbers: float) -> PublishedResult:
    task = "self-reenactment" if columns is _SELF_COLUMNS else "cross-reenactment"
    return PublishedResult(
        "FantasyPortrait", _PORTRAIT_SOURCE.format(task, set_suffix), dict(zip(columns, numbers, strict=True))
    )


PUBLISHED_RESULTS: dict[str, tuple[PublishedResult, ...]] = {
    "hdtf": (
        _paper_result("AniPortrait", 37.672, 397.114, 1.095, 12.461, 0.9508, 0.9372, 4.639),
        _paper_result("EchoMimic", 33.765, 471.452, 2.514, 10.743, 0.9527, 0.9419, 5.783),
        _paper_result("Sonic", 30.396, 358.023, 4.197, 9.103, 0.9595, 0.9885, 8.832),
        _paper_result("Hallo3", 32.617, 347.358, 4.060, 9.371, 0.9566, 0.9774, 8.415),
        _paper_result("FantasyTalking", 27.695, 301.173, 4.226, 9.251, 0.9612, 0.9892, 11.745),
        PublishedResult("FantasyTalking", "reported by others", {"FID": 16.489}),
        PublishedResult("FantasyTalking", "reported by others", {"FID": 24.03}),
        PublishedResult("FantasyTalking", "reported by others", {"FID": 25.615}),
    ),
    "mead": (
        PublishedResult("FantasyTalking", "reported by others", {"FID": 46.617}),
        PublishedResult("FantasyTalking", "reported by others", {"FID": 45.24}),
    ),
    "exprbench": (
        _reenactment_result("", _SELF_COLUMNS, 64.66, 358.08, 25.76, 0.818, 5.08, 6.97),
        _reenactment_result("", _CROSS_COLUMNS, 33.45, 23.08, 14.55),
        _reenactment_result("-Multi", _SELF_COLUMNS, 84.09, 391.12, 24.29, 0.7652, 5.34, 7.42),
        _reenactment_result("-Multi", _CROSS_COLUMNS, 34.63, 30.64, 16.26),
    ),
    "celebvhq": (PublishedResult("FantasyTalking", "reported by others", {"FID": 43.14}),),
}
"""Published results by benchmark."""
