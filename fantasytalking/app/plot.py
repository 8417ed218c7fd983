"""Plots mouth opening and audio loudness over time."""

import numpy as np
from matplotlib.figure import Figure

from fantasytalking.perception.mouth_curve import MouthCurve

_MOUTH_COLOR, _AUDIO_COLOR = "#c2410c", "#64748b"


def mouth_curve_figure(curve: MouthCurve) -> Figure:
    """Returns a figure of both curves over time, each on its own axis."""
    figure = Figure(figsize=(7, 2.4), layout="constrained")
    loudness = figure.add_subplot()
    loudness.fill_between(curve.times, curve.loudness, color=_AUDIO_COLOR, alpha=0.35, linewidth=0)
    loudness.set_ylabel("loudness", color=_AUDIO_COLOR)
    loudness.set_xlabel("seconds")
    loudness.set_ylim(0, max(0.05, 1.1 * float(curve.loudness.max())))
    loudness.set_xlim(curve.times[0], max(curve.times[-1], curve.times[0] + 1e-3))
    mouth = loudness.twinx()
    mouth.set_ylabel("mouth opening", color=_MOUTH_COLOR)
    if np.isfinite(curve.opening).any():
        mouth.plot(curve.times, curve.opening, color=_MOUTH_COLOR, linewidth=1.6)
        mouth.set_ylim(0, max(0.1, 1.1 * float(np.nanmax(curve.opening))))
    else:
        mouth.set_yticks([])
        mouth.text(
            0.5, 0.5, "no face was found in the video", transform=mouth.transAxes, ha="center", color=_MOUTH_COLOR
        )
    return figure
