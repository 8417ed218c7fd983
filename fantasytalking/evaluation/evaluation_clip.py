"""A video as metrics see it: frames, audio and perception results, each computed once for all metrics."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, cached_property, partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_CLIP_FRAMES
from fantasytalking.evaluation.ground_truth import GroundTruth
from fantasytalking.media import Video, iter_frames, probe, read_audio
from fantasytalking.perception.body_pose import BodyTrack, track_body
from fantasytalking.perception.face_crop import face_crop
from fantasytalking.perception.face_track import FaceTrack, track_faces
from fantasytalking.perception.mediapipe_graphs import NUM_FACE_LANDMARKS
from fantasytalking.perception.segmentation import subject_masks

CLIP_SAMPLE_RATE = 16000
"""Samples per second of the audio of every clip."""


class CropAndResize(NamedTuple):
    """A crop of the image, and the size in pixels that it is resized to."""

    crop: tuple[float, float, float, float] | None
    """left, top, width, height in heights of the image; None = the whole image."""
    width: int
    height: int

    def apply(self, image: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
        """Returns the cropped and resized image: area interpolation to shrink, bicubic to enlarge.

        Args:
            image: (H, W, 3) uint8.
            path: file of the image, for messages.

        Raises:
            InputError: the crop lies outside of the image.
        """
        import cv2

        height, width = image.shape[:2]
        if self.crop is not None:
            left, top, crop_width, crop_height = (round(fraction * height) for fraction in self.crop)
            # The crop was rounded: one pixel may lie outside.
            if min(crop_width, crop_height) < 1 or left + crop_width > width + 1 or top + crop_height > height + 1:
                raise InputError(
                    f"'{path}' is {width}x{height}, but the crop is {crop_width}x{crop_height} pixels at "
                    f"({left}, {top}); give the video that the manifest was made for",
                    code=ErrorCode.out_of_range,
                    field="crop",
                    value=self.crop,
                )
            image = image[top : top + crop_height, left : left + crop_width]
        if image.shape[:2] == (self.height, self.width):
            return image.copy()
        interpolation = cv2.INTER_AREA if self.height < image.shape[0] else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(image, (self.width, self.height), interpolation=interpolation))


class EvaluationClip:
    """A segment of a video. Everything is read or computed on first use, and only once."""

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
            name: name of the clip.
            load_video: reads the frames.
            load_audio: reads the samples.
            path: file of the video.
            parent: the clip that this one is a slice of, and the slice.
            load_truth: reads the ground truth.
            load_track: returns the track of the measured face, if it is not the one seen most often.
            load_people: returns one clip per person, if the video shows several.
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
        """Returns a segment of a file.

        Args:
            path: video file.
            name: name of the clip; default: the file's stem.
            fps: frames per second, resampled to the nearest frames; None = every frame of the file.
            start: seconds from the beginning of the file.
            duration: seconds; with `frame_count` it limits the audio only.
            transform: crop and size of the frames; None = as in the file.
            frame_count: number of frames; later ones are not read. None = all, at most `MAX_CLIP_FRAMES`.

        Reading raises `InputError` if the file cannot be decoded, has no video, has more than `MAX_CLIP_FRAMES` or
        fewer than `frame_count` frames, or if the crop lies outside of the image.
        """
        path = Path(path)

        def load_video() -> Video:
            seconds = duration if frame_count is None else None
            stream = iter_frames(path, fps=fps, start=start, duration=seconds)
            # Cropped one by one: ten seconds of 1080p are 1.5 GB, of the face in it 0.2 GB.
            transformed = (
                (time, image if transform is None else transform.apply(image, path)) for time, image in stream
            )
            found = list(islice(transformed, frame_count or MAX_CLIP_FRAMES + 1))
            if not found or len(found) < (frame_count or 0) or len(found) > MAX_CLIP_FRAMES:
                raise InputError(
                    f"'{path}' has {len(found)} frames after {start:g} s; it must have "
                    f"{frame_count or f'1 to {MAX_CLIP_FRAMES}'}; give another video",
                    code=ErrorCode.out_of_range,
                    field="frames",
                    value=len(found),
                )
            times, frames = zip(*found, strict=True)
            return Video(np.stack(frames), np.array(times), fps or probe(path).fps)

        def load_audio() -> NDArray[np.float32]:
            return read_audio(path, sample_rate=CLIP_SAMPLE_RATE, start=start, duration=duration)

        return cls(name or path.stem, load_video, load_audio, path=path)

    @classmethod
    def from_arrays(
        cls, frames: NDArray[np.uint8], fps: float, audio: NDArray[np.float32] | None = None, name: str = "clip"
    ) -> "EvaluationClip":
        """Returns a clip in memory.

        Args:
            frames: (T, H, W, 3) uint8 RGB.
            fps: frames per second.
            audio: (S,) samples at `CLIP_SAMPLE_RATE`; None = no audio.
            name: name of the clip.
        """

        def load_audio() -> NDArray[np.float32]:
            if audio is None:
                raise InputError(
                    f"clip '{name}' has no audio; give a clip with audio",
                    code=ErrorCode.unreadable_media,
                    field="audio",
                    value=name,
                )
            return audio

        return cls(name, lambda: Video(frames, np.arange(len(frames)) / fps, fps), load_audio)

    def with_ground_truth(self, load_truth: Callable[[], GroundTruth]) -> "EvaluationClip":
        """Returns the same clip, not read yet, with the ground truth of its person for at least T frames."""
        return EvaluationClip(self.name, self._load_video, self._load_audio, path=self.path, load_truth=load_truth)

    def with_people(self, truths: Sequence[Callable[[], GroundTruth] | None]) -> "EvaluationClip":
        """Returns the same clip, not read yet, as one that shows several people.

        Args:
            truths: for each person from left to right, a function that reads the ground truth of at least T frames;
                None = not known.
        """

        def load_people(clip: EvaluationClip) -> tuple[EvaluationClip, ...]:
            tracks = cache(partial(_tracks_left_to_right, clip, len(truths)))

            def track(index: int) -> Callable[[], FaceTrack]:
                return lambda: tracks()[index]

            return tuple(clip._single_person(track(index), truth) for index, truth in enumerate(truths))

        return EvaluationClip(self.name, self._load_video, self._load_audio, path=self.path, load_people=load_people)

    @classmethod
    def merge_people(cls, clips: "Sequence[EvaluationClip]") -> "EvaluationClip":
        """Returns the first of several clips of one person each, with the people of all of them."""
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
        """One clip per person, from left to right; the clip itself if it shows one person.

        If fewer faces are found than people, all faces count as unknown.
        """
        if self._parent is not None:
            clip, part = self._parent
            return (self,) if clip.people == (clip,) else tuple(person.slice_frames(part) for person in clip.people)
        return (self,) if self._load_people is None else self._load_people(self)

    def with_audio(self, audio: NDArray[np.float32]) -> "EvaluationClip":
        """Returns the same frames and perception results with other (S,) samples."""
        return EvaluationClip(self.name, lambda: self._video, lambda: audio, path=self.path, parent=(self, slice(None)))

    def slice_frames(self, frames: slice) -> "EvaluationClip":
        """Returns a slice of the frames: a segment with its audio, or every n-th frame with the audio of its range."""

        def load_video() -> Video:
            video = self._video
            rate = video.fps / (frames.step or 1)
            return Video(video.frames[frames], video.times[frames] - video.times[frames][0], rate)

        def load_audio() -> NDArray[np.float32]:
            start, stop, _ = frames.indices(len(self.frames))
            first, last = (round(frame / self.fps * CLIP_SAMPLE_RATE) for frame in (start, stop))
            return self.audio[first:last]

        return EvaluationClip(self.name, load_video, load_audio, path=self.path, parent=(self, frames))

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
        """Frames per second."""
        return self._video.fps

    @cached_property
    def audio(self) -> NDArray[np.float32]:
        """(S,) mono samples in [-1, 1], sample n at n / `CLIP_SAMPLE_RATE` s of the clip; at most as long as the video.

        Raises:
            InputError: the clip has no audio.
        """
        return self._load_audio()[: round(len(self.frames) / self.fps * CLIP_SAMPLE_RATE)]

    def full_audio(self) -> NDArray[np.float32]:
        """Returns the (S,) audio without reading the frames; its length may differ from `audio` by a frame.

        Raises:
            InputError: the clip has no audio.
        """
        return self._load_audio()

    @cached_property
    def track(self) -> FaceTrack:
        """Track over all T frames of the face seen most often; all landmarks are NaN if there is no face."""
        if self._parent is not None:
            clip, part = self._parent
            return replace(clip.track[part], times=self.times)
        if self._load_track is not None:
            return self._load_track()
        found = track_faces(self.frames, self.times, max_people=1)
        return found[0] if found else _empty_track(self.times, *self.frames.shape[1:3])

    @cached_property
    def ground_truth(self) -> GroundTruth:
        """Ground truth of the person, (T,) per key; empty if not known, as for real footage."""
        if self._parent is not None:
            clip, part = self._parent
            return {name: track[part] for name, track in clip.ground_truth.items()}
        known = {} if self._load_truth is None else self._load_truth()
        return {name: _pad_or_trim(track, len(self.frames)) for name, track in known.items()}

    @property
    def true_mouth_opening(self) -> NDArray[np.float64]:
        """(T,) true mouth opening in [0, 1]; NaN if not known."""
        return self.ground_truth.get("mouth_open", np.full(len(self.frames), np.nan))

    @property
    def has_face(self) -> bool:
        """Whether the face is known in at least two frames."""
        return bool(self.track.known.sum() >= 2)

    @cached_property
    def body_track(self) -> BodyTrack:
        """Body joints over all T frames."""
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
        """Returns (T, size, size, 3) uint8 RGB crops: one square around all positions of the face, see `face_crop`.

        Raises:
            InputError: there is no face (check `has_face` first).
        """
        square = face_crop(self.track.landmarks, margin)
        return np.stack([square.extract(frame, size) for frame in self.frames])


def _pad_or_trim(track: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Returns (count,) values; NaN beyond the end."""
    return np.concatenate([track[:count], np.full(max(0, count - len(track)), np.nan)])


def _tracks_left_to_right(clip: EvaluationClip, count: int) -> list[FaceTrack]:
    """Returns the tracks of `count` faces, from left to right."""
    found = track_faces(clip.frames, clip.times, max_people=count)[:count]
    if len(found) < count:  # it is not known which one is missing
        found = [_empty_track(clip.times, *clip.frames.shape[1:3])] * count
    return sorted(found, key=_first_seen_x)


def _first_seen_x(track: FaceTrack) -> float:
    """Returns the horizontal position where a face is first seen; infinite if it is never seen."""
    boxes = track.boxes[track.known]
    return float(boxes[0, 0] + boxes[0, 2]) if len(boxes) else np.inf


def _empty_track(times: NDArray[np.float64], height: int, width: int) -> FaceTrack:
    landmarks = np.full((len(times), NUM_FACE_LANDMARKS, 3), np.nan, np.float32)
    never = np.zeros(len(times), bool)
    return FaceTrack(times, landmarks, never, never, np.zeros(len(times), np.float32), height, width)
