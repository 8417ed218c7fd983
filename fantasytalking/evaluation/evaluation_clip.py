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
from fantasytalking.evaluation.ground_truth import Truth
from fantasytalking.media import Video, iter_frames, probe, read_audio
from fantasytalking.perception.body_pose import BodyTrack, track_body
from fantasytalking.perception.face_crop import face_crop
from fantasytalking.perception.face_track import FaceTrack, track_faces
from fantasytalking.perception.mediapipe_graphs import FACE_LANDMARKS
from fantasytalking.perception.segmentation import subject_masks

SAMPLE_RATE = 16000
"""Samples per second of every clip's sound."""
MAX_FRAMES = 3000
"""Longer stretches are refused: a clip is held in memory whole."""


class Frame(NamedTuple):
    """The part of the picture that is looked at, and the size in pixels that it is brought to."""

    crop: tuple[float, float, float, float] | None
    """left, top, width, height in heights of the picture; None: all of it."""
    width: int
    height: int

    def cut(self, picture: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
        """(H, W, 3) cropped and scaled: by areas when smaller, by cubics when larger.

        Raises:
            InputError: the crop lies outside of the picture, which `path` holds.
        """
        import cv2

        height, width = picture.shape[:2]
        if self.crop is not None:
            left, top, across, down = (round(share * height) for share in self.crop)
            # The crop's numbers were rounded: a pixel of it may lie outside.
            if min(across, down) < 1 or left + across > width + 1 or top + down > height + 1:
                raise InputError(
                    f"'{path}' is {width}x{height}, and its crop is {across}x{down} pixels from ({left}, {top}) on; "
                    "give the video that the manifest was made for"
                )
            picture = picture[top : top + down, left : left + across]
        if picture.shape[:2] == (self.height, self.width):
            return picture.copy()
        how = cv2.INTER_AREA if self.height < picture.shape[0] else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(picture, (self.width, self.height), interpolation=how))


class Clip:
    """A stretch of video. Nothing is read before it is asked for, and nothing twice."""

    def __init__(
        self,
        name: str,
        pictures: Callable[[], Video],
        sound: Callable[[], NDArray[np.float32]],
        *,
        path: Path | None = None,
        whole: "tuple[Clip, slice] | None" = None,
        truth: Callable[[], Truth] | None = None,
        track: Callable[[], FaceTrack] | None = None,
        people: "Callable[[Clip], tuple[Clip, ...]] | None" = None,
    ) -> None:
        """Use `from_file` or `from_arrays`.

        Args:
            whole: the clip that this one is a slice of.
            track: of the face that is looked at, where it is not the one seen most often.
            people: everyone in this clip, where it shows several.
        """
        self.name = name
        self.path = path
        self._pictures, self._hear, self._whole, self._truth = pictures, sound, whole, truth
        self._tell_track, self._tell_people = track, people

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        name: str = "",
        fps: float | None = None,
        start: float = 0.0,
        duration: float | None = None,
        frame: Frame | None = None,
        count: int | None = None,
    ) -> "Clip":
        """A stretch of a file; with `fps` None every frame as it stands, else the nearest frames.

        Args:
            duration: seconds; with `count` it rules the sound alone.
            count: frames that there must be; later ones are left out.

        Reading raises InputError: not decodable, no picture, over `MAX_FRAMES` frames or under `count`, a crop outside.
        """
        path = Path(path)

        def pictures() -> Video:
            seconds = duration if count is None else None
            stream = iter_frames(path, fps=fps, start=start, duration=seconds)
            # Framed one by one: ten seconds of 1080p are 1.5 GB, of the face in it 0.2 GB.
            framed = ((time, picture if frame is None else frame.cut(picture, path)) for time, picture in stream)
            found = list(islice(framed, count or MAX_FRAMES + 1))
            if not found or len(found) < (count or 0) or len(found) > MAX_FRAMES:
                raise InputError(
                    f"'{path}' has {len(found)} frames from {start:g} s on; "
                    f"{f'{count} are needed' if count else f'1 to {MAX_FRAMES} can be evaluated at once'}"
                )
            times, frames = zip(*found, strict=True)
            return Video(np.stack(frames), np.array(times), fps or probe(path).fps)

        def sound() -> NDArray[np.float32]:
            return read_audio(path, sample_rate=SAMPLE_RATE, start=start, duration=duration)

        return cls(name or path.stem, pictures, sound, path=path)

    @classmethod
    def from_arrays(
        cls, frames: NDArray[np.uint8], fps: float, sound: NDArray[np.float32] | None = None, name: str = "clip"
    ) -> "Clip":
        """A clip in memory: (T, H, W, 3) uint8 RGB and (S,) samples at `SAMPLE_RATE`; None: there is no sound."""

        def heard() -> NDArray[np.float32]:
            if sound is None:
                raise InputError(f"clip '{name}' has no sound; give one with sound")
            return sound

        return cls(name, lambda: Video(frames, np.arange(len(frames)) / fps, fps), heard)

    def with_truth(self, truth: Callable[[], Truth]) -> "Clip":
        """The same clip, not read yet, of which is known what its person does in its T or more frames."""
        return Clip(self.name, self._pictures, self._hear, path=self.path, truth=truth)

    def with_people(self, truths: Sequence[Callable[[], Truth] | None]) -> "Clip":
        """The same clip, not read yet, which shows as many people as there are truths, from left to right.

        Args:
            truths: what each of them does in T or more frames; None: nobody knows.
        """

        def tell(clip: Clip) -> tuple[Clip, ...]:
            tracks = cache(partial(_from_left_to_right, clip, len(truths)))

            def track(place: int) -> Callable[[], FaceTrack]:
                return lambda: tracks()[place]

            return tuple(clip._person(track(place), truth) for place, truth in enumerate(truths))

        return Clip(self.name, self._pictures, self._hear, path=self.path, people=tell)

    @classmethod
    def together(cls, clips: "Sequence[Clip]") -> "Clip":
        """The first of several clips, with the people of all of them, one of each."""
        first = clips[0]
        return cls(first.name, lambda: first._video, lambda: first.sound, path=first.path, people=lambda _: (*clips,))

    def _person(self, track: Callable[[], FaceTrack], truth: Callable[[], Truth] | None) -> "Clip":
        return Clip(self.name, lambda: self._video, lambda: self.sound, path=self.path, truth=truth, track=track)

    @cached_property
    def people(self) -> "tuple[Clip, ...]":
        """The same clip for everyone in it, from left to right: itself where it shows one person.

        Where fewer faces are found than there should be, nobody's is known.
        """
        if self._whole is not None:
            clip, part = self._whole
            return (self,) if clip.people == (clip,) else tuple(person.part(part) for person in clip.people)
        return (self,) if self._tell_people is None else self._tell_people(self)

    def with_sound(self, sound: NDArray[np.float32]) -> "Clip":
        """The same pictures, and the same track where it is known, with (S,) other samples."""
        return Clip(self.name, lambda: self._video, lambda: sound, path=self.path, whole=(self, slice(None)))

    def part(self, frames: slice) -> "Clip":
        """Some of the frames, sliced as a list: a stretch with its sound, or every n-th frame with all of it."""

        def pictures() -> Video:
            video = self._video
            rate = video.fps / (frames.step or 1)
            return Video(video.frames[frames], video.times[frames] - video.times[frames][0], rate)

        def sound() -> NDArray[np.float32]:
            start, stop, _ = frames.indices(len(self.frames))
            first, last = (round(place / self.fps * SAMPLE_RATE) for place in (start, stop))
            return self.sound[first:last]

        return Clip(self.name, pictures, sound, path=self.path, whole=(self, frames))

    @cached_property
    def _video(self) -> Video:
        return self._pictures()

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
    def sound(self) -> NDArray[np.float32]:
        """(S,) mono in [-1, 1], sample n at n / `SAMPLE_RATE` s of the clip; at most as long as the pictures.

        Raises:
            InputError: there is none.
        """
        return self._hear()[: round(len(self.frames) / self.fps * SAMPLE_RATE)]

    def sound_alone(self) -> NDArray[np.float32]:
        """(S,) the sound without looking at the pictures, whose length may differ by a frame.

        Raises:
            InputError: there is none.
        """
        return self._hear()

    @cached_property
    def track(self) -> FaceTrack:
        """The face seen most often, over all T frames; where no face is ever seen every landmark is NaN."""
        if self._whole is not None:
            clip, part = self._whole
            return replace(clip.track[part], times=self.times)
        if self._tell_track is not None:
            return self._tell_track()
        found = track_faces(self.frames, self.times, max_people=1)
        return found[0] if found else _no_face(self.times, *self.frames.shape[1:3])

    @cached_property
    def truth(self) -> Truth:
        """(T,) each: what whoever was drawn truly does; empty where nobody knows, as of all real footage."""
        if self._whole is not None:
            clip, part = self._whole
            return {name: track[part] for name, track in clip.truth.items()}
        known = {} if self._truth is None else self._truth()
        return {name: _of_length(track, len(self.frames)) for name, track in known.items()}

    @property
    def true_opening(self) -> NDArray[np.float64]:
        """(T,) true mouth opening in [0, 1]; NaN where nobody knows."""
        return self.truth.get("mouth_open", np.full(len(self.frames), np.nan))

    @property
    def has_face(self) -> bool:
        """Whether the face is known in at least two frames."""
        return bool(self.track.known.sum() >= 2)

    @cached_property
    def body(self) -> BodyTrack:
        """The body's joints over all T frames."""
        if self._whole is not None:
            clip, part = self._whole
            return BodyTrack(self.times, clip.body.joints[part], clip.body.visibility[part])
        return track_body(self.frames, self.times)

    @cached_property
    def subject(self) -> NDArray[np.float32]:
        """(T, H, W) probability that a pixel belongs to the person, in [0, 1]."""
        if self._whole is not None:
            clip, part = self._whole
            return clip.subject[part]
        return subject_masks(self.frames)

    def face_crops(self, size: int, margin: float = 0.5) -> NDArray[np.uint8]:
        """(T, size, size, 3) uint8 RGB: one square around all places of the face, as `face_crop` makes it.

        Raises:
            InputError: no face is seen (ask `has_face` before).
        """
        square = face_crop(self.track.landmarks, margin)
        return np.stack([square.cut(frame, size) for frame in self.frames])


def _of_length(track: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """(count,) values; NaN beyond the end."""
    return np.concatenate([track[:count], np.full(max(0, count - len(track)), np.nan)])


def _from_left_to_right(clip: Clip, count: int) -> list[FaceTrack]:
    """So many faces of a clip."""
    found = track_faces(clip.frames, clip.times, max_people=count)[:count]
    if len(found) < count:  # who of them is missing cannot be told
        found = [_no_face(clip.times, *clip.frames.shape[1:3])] * count
    return sorted(found, key=_first_place)


def _first_place(track: FaceTrack) -> float:
    """How far to the right somebody is seen first; last of all who is never seen."""
    places = track.boxes[track.known]
    return float(places[0, 0] + places[0, 2]) if len(places) else np.inf


def _no_face(times: NDArray[np.float64], height: int, width: int) -> FaceTrack:
    landmarks = np.full((len(times), FACE_LANDMARKS, 3), np.nan, np.float32)
    never = np.zeros(len(times), bool)
    return FaceTrack(times, landmarks, never, never, np.zeros(len(times), np.float32), height, width)
