"""How well expressions can be read from videos that a VAE has reconstructed, compared with the original videos."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray

from fantasytalking.encoders.wan import VideoAutoencoder
from fantasytalking.evaluation.features.landmark_expressions import EXPRESSION_CHANNELS, landmark_expressions
from fantasytalking.evaluation.ground_truth import TRUTH_FILE, GroundTruth, load_ground_truth
from fantasytalking.evaluation.metrics.centered_correlation import centered_sums_or_nan, pooled_correlation
from fantasytalking.media import read_video
from fantasytalking.perception.face_track import track_faces

ORIGINAL, RECONSTRUCTED = "original", "reconstructed"


def expression_readings(vae: VideoAutoencoder, folders: Sequence[Path]) -> dict[str, float]:
    """Returns correlations of the expressions that MediaPipe reads with the true ones, pooled over videos.

    What the original videos reach is the accuracy of the reader, what the reconstructed ones lose is lost by the VAE,
    and no video that is generated in its latents can be expected to show more.

    Args:
        vae: VAE with normalized latents.
        folders: folders of rendered clips: video.mp4 and truth.json.

    Returns:
        a value per group of `EXPRESSION_CHANNELS`, under the keys original_<group> and reconstructed_<group>; NaN where
        no video shows a face.
    """
    sums: dict[tuple[str, str], list[NDArray[np.float64]]] = defaultdict(list)
    for folder in folders:
        video = read_video(folder / "video.mp4")
        frames = video.frames[: len(video.frames) - (len(video.frames) - 1) % vae.temporal_stride]
        truth = load_ground_truth(folder / TRUTH_FILE, video.fps)
        for kind, shown in ((ORIGINAL, frames), (RECONSTRUCTED, reconstruct(vae, frames))):
            read = read_expressions(shown, video.fps)
            for name, values in read.items():
                found = centered_sums_or_nan(values, truth[name][: len(frames)])
                if np.isfinite(found).all():
                    sums[kind, name].append(found)
    result = {}
    for kind in (ORIGINAL, RECONSTRUCTED):
        for group, names in EXPRESSION_CHANNELS.items():
            result[f"{kind}_{group}"] = float(np.mean([pooled_correlation(sums[kind, name]) for name in names]))
    return result


def reconstruct(vae: VideoAutoencoder, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns (T, H, W, 3) frames after encoding and decoding."""
    clip = rearrange(torch.from_numpy(np.ascontiguousarray(frames)), "t h w c -> 1 c t h w")
    decoded = vae.decode(vae.encode(clip)).cpu()[0].clamp(-1, 1)
    return rearrange((decoded + 1) * 127.5, "c t h w -> t h w c").round().to(torch.uint8).numpy()


def read_expressions(frames: NDArray[np.uint8], fps: float) -> GroundTruth:
    """Returns the (T,) expressions that MediaPipe's landmarks show, NaN where no face is found."""
    tracks = track_faces(frames, np.arange(len(frames)) / fps, max_people=1)
    if tracks:
        return landmark_expressions(tracks[0])
    return {name: np.full(len(frames), np.nan) for names in EXPRESSION_CHANNELS.values() for name in names}
