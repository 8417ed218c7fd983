"""One video as metrics see it: frames, sound and what perception found, each computed once for all metrics."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, cached_property, partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import InputError
from fantasytalking.evaluation.ground_truth import GroundTruth
from fantasytalking.media import Video, iter_frames, probe, read_audio
from fantasytalking.perception.body_pose import BodyTrack, track_body
from fantasytalking.perception.face_crop import face_crop
from fantasytalking.perception.face_track import FaceTrack, track_faces
from fantasytalking.perception.mediapipe_graphs import NUM_FACE_LANDMARKS
from fantasytalking.perception.segmentation import subject_masks

CLIP_SAMPLE_RATE = 16000
"""Samples per second of every clip's sound."""
MAX_CLIP_FRAMES = 3000
"""Longer stretches are refused: a clip is held in memory whole."""


class CropAndResize(NamedTuple):
    """The part of the picture that is looked at, and the size in pixels that it is brought to."""

    crop: tuple[float, float, float, float] | None
    """left, top, width, height in heights of the picture; None: all of it."""
    width: int
    height: int

    def apply(self, image: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
        """(H, W, 3) cropped and scaled: by areas when smaller, by cubics when larger.

        Raises:
            InputError: the crop lies outside of the picture, which `path` holds.
        """
        import cv2

        height, width = image.shape[:2]
        if self.crop is not None:
            left, top, across, down = (round(share * height) for share in self.crop)
            # The crop's numbers were rounded: a pixel of it may lie outside.
            if min(across, down) < 1 or left + across > width + 1 or top + down > height + 1:
                raise InputError(
                    f"'{path}' is {width}x{height}, and its crop is {across}x{down} pixels from ({left}, {top}) on; "
                    "give the video that the manifest was made for"
                )
            image = image[top : top + down, left : left + across]
        if image.shape[:2] == (self.height, self.width):
            return image.copy()
        how = cv2.INTER_AREA if self.height < image.shape[0] else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(image, (self.width, self.height), interpolation=how))


class EvaluationClip:
    """A stretch of video. Nothing is read before it is asked for, and nothing twice."""

    def __init__(
        self,
        name: str,
        load_video: Callable[[], Video],
        load_audio: Callable[[], NDArray[np.float32]],
        *,
        path: Path | None = None,
        parent: "tuple[EvaluationClip, slice] | None" = None,
        load_truth: Callable[[], GroundTruth] | None = None,
        load_track: Callable[[], FaceTrack] | None = None,
        load_people: "Callable[[EvaluationClip], tuple[EvaluationClip, ...]] | None" = None,
    ) -> None:
        """Use `from_file` or `from_arrays`.

        Args:
            parent: the clip that this one is a slice of.
            load_track: of the face that is looked at, where it is not the one seen most often.
            load_people: everyone in this clip, where it shows several.
        """
        self.name = name
        self.path = path
        self._load_video, self._load_audio, self._parent, self._load_truth = load_video, load_audio, parent, load_truth
        self._load_track, self._load_people = load_track, load_people

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        name: str = "",
        fps: float | None = None,
        start: float = 0.0,
        duration: float | None = None,
        transform: CropAndResize | None = None,
        frame_count: int | None = None,
    ) -> "EvaluationClip":
        """A stretch of a file; with `fps` None every frame as it stands, else the nearest frames.

        Args:
            duration: seconds; with `frame_count` it rules the sound alone.
            frame_count: frames that there must be; later ones are left out.

        Reading raises InputError: not decodable, no picture, over `MAX_CLIP_FRAMES` frames or under `frame_count`, a
            crop outside.
        """
        path = Path(path)

        def pictures() -> Video:
            seconds = duration if frame_count is None else None
            stream = iter_frames(path, fps=fps, start=start, duration=seconds)
            # Framed one by one: ten seconds of 1080p are 1.5 GB, of the face in it 0.2 GB.
            framed = (
                (time, picture if transform is None else transform.apply(picture, path)) for time, picture in stream
            )
            found = list(islice(framed, frame_count or MAX_CLIP_FRAMES + 1))
            if not found or len(found) < (frame_count or 0) or len(found) > MAX_CLIP_FRAMES:
                raise InputError(
                    f"'{path}' has {len(found)} frames from {start:g} s on; "
                    f"{frame_count or f'1 to {MAX_CLIP_FRAMES}'} are needed"
                )
            times, frames = zip(*found, strict=True)
            return Video(np.stack(frames), np.array(times), fps or probe(path).fps)

        def sound() -> NDArray[np.float32]:
            return read_audio(path, sample_rate=CLIP_SAMPLE_RATE, start=start, duration=duration)

        return cls(name or path.stem, pictures, sound, path=path)

    @classmethod
    def from_arrays(
        cls, frames: NDArray[np.uint8], fps: float, audio: NDArray[np.float32] | None = None, name: str = "clip"
    ) -> "EvaluationClip":
        """A clip in memory: (T, H, W, 3) uint8 RGB and (S,) samples at `CLIP_SAMPLE_RATE`; None: there is no sound."""

        def heard() -> NDArray[np.float32]:
            if audio is None:
                raise InputError(f"clip '{name}' has no sound; give one with sound")
            return audio

        return cls(name, lambda: Video(frames, np.arange(len(frames)) / fps, fps), heard)

    def with_ground_truth(self, load_truth: Callable[[], GroundTruth]) -> "EvaluationClip":
        """The same clip, not read yet, of which is known what its person does in its T or more frames."""
        return EvaluationClip(self.name, self._load_video, self._load_audio, path=self.path, load_truth=load_truth)

    def with_people(self, truths: Sequence[Callable[[], GroundTruth] | None]) -> "EvaluationClip":
        """The same clip, not read yet, which shows as many people as there are truths, from left to right.

        Args:
            truths: what each of them does in T or more frames; None: nobody knows.
        """

        def tell(clip: EvaluationClip) -> tuple[EvaluationClip, ...]:
            tracks = cache(partial(_tracks_left_to_right, clip, len(truths)))

            def track(place: int) -> Callable[[], FaceTrack]:
                return lambda: tracks()[place]

            return tuple(clip._single_person(track(place), truth) for place, truth in enumerate(truths))

        return EvaluationClip(self.name, self._load_video, self._load_audio, path=self.path, load_people=tell)

    @classmethod
    def merge_people(cls, clips: "Sequence[EvaluationClip]") -> "EvaluationClip":
        """The first of several clips, with the people of all of them, one of each."""
        first = clips[0]
        return cls(
            first.name, lambda: first._video, lambda: first.audio, path=first.path, load_people=lambda _: (*clips,)
        )

    def _single_person(
        self, load_track: Callable[[], FaceTrack], load_truth: Callable[[], GroundTruth] | None
    ) -> "EvaluationClip":
        return EvaluationClip(
            self.name,
            lambda: self._video,
            lambda: self.audio,
            path=self.path,
            load_truth=load_truth,
            load_track=load_track,
        )

    @cached_property
    def people(self) -> "tuple[EvaluationClip, ...]":
        """The same clip for everyone in it, from left to right: itself where it shows one person.

        Where fewer faces are found than there should be, nobody's is known.
        """
        if self._parent is not None:
            clip, part = self._parent
            return (self,) if clip.people == (clip,) else tuple(person.slice_frames(part) for person in clip.people)
        return (self,) if self._load_people is None else self._load_people(self)

    def with_audio(self, audio: NDArray[np.float32]) -> "EvaluationClip":
        """The same pictures, and the same track where it is known, with (S,) other samples."""
        return EvaluationClip(self.name, lambda: self._video, lambda: audio, path=self.path, parent=(self, slice(None)))

    def slice_frames(self, frames: slice) -> "EvaluationClip":
        """Some of the frames, sliced as a list: a stretch with its sound, or every n-th frame with all of it."""

        def pictures() -> Video:
            video = self._video
            rate = video.fps / (frames.step or 1)
            return Video(video.frames[frames], video.times[frames] - video.times[frames][0], rate)

        def sound() -> NDArray[np.float32]:
            start, stop, _ = frames.indices(len(self.frames))
            first, last = (round(place / self.fps * CLIP_SAMPLE_RATE) for place in (start, stop))
            return self.audio[first:last]

        return EvaluationClip(self.name, pictures, sound, path=self.path, parent=(self, frames))

    @cached_property
    def _video(self) -> Video:
        return self._load_video()

    @property
    def frames(self) -> NDArray[np.uint8]:
        """(T, H, W, 3) uint8 RGB."""
        return self._video.frames

    @property
    def times(self) -> NDArray[np.float64]:
        """(T,) seconds from the first frame of the clip."""
        return self._video.times - self._video.times[0]

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self._video.fps

    @cached_property
    def audio(self) -> NDArray[np.float32]:
        """(S,) mono in [-1, 1], sample n at n / `CLIP_SAMPLE_RATE` s of the clip; at most as long as the pictures.

        Raises:
            InputError: there is none.
        """
        return self._load_audio()[: round(len(self.frames) / self.fps * CLIP_SAMPLE_RATE)]

    def full_audio(self) -> NDArray[np.float32]:
        """(S,) the sound without looking at the pictures, whose length may differ by a frame.

        Raises:
            InputError: there is none.
        """
        return self._load_audio()

    @cached_property
    def track(self) -> FaceTrack:
        """The face seen most often, over all T frames; where no face is ever seen every landmark is NaN."""
        if self._parent is not None:
            clip, part = self._parent
            return replace(clip.track[part], times=self.times)
        if self._load_track is not None:
            return self._load_track()
        found = track_faces(self.frames, self.times, max_people=1)
        return found[0] if found else _empty_track(self.times, *self.frames.shape[1:3])

    @cached_property
    def ground_truth(self) -> GroundTruth:
        """(T,) each: what whoever was drawn truly does; empty where nobody knows, as of all real footage."""
        if self._parent is not None:
            clip, part = self._parent
            return {name: track[part] for name, track in clip.ground_truth.items()}
        known = {} if self._load_truth is None else self._load_truth()
        return {name: _pad_or_trim(track, len(self.frames)) for name, track in known.items()}

    @property
    def true_mouth_opening(self) -> NDArray[np.float64]:
        """(T,) true mouth opening in [0, 1]; NaN where nobody knows."""
        return self.ground_truth.get("mouth_open", np.full(len(self.frames), np.nan))

    @property
    def has_face(self) -> bool:
        """Whether the face is known in at least two frames."""
        return bool(self.track.known.sum() >= 2)

    @cached_property
    def body_track(self) -> BodyTrack:
        """The body's joints over all T frames."""
        if self._parent is not None:
            clip, part = self._parent
            return BodyTrack(self.times, clip.body_track.joints[part], clip.body_track.visibility[part])
        return track_body(self.frames, self.times)

    @cached_property
    def subject_masks(self) -> NDArray[np.float32]:
        """(T, H, W) probability that a pixel belongs to the person, in [0, 1]."""
        if self._parent is not None:
            clip, part = self._parent
            return clip.subject_masks[part]
        return subject_masks(self.frames)

    def face_crops(self, size: int, margin: float = 0.5) -> NDArray[np.uint8]:
        """(T, size, size, 3) uint8 RGB: one square around all places of the face, as `face_crop` makes it.

        Raises:
            InputError: no face is seen (ask `has_face` before).
        """
        square = face_crop(self.track.landmarks, margin)
        return np.stack([square.extract(frame, size) for frame in self.frames])


def _pad_or_trim(track: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """(count,) values; NaN beyond the end."""
    return np.concatenate([track[:count], np.full(max(0, count - len(track)), np.nan)])


def _tracks_left_to_right(clip: EvaluationClip, count: int) -> list[FaceTrack]:
    """So many faces of a clip."""
    found = track_faces(clip.frames, clip.times, max_people=count)[:count]
    if len(found) < count:  # who of them is missing cannot be told
        found = [_empty_track(clip.times, *clip.frames.shape[1:3])] * count
    return sorted(found, key=_first_seen_x)


def _first_seen_x(track: FaceTrack) -> float:
    """How far to the right somebody is seen first; last of all who is never seen."""
    places = track.boxes[track.known]
    return float(places[0, 0] + places[0, 2]) if len(places) else np.inf


def _empty_track(times: NDArray[np.float64], height: int, width: int) -> FaceTrack:
    landmarks = np.full((len(times), NUM_FACE_LANDMARKS, 3), np.nan, np.float32)
    never = np.zeros(len(times), bool)
    return FaceTrack(times, landmarks, never, never, np.zeros(len(times), np.float32), height, width)
