"""The THEval measures that need no weights, as they are; see fantasytalking/evaluation/features/theval_landmarks.py."""

from collections.abc import Sequence

import numpy as np

from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.features.theval_landmarks import REAL, brow_dynamics, lip_dynamics, lip_sync, silent_lips
from fantasytalking.evaluation.features.time_series import per_second
from fantasytalking.evaluation.features.voice_activity import speech_frames, volume
from fantasytalking.evaluation.metric import Curve, Metric, Record, Value


class THEval(Metric):
    """Each measure is averaged over the clips in which it can be had: speech and silence are not in every clip.

    `real` in the descriptions is the paper's mean over its real videos.
    """

    name = "theval"
    values = (
        Value("theval_lip_sync", "", "reference", f"Mouth against volume in speech; real: {REAL['lip_sync']}."),
        Value("theval_silent_lips", "", "reference", f"Lip motion in silence; real: {REAL['silent_lips']}."),
        Value(
            "theval_lip_dynamics",
            "px",
            "reference",
            f"Change of the lips' shape; real: {REAL['lip_dynamics']}.",
        ),
        Value("theval_brow_dynamics", "", "reference", f"Change of the brows; real: {REAL['brow_dynamics']}."),
        Value("theval_speech_n", "", "reference", "Clips with enough speech to judge."),
        Value("theval_silent_n", "", "reference", "Clips with a silence of 300 ms or more."),
    )
    paired = False
    hears = True
    curves = (Curve("theval_curve", "", "Difference of mouth and volume in speech; lower is better."),)

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """The four measures; NaN where there is no face, sound, speech or silence."""
        return measures(video)

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """Means over the clips that have each; `n` counts those with a face."""
        means = {f"theval_{name}": known_mean(records, f"theval_{name}")[0] for name in REAL}
        return means | {
            "theval_speech_n": known_mean(records, "theval_lip_sync")[1],
            "theval_silent_n": known_mean(records, "theval_silent_lips")[1],
            "n": known_mean(records, "theval_lip_dynamics")[1],
        }


def measures(clip: Clip) -> Record:
    """A clip's four measures and its curve."""
    loud, landmarks = volume(clip), clip.track.landmarks
    along, silent = np.full(len(landmarks), np.nan), np.nan
    if loud is not None:
        speech = speech_frames(loud, clip.fps)
        along, silent = lip_sync(landmarks, loud, speech), silent_lips(landmarks, speech, clip.fps)
    known = along[np.isfinite(along)]
    return {
        "theval_lip_sync": np.array(known.mean() if len(known) else np.nan),
        "theval_silent_lips": np.array(silent),
        "theval_lip_dynamics": np.array(lip_dynamics(landmarks, *clip.frames.shape[1:3])),
        "theval_brow_dynamics": np.array(brow_dynamics(landmarks)),
        "theval_curve": per_second(along, clip.times, len(clip.frames) / clip.fps),
    }


def known_mean(records: Sequence[Record], name: str) -> tuple[float, float]:
    """The mean of an entry over the clips where it is known (NaN if none), and their number."""
    values = np.array([float(record[name]) for record in records])
    values = values[np.isfinite(values)]
    return (float(values.mean()) if len(values) else np.nan), float(len(values))
