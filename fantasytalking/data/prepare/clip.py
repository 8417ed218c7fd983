"""Prepares one clip: reads its audio and frames, tracks and measures the faces, and frames it for its bucket."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fantasytalking import media
from fantasytalking.common.errors import InputError
from fantasytalking.common.files import existing_file
from fantasytalking.common.limits import MAX_CAPTION_BYTES
from fantasytalking.common.text_files import read_text_file
from fantasytalking.condition_registry import registered_condition
from fantasytalking.data.manifest import ClipRejected, RejectionReason
from fantasytalking.data.prepare.clip_audio import read_clip_audio, read_speaker_audio
from fantasytalking.data.prepare.clip_measures import (
    ClipMeasures,
    content_hashes,
    measure_mouths,
    measure_people,
    measure_sound,
    measure_sync,
    measure_visibility,
)
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.data.prepare.crop import crop_frame
from fantasytalking.data.prepare.people import select_people, tracks_center, transform_track
from fantasytalking.data.prepare.plan import SceneClip
from fantasytalking.media.framing import Framing
from fantasytalking.perception.body_pose import track_body
from fantasytalking.perception.face_track import FaceTrack, track_faces
from fantasytalking.perception.lip_mask import lip_mask
from fantasytalking.perception.motion_intensity import measure_motion
from fantasytalking.perception.mouth_agreement import IN_SYNC_SECONDS
from fantasytalking.perception.syncnet.syncnet_model import SyncNet

MIN_TRACKED_PEOPLE = 4
"""Minimum number of faces to track, so that passers-by are recognized."""


@dataclass(frozen=True)
class PreparedClip:
    """A clip before encoding, in pixels of the prepared frames."""

    frames: NDArray[np.uint8]
    """(T, H, W, 3) RGB."""
    times: NDArray[np.float64]
    """(T,) seconds from the clip's start."""
    waveform: NDArray[np.float32]
    """(round(T / fps * 16000),) audio of the clip."""
    caption: str
    tracks: tuple[FaceTrack, ...]
    """The people from left to right."""
    lip_mask: NDArray[np.bool_]
    """(T, H, W) lips of all people."""
    expression_measure: float
    """Mean expression intensity of the people, not normalized."""
    body_measure: float
    """Mean body intensity of the people, not normalized."""
    speaker_waveforms: tuple[NDArray[np.float32], ...] | None
    """Speech of each person, as long as `waveform`; None if only the mixed audio is known."""
    measures: dict[str, float]
    """What was measured, by the names of `ClipRecord`; see `ClipMeasures.values`."""
    hashes: dict[str, str]
    """Hashes of the clip's line in the manifest, by which duplicates are found."""
    conditions: dict[str, Tensor]
    """Values of registered conditions, by name."""

    @property
    def face_size(self) -> float:
        """Median height of the faces in pixels."""
        boxes = np.concatenate([track.boxes for track in self.tracks])
        return float(np.nanmedian(boxes[:, 3] - boxes[:, 1]))


def prepare_clip(clip: SceneClip, config: PreparationConfig, syncnet: SyncNet | None = None) -> PreparedClip:
    """Reads, measures and frames a clip.

    Args:
        clip: the clip.
        config: the settings.
        syncnet: measures lip sync; None measures it without a network.

    Raises:
        ClipRejected: the clip cannot be used, or a measured value is beyond its limit; states the reason.
    """
    measures = ClipMeasures(config)
    try:
        return _prepare(clip, config, measures, syncnet)
    except ClipRejected as rejected:
        rejected.measured = measures.values
        raise


def _prepare(
    clip: SceneClip, config: PreparationConfig, measures: ClipMeasures, syncnet: SyncNet | None
) -> PreparedClip:
    samples = read_clip_audio(clip, config)
    measures.add(measure_sound(samples))
    caption = read_caption(clip, config.prompt)
    conditions = read_conditions(clip, config.conditions)
    reader = _FrameReader(clip, config, measures)
    try:
        found = track_faces(reader, max_people=max(MIN_TRACKED_PEOPLE, config.max_people + 1))
    except InputError as error:
        raise ClipRejected(RejectionReason.DAMAGED, str(error)) from error
    frames, framing = reader.stacked_frames()
    people = select_people(found, samples, config)
    measures.add(measure_visibility(people))
    speakers = None if config.max_people == 1 else read_speaker_audio(clip, len(people), config)
    offset = framing.offset(tracks_center(people))
    tracks = tuple(transform_track(track, framing, offset) for track in people)
    prepared = framing.crop_or_pad(frames, offset)
    found_lag = measure_mouths(tracks, samples)
    shifted = _shifted_audio(clip, config, found_lag.lag) if config.shift_audio else None
    if shifted is not None:
        samples = shifted
        measures.add({**measure_sound(samples), "audio_shift": found_lag.lag})
        found_lag = measure_mouths(tracks, samples)
    measures.add(
        measure_people(prepared, tracks, samples, framing.scale)
        | {"mouth_agreement": found_lag.agreement, "audio_lag": found_lag.lag}
    )
    measures.add(measure_sync(syncnet, prepared, tracks, samples, config.fps))
    expression, body = _measure_motion(prepared, tracks)
    mask = np.logical_or.reduce([lip_mask(track.landmarks, *prepared.shape[1:3]) for track in tracks])
    return PreparedClip(
        prepared,
        tracks[0].times,
        samples,
        caption,
        tracks,
        mask,
        expression,
        body,
        None if speakers is None else tuple(speakers),
        measures.values,
        content_hashes(prepared, samples),
        conditions,
    )


def _shifted_audio(clip: SceneClip, config: PreparationConfig, lag: float) -> NDArray[np.float32] | None:
    """Returns the audio that belongs to the frames; None if it is in sync, or lies beyond the ends of the video."""
    if not np.isfinite(lag) or abs(lag) <= IN_SYNC_SECONDS or clip.start + lag < 0:
        return None
    try:
        return read_clip_audio(clip, config, lag)
    except ClipRejected:  # the limit of the lag is the clip's reason
        return None


def _measure_motion(frames: NDArray[np.uint8], tracks: Sequence[FaceTrack]) -> tuple[float, float]:
    """Returns the mean expression and body motion of the people; only the most prominent one's joints are tracked."""
    try:
        joints = track_body(frames, tracks[0].times)
        measured = [measure_motion(track, joints) for track in tracks]
    except InputError as error:
        raise ClipRejected(RejectionReason.FACE_LOST, str(error)) from error
    expression, body = np.mean(measured, axis=0).tolist()
    return expression, body


def caption_path(video: Path) -> Path:
    """Returns the path of the text file beside a video that has its caption, whether it exists or not."""
    return video.with_suffix(".txt")


def read_caption(clip: SceneClip, default: str) -> str:
    """Reads the text file of the same name beside the video; returns `default` if there is none.

    Raises:
        ClipRejected: the file is larger than `MAX_CAPTION_BYTES` or not UTF-8.
    """
    path = caption_path(clip.file.path)
    if not path.is_file():
        return default
    try:
        return read_text_file(path, "caption", MAX_CAPTION_BYTES).strip() or default
    except InputError as error:
        raise ClipRejected(RejectionReason.UNREADABLE, str(error).replace(str(path), path.name)) from error


def condition_paths(video: Path, names: Sequence[str]) -> dict[str, Path]:
    """Returns the files beside a video that have the values of registered conditions, whether they exist or not.

    Raises:
        InputError: a condition is not registered.
    """
    return {name: registered_condition(name, "conditions").file_beside(video) for name in names}


def read_conditions(clip: SceneClip, names: Sequence[str]) -> dict[str, Tensor]:
    """Reads the values of registered conditions beside a video.

    Raises:
        ClipRejected: a file is missing or cannot be read, or its value has another number of axes.
    """
    values = {}
    for name, path in condition_paths(clip.file.path, names).items():
        condition = registered_condition(name, "conditions")
        try:
            value = torch.as_tensor(condition.read(existing_file(path, f"condition {name}")))
            # The sizes are those of a model: here, those of the value itself.
            sizes = dict(condition.sizes) | {
                axis: size for axis, size in zip(condition.axes, value.shape, strict=False) if not axis.isdecimal()
            }
            values[name] = condition.check(value, sizes, path.name)
        except InputError as error:
            raise ClipRejected(RejectionReason.UNREADABLE, str(error).replace(str(path), path.name)) from error
    return values


class _FrameReader:
    """Streams (seconds from the clip's start, source frame) and stores each frame at its prepared scale.

    Only one source frame, which may be large, is in memory at a time.
    """

    def __init__(self, clip: SceneClip, config: PreparationConfig, measures: ClipMeasures) -> None:
        self.clip, self.config, self.measures = clip, config, measures
        self.framing: Framing | None = None
        self.resized_frames: list[NDArray[np.uint8]] = []

    def __iter__(self) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        config, start = self.config, self.clip.start
        frames = media.iter_frames(self.clip.file.path, fps=config.fps, start=start, duration=config.duration)
        while True:
            try:
                _, source = next(frames)
            except StopIteration:
                break
            except InputError as error:
                raise ClipRejected(RejectionReason.DAMAGED, self.clip.file.error_detail(error)) from error
            frame = crop_frame(source, self.clip.crop)
            self.framing = self.framing or self._choose_framing(frame)
            number = len(self.resized_frames)
            self.resized_frames.append(self.framing.resize(frame))
            yield number / config.fps, frame
        if len(self.resized_frames) < config.frames:
            raise ClipRejected(
                RejectionReason.TOO_SHORT, f"{len(self.resized_frames)} frames; a clip needs {config.frames}"
            )

    def _choose_framing(self, frame: NDArray[np.uint8]) -> Framing:
        height, width = frame.shape[:2]
        framing = Framing.for_nearest_bucket(width, height, self.config.parsed_buckets(), self.config.resize_mode)
        self.measures.add({"upscale": framing.scale})
        return framing

    def stacked_frames(self) -> tuple[NDArray[np.uint8], Framing]:
        assert self.framing is not None and len(self.resized_frames) == self.config.frames, "the stream has not ended"
        return np.stack(self.resized_frames), self.framing
