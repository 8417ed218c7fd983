"""Numbers that papers report, for reading beside ours: other clips, crops, weights and code, so never a comparison."""

from typing import NamedTuple

NOT_COMPARABLE = (
    "Not comparable with the table above: the clips are not named, and crops, weights and code differ. One method "
    "on one data set (HDTF) is reported with a Frechet distance from 14.9 to 53.1."
)


class Reported(NamedTuple):
    """One line of a paper's table, under that table's own names."""

    method: str
    source: str
    numbers: dict[str, float]


_PAPER = "FantasyTalking (arXiv 2504.04842), 50 clips"
_COLUMNS = ("FID", "FVD", "Sync-C", "Sync-D", "ES", "IDC", "SD")

_PORTRAIT = "FantasyPortrait (arXiv 2507.12956), {} of ExprBench{}; readers of AED and APD not stated"
_SELF = ("FID", "FVD", "PSNR", "SSIM", "LMD", "MAE (gaze)")
_CROSS = ("AED", "APD", "MAE (gaze)")


def _line(method: str, *numbers: float) -> Reported:
    return Reported(method, _PAPER, dict(zip(_COLUMNS, numbers, strict=True)))


def _reenacted(several: str, columns: tuple[str, ...], *numbers: float) -> Reported:
    task = "self-reenactment" if columns is _SELF else "cross-reenactment"
    return Reported("FantasyPortrait", _PORTRAIT.format(task, several), dict(zip(columns, numbers, strict=True)))


REPORTED: dict[str, tuple[Reported, ...]] = {
    "hdtf": (
        _line("AniPortrait", 37.672, 397.114, 1.095, 12.461, 0.9508, 0.9372, 4.639),
        _line("EchoMimic", 33.765, 471.452, 2.514, 10.743, 0.9527, 0.9419, 5.783),
        _line("Sonic", 30.396, 358.023, 4.197, 9.103, 0.9595, 0.9885, 8.832),
        _line("Hallo3", 32.617, 347.358, 4.060, 9.371, 0.9566, 0.9774, 8.415),
        _line("FantasyTalking", 27.695, 301.173, 4.226, 9.251, 0.9612, 0.9892, 11.745),
        Reported("FantasyTalking", "reported by others", {"FID": 16.489}),
        Reported("FantasyTalking", "reported by others", {"FID": 24.03}),
        Reported("FantasyTalking", "reported by others", {"FID": 25.615}),
    ),
    "mead": (
        Reported("FantasyTalking", "reported by others", {"FID": 46.617}),
        Reported("FantasyTalking", "reported by others", {"FID": 45.24}),
    ),
    "exprbench": (
        _reenacted("", _SELF, 64.66, 358.08, 25.76, 0.818, 5.08, 6.97),
        _reenacted("", _CROSS, 33.45, 23.08, 14.55),
        _reenacted("-Multi", _SELF, 84.09, 391.12, 24.29, 0.7652, 5.34, 7.42),
        _reenacted("-Multi", _CROSS, 34.63, 30.64, 16.26),
    ),
    "celebvhq": (Reported("FantasyTalking", "reported by others", {"FID": 43.14}),),
}
"""By benchmark."""
