"""One clip: its sound and pictures read, the faces found and checked, everything brought into its bucket."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.common.errors import InputError
from fantasytalking.data.clip_rejected import Refused
from fantasytalking.data.manifest import Reason
from fantasytalking.data.prepare.clip_audio import read_sound, read_speakers
from fantasytalking.data.prepare.config import DataConfig
from fantasytalking.data.prepare.framing import Framing, cut_crop
from fantasytalking.data.prepare.people import centre_of, check_place, choose_people, judge_faces, moved_track
from fantasytalking.data.prepare.plan import Clip
from fantasytalking.perception.body_pose import track_body
from fantasytalking.perception.face_track import FaceTrack, track_faces
from fantasytalking.perception.lip_mask import lip_mask
from fantasytalking.perception.motion_intensity import measure_motion

MAX_CAPTION_BYTES = 16_384
FOLLOWED = 4
"""People who are followed at least, so that passers-by are known as such."""


@dataclass(frozen=True)
class PreparedClip:
    """What is encoded, in pixels of the prepared picture."""

    frames: NDArray[np.uint8]
    """(T, H, W, 3) RGB."""
    times: NDArray[np.float64]
    """(T,) seconds from the clip's start."""
    samples: NDArray[np.float32]
    """(round(T / fps * 16000),) the clip's own sound."""
    caption: str
    tracks: tuple[FaceTrack, ...]
    """The people from left to right."""
    lip_mask: NDArray[np.bool_]
    """(T, H, W) of everybody's lips."""
    expression: float
    """Measured motion, not normalised, the mean over the people."""
    body: float
    speakers: tuple[NDArray[np.float32], ...] | None
    """What each of them says, as long as `samples`; None where only their common sound is known."""

    @property
    def face_size(self) -> float:
        """Median height of the faces in pixels."""
        boxes = np.concatenate([track.boxes for track in self.tracks])
        return float(np.nanmedian(boxes[:, 3] - boxes[:, 1]))


def prepare_clip(clip: Clip, config: DataConfig) -> PreparedClip:
    """Reads, checks and frames a clip.

    Raises:
        Refused: the clip cannot be used; says why.
    """
    samples = read_sound(clip, config)
    caption = read_caption(clip, config.prompt)
    reader = _FrameReader(clip, config)
    try:
        found = track_faces(reader, max_people=max(FOLLOWED, config.people + 1))
    except InputError as error:
        raise Refused(Reason.DAMAGED, str(error)) from error
    frames, framing = reader.collected()
    people = choose_people(found, samples, config)
    speakers = None if config.people == 1 else read_speakers(clip, len(people), config)
    offset = framing.offset(centre_of(people))
    tracks = tuple(moved_track(track, framing, offset) for track in people)
    for track in tracks:
        check_place(track, config)
    prepared = framing.frame(frames, offset)
    judge_faces(prepared, tracks, framing.scale, config)
    expression, body = _motion(prepared, tracks)
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
    )


def _motion(frames: NDArray[np.uint8], tracks: Sequence[FaceTrack]) -> tuple[float, float]:
    """Expression and body motion, each the mean over the people; only the most prominent one's joints are seen."""
    try:
        joints = track_body(frames, tracks[0].times)
        measured = [measure_motion(track, joints) for track in tracks]
    except InputError as error:
        raise Refused(Reason.FACE_LOST, str(error)) from error
    expression, body = np.mean(measured, axis=0).tolist()
    return expression, body


def read_caption(clip: Clip, default: str) -> str:
    """The text file of the video's name beside it, else `default`.

    Raises:
        Refused: the file is over 16 KiB or not UTF-8.
    """
    path = clip.file.path.with_suffix(".txt")
    if not path.is_file():
        return default
    with path.open("rb") as file:
        content = file.read(MAX_CAPTION_BYTES + 1)
    if len(content) > MAX_CAPTION_BYTES:
        raise Refused(Reason.UNREADABLE, f"caption '{path.name}' has more than {MAX_CAPTION_BYTES} bytes")
    try:
        return content.decode("utf-8").strip() or default
    except UnicodeDecodeError as error:
        raise Refused(Reason.UNREADABLE, f"caption '{path.name}' is not UTF-8") from error


class _FrameReader:
    """Streams (seconds from the clip's start, source frame) and keeps each frame at its prepared scale.

    Of the source frames, which may be large, only one is in memory.
    """

    def __init__(self, clip: Clip, config: DataConfig) -> None:
        self.clip, self.config = clip, config
        self.framing: Framing | None = None
        self.kept: list[NDArray[np.uint8]] = []

    def __iter__(self) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        config, start = self.config, self.clip.start
        frames = media.iter_frames(self.clip.file.path, fps=config.fps, start=start, duration=config.duration)
        while True:
            try:
                _, whole = next(frames)
            except StopIteration:
                break
            except InputError as error:
                raise Refused(Reason.DAMAGED, self.clip.file.told(error)) from error
            frame = cut_crop(whole, self.clip.crop)
            self.framing = self.framing or self._chosen(frame)
            number = len(self.kept)
            self.kept.append(self.framing.resize(frame))
            yield number / config.fps, frame
        if len(self.kept) < config.frames:
            raise Refused(Reason.TOO_SHORT, f"{len(self.kept)} frames, a clip has {config.frames}")

    def _chosen(self, frame: NDArray[np.uint8]) -> Framing:
        height, width = frame.shape[:2]
        framing = Framing.choose(width, height, self.config.parsed_buckets(), self.config.fit)
        if framing.scale > self.config.max_enlargement:
            limit = f"the limit is {self.config.max_enlargement:g}"
            raise Refused(
                Reason.LOW_RESOLUTION, f"{width}x{height} would be enlarged {framing.scale:.2f} times, {limit}"
            )
        return framing

    def collected(self) -> tuple[NDArray[np.uint8], Framing]:
        assert self.framing is not None and len(self.kept) == self.config.frames, "the stream has not ended"
        return np.stack(self.kept), self.framing
