"""One clip: its sound and pictures read, the talking face found and checked, everything brought into its bucket."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.data.manifest import Reason
from fantasytalking.data.prepare_framing import Framing, cut_crop
from fantasytalking.data.prepare_plan import Clip
from fantasytalking.data.settings import DataConfig
from fantasytalking.encoders.wav2vec import SAMPLE_RATE
from fantasytalking.errors import InputError
from fantasytalking.perception.body_pose import track_body
from fantasytalking.perception.face_track import FaceTrack, track_faces
from fantasytalking.perception.lip_mask import lip_mask
from fantasytalking.perception.motion_intensity import measure_motion
from fantasytalking.perception.talking import choose_talking

MAX_CAPTION_BYTES = 16_384
_LOUDNESS_SECONDS = 0.05
_LOUD_SHARE = 95
"""Per cent of the sound that is quieter than what counts as its loudness."""


class Refused(Exception):  # noqa: N818  (it is no error: the clip is left out)
    """The clip cannot be used."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


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
    track: FaceTrack
    lip_mask: NDArray[np.bool_]
    """(T, H, W)."""
    expression: float
    """Measured motion, not normalised."""
    body: float

    @property
    def face_size(self) -> float:
        """Median height of the face in pixels."""
        boxes = self.track.boxes
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
        tracks = track_faces(reader)
    except InputError as error:
        raise Refused(Reason.DAMAGED, str(error)) from error
    frames, framing = reader.collected()
    track = choose_face(tracks, samples, config)
    offset = framing.offset(_centre(track))
    track = _moved(track, framing, offset)
    _check_place(track, config)
    prepared = framing.frame(frames, offset)
    try:
        motion = measure_motion(track, track_body(prepared, track.times))
    except InputError as error:
        raise Refused(Reason.FACE_LOST, str(error)) from error
    mask = lip_mask(track.landmarks, *prepared.shape[1:3])
    return PreparedClip(prepared, track.times, samples, caption, track, mask, motion.expression, motion.body)


def read_sound(clip: Clip, config: DataConfig) -> NDArray[np.float32]:
    """The clip's own sound at 16 kHz, exactly as long as its frames.

    Raises:
        Refused: there is none, it ends more than a frame early, or it is never loud enough.
    """
    wanted = round(config.duration * SAMPLE_RATE)
    try:
        samples = media.read_audio(clip.file.path, sample_rate=SAMPLE_RATE, start=clip.start, duration=config.duration)
    except InputError as error:
        raise Refused(Reason.NO_SOUND, clip.file.told(error)) from error
    if len(samples) < wanted - SAMPLE_RATE / config.fps:
        detail = f"{len(samples) / SAMPLE_RATE:.2f} s of sound for {config.duration:.2f} s of picture"
        raise Refused(Reason.SOUND_TOO_SHORT, detail)
    level = loudness(samples)
    if level < config.min_loudness:
        raise Refused(Reason.SILENT, f"{level:.1f} dB, at least {config.min_loudness:g} dB are needed")
    return np.pad(samples, (0, max(0, wanted - len(samples))))[:wanted]


def loudness(samples: NDArray[np.float32]) -> float:
    """Level in decibels of full scale that the loudest twentieth of the sound reaches; -120 for digital silence."""
    length = round(_LOUDNESS_SECONDS * SAMPLE_RATE)
    blocks = samples[: len(samples) // length * length].reshape(-1, length).astype(np.float64)
    powers = blocks.var(axis=1) if len(blocks) else np.zeros(1)
    return float(10 * np.log10(np.percentile(powers, _LOUD_SHARE) + 1e-12))


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


def choose_face(tracks: list[FaceTrack], samples: NDArray[np.float32], config: DataConfig) -> FaceTrack:
    """The one whose face it is.

    Raises:
        Refused: nobody, several among whom nobody clearly talks, or seen too rarely or too uncertainly.
    """
    if not tracks:
        raise Refused(Reason.NO_FACE, "no frame shows a face")
    track = tracks[0]
    if len(tracks) > 1:
        choice = choose_talking(tracks, samples, sample_rate=SAMPLE_RATE)
        if choice.track is None:
            raise Refused(Reason.SEVERAL_PEOPLE, choice.reason)
        track = tracks[choice.track]
    share = float(track.known.mean())
    if share < config.min_face_share or not track.present[0]:
        first = "" if track.present[0] else ", not in the first"
        detail = f"the face is in {share:.0%} of the frames{first}; at least {config.min_face_share:.0%} are needed"
        raise Refused(Reason.FACE_LOST, detail)
    confidence = float(track.confidence[track.present].mean())
    if confidence < config.min_confidence:
        raise Refused(Reason.LOW_CONFIDENCE, f"{confidence:.3f}, at least {config.min_confidence:g} is needed")
    return track


def _centre(track: FaceTrack) -> tuple[float, float]:
    """Middle of all places that the face takes, in source pixels."""
    boxes = track.boxes
    left, top = np.nanmin(boxes[:, :2], axis=0)
    right, bottom = np.nanmax(boxes[:, 2:], axis=0)
    return float(left + right) / 2, float(top + bottom) / 2


def _moved(track: FaceTrack, framing: Framing, offset: tuple[int, int]) -> FaceTrack:
    landmarks = framing.move(track.landmarks, offset)
    return replace(track, landmarks=landmarks, height=framing.bucket.height, width=framing.bucket.width)


def _check_place(track: FaceTrack, config: DataConfig) -> None:
    """The face is large enough and within the prepared picture."""
    boxes = track.boxes[track.known]
    size = float(np.median(boxes[:, 3] - boxes[:, 1])) / track.height
    if size < config.min_face_size:
        raise Refused(
            Reason.FACE_TOO_SMALL, f"{size:.3f} of the picture's height, at least {config.min_face_size:g} is needed"
        )
    middle_x, middle_y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    inside = (middle_x > 0) & (middle_x < track.width) & (middle_y > 0) & (boxes[:, 3] <= track.height * 1.02)
    share = float(inside.mean())
    if share < config.min_face_share:
        raise Refused(Reason.FACE_CUT_OFF, f"the face is whole in {share:.0%} of the frames")
