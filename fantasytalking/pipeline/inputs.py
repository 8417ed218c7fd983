"""Loads audio and driving videos: files, or what has already been read from them.

The perception packages are imported on use, so that the pipeline loads without them.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.audio_tokens import AUDIO_SAMPLE_RATE
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import existing_file
from fantasytalking.encoders.expression import ExpressionEncoder
from fantasytalking.pipeline.speakers import DrivingExpression

if TYPE_CHECKING:
    from fantasytalking.perception.face_track import FaceTrack

MIN_DRIVING_FRAMES = 5
"""Fewest frames of a driving video: two latent frames."""
MIN_VISIBLE_FRACTION = 0.5
"""Fraction of the frames of a driving video in which the face must be visible."""
MAX_BYSTANDER_FRACTION = 0.1
"""Other faces are ignored where they are visible in a smaller fraction of the frames."""
DRIVING_CHUNK_FRAMES = 32
"""Frames held in memory at once."""

AudioInput = NDArray[np.float32] | str | Path
DrivingInput = DrivingExpression | str | Path


def audio_inputs(audio: AudioInput | Sequence[AudioInput] | None) -> list[AudioInput]:
    """Returns no, one or several audio inputs as a list."""
    return [] if audio is None else [audio] if isinstance(audio, np.ndarray | str | Path) else list(audio)


def load_audio_inputs(inputs: Sequence[AudioInput]) -> tuple[NDArray[np.float32], ...]:
    """Returns the mono samples at 16 kHz of each audio.

    Raises:
        InputError: a file has no audio.
    """
    return tuple(
        one if isinstance(one, np.ndarray) else media.read_audio(one, sample_rate=AUDIO_SAMPLE_RATE) for one in inputs
    )


def exclusive_embeds(
    prompt: str, prompt_embeds: torch.Tensor | None, negative_prompt: str, negative_prompt_embeds: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Returns the states of the prompts that are given as such, each in place of its text.

    Raises:
        InputError: one is given as both.
    """
    for name, text, embeds in (
        ("prompt", prompt, prompt_embeds),
        ("negative_prompt", negative_prompt, negative_prompt_embeds),
    ):
        if text and embeds is not None:
            raise InputError(
                f"both {name} and {name}_embeds were given; leave one out",
                code=ErrorCode.conflict,
                field=f"{name}_embeds",
                value=text,
            )
    return prompt_embeds, negative_prompt_embeds


def driving_inputs(driving_video: DrivingInput | Sequence[DrivingInput]) -> list[DrivingInput]:
    """Returns one or several driving videos as a list."""
    return [driving_video] if isinstance(driving_video, DrivingExpression | str | Path) else list(driving_video)


def load_driving_inputs(
    inputs: Sequence[DrivingInput], encoder_path: Path | None, fps: float, max_seconds: float | None = None
) -> tuple[DrivingExpression, ...]:
    """Returns the driving expressions at the frame rate of the generated video.

    Args:
        encoder_path: folder of the expression encoder; needed where one of the inputs is a file.
        max_seconds: longest part of a file that is read.

    Raises:
        InputError: a file is not a driving video.
    """
    if all(isinstance(one, DrivingExpression) for one in inputs):
        return tuple(one for one in inputs if isinstance(one, DrivingExpression))
    assert encoder_path is not None, "plan_generation has checked it"
    encoder = ExpressionEncoder.from_pretrained(encoder_path)
    return tuple(
        one if isinstance(one, DrivingExpression) else encode_driving_video(one, encoder, fps, max_seconds)
        for one in inputs
    )


def encode_driving_video(
    path: str | Path, encoder: ExpressionEncoder, fps: float, max_seconds: float | None = None
) -> DrivingExpression:
    """Returns the expression of the single face of a video.

    A frame in which the face is not visible holds the last visible features (or the first ones, before them) and is not
    present.

    Args:
        fps: frames per second of the generated video.
        max_seconds: longest part of the video that is read.

    Raises:
        InputError: the file is not a video, has too few frames, no face or several, or the face is rarely visible.
    """
    path = existing_file(path, "driving video")
    track = _single_face_track(path, fps, max_seconds)
    points = _face_points(track)
    start_points = points[np.isfinite(points).all(axis=(1, 2))][0]
    features = torch.zeros(len(points), sum(encoder.dims))
    present = torch.zeros(len(points), dtype=torch.bool)
    track_points = encoder.point_tracker()
    for start, frames in _frame_chunks(path, fps, max_seconds):
        end = start + len(frames)
        points[start:end] = track_points(frames, points[start:end])
        if not np.isfinite(points[start:end]).all(axis=(1, 2)).any():
            continue
        encoded = encoder.encode(frames, points[start:end], start_points)
        features[start:end], present[start:end] = encoded.features.float().cpu(), encoded.present.cpu()
    visible = int(present.sum())
    if visible < MIN_VISIBLE_FRACTION * len(points):
        raise InputError(
            f"driving video '{path}': the expression encoder sees the face in {visible} of {len(points)} frames; half "
            "of them are needed",
            code=ErrorCode.no_face,
            field="driving_video",
            value=visible,
        )
    last = torch.where(present, torch.arange(len(present)), -1).cummax(dim=0).values
    index = torch.where(last < 0, int(present.nonzero()[0]), last)
    boxes = torch.from_numpy(track.boxes)
    boxes[0] = boxes[torch.isfinite(boxes).all(dim=1)][0]
    return DrivingExpression(features[index], present, boxes, str(path))


def _single_face_track(path: Path, fps: float, max_seconds: float | None) -> "FaceTrack":
    from fantasytalking.perception.face_track import track_faces

    frames = media.iter_frames(path, fps=fps, duration=max_seconds)
    first = list(itertools.islice(frames, MIN_DRIVING_FRAMES))
    if len(first) < MIN_DRIVING_FRAMES:
        raise InputError(
            f"driving video '{path}' has {len(first)} frame(s) at {fps:g} per second; {MIN_DRIVING_FRAMES} or more are "
            "needed",
            code=ErrorCode.out_of_range,
            field="driving_video",
            value=len(first),
        )
    tracks = track_faces(itertools.chain(first, frames))
    if not tracks:
        raise InputError(
            f"driving video '{path}' shows no face; give a video of one face, seen from the front",
            code=ErrorCode.no_face,
            field="driving_video",
            value=0,
        )
    count = len(tracks[0].times)
    lasting = [track for track in tracks if track.known.sum() >= MAX_BYSTANDER_FRACTION * count]
    if len(lasting) > 1:
        raise InputError(
            f"driving video '{path}' shows {len(lasting)} faces; give a video of one face, cropped if necessary",
            code=ErrorCode.no_face,
            field="driving_video",
            value=len(lasting),
        )
    visible = int(tracks[0].known.sum())
    if visible < MIN_VISIBLE_FRACTION * count:
        raise InputError(
            f"driving video '{path}': its face is visible in {visible} of {count} frames; half of them are needed",
            code=ErrorCode.no_face,
            field="driving_video",
            value=visible,
        )
    return tracks[0]


def _face_points(track: "FaceTrack") -> NDArray[np.float32]:
    """(N, 5, 2), NaN where the face is not visible."""
    from fantasytalking.perception.face_crop import five_points

    return five_points(track.landmarks)


def _frame_chunks(path: Path, fps: float, max_seconds: float | None) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Index of the first frame, and frames (up to `DRIVING_CHUNK_FRAMES`, H, W, 3)."""
    frames = (frame for _, frame in media.iter_frames(path, fps=fps, duration=max_seconds))
    for start in itertools.count(step=DRIVING_CHUNK_FRAMES):
        chunk = list(itertools.islice(frames, DRIVING_CHUNK_FRAMES))
        if not chunk:
            return
        yield start, np.stack(chunk)
