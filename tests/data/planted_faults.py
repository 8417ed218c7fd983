"""Plants one fault each in clips of the portrait world: sound, picture, and both."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.data.manifest import RejectionReason
from fantasytalking.perception.face_track import FaceTrack, track_faces
from fantasytalking.portrait_world.corpus.rendered_clip import ClipPlan, PortraitRenderer, perform_plan
from fantasytalking.portrait_world.people.identity import make_identity

FPS, FRAMES, SIZE = 25, 81, 160
SENTENCES = (
    "We took the early train to the sea and walked along the beach until the rain came.",
    "My brother bought a new bicycle and a green coat before the winter began this year.",
    "The old baker opens his shop at six and sells warm bread to everybody in the street.",
)

Frames = NDArray[np.uint8]
Samples = NDArray[np.float32]


@dataclass(frozen=True)
class TalkingClip:
    """A person who says a sentence; with a fault, if one was planted."""

    frames: Frames
    """(T, H, W, 3)."""
    samples: Samples
    rate: int
    """Hz."""

    @property
    def track(self) -> FaceTrack:
        return track_faces(self.frames, np.arange(len(self.frames)) / FPS)[0]


@cache
def talking(identity: int, yaw: float = 0.0) -> TalkingClip:
    """Renders a held-out person; `yaw` turns the head, in radians."""
    person = make_identity(identity)
    text = SENTENCES[identity % len(SENTENCES)]
    acted = perform_plan(person, ClipPlan(identity, 0, text, seed=0))
    states = tuple(replace(state, yaw=state.yaw + yaw) for state in acted.animation.states)
    animation = replace(acted.animation, states=states)
    frames = np.stack(list(islice(PortraitRenderer(person, SIZE).frames(animation), FRAMES)))
    rate = acted.speech.sample_rate
    samples = acted.speech.samples[: round((FRAMES / FPS + 1) * rate)].astype(np.float32) / 32768
    return TalkingClip(frames, samples, rate)


def face_height(track: FaceTrack) -> float:
    boxes = track.boxes[track.known]
    return float(np.median(boxes[:, 3] - boxes[:, 1]))


def noise_of(clip: TalkingClip, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=len(clip.samples))


def tone(clip: TalkingClip) -> TalkingClip:
    return replace(clip, samples=_loud(np.sin(2 * np.pi * 220 * np.arange(len(clip.samples)) / clip.rate)))


def noise(clip: TalkingClip) -> TalkingClip:
    return replace(clip, samples=_loud(noise_of(clip)))


def music(clip: TalkingClip) -> TalkingClip:
    return replace(clip, samples=_loud(_chords(clip)))


def music_over_speech(clip: TalkingClip) -> TalkingClip:
    """Music 6 dB below the speech."""
    chords = _chords(clip)
    level = np.sqrt(np.mean(np.square(clip.samples)) / np.mean(np.square(chords))) / 2
    return replace(clip, samples=_loud(clip.samples + level * chords))


def late_sound(clip: TalkingClip) -> TalkingClip:
    """Sound that is 600 ms late."""
    missing = np.zeros(round(0.6 * clip.rate), np.float32)
    return replace(clip, samples=np.concatenate([missing, clip.samples]))


def other_speech(clip: TalkingClip, other: TalkingClip) -> TalkingClip:
    return replace(clip, samples=other.samples, rate=other.rate)


def still_photograph(clip: TalkingClip) -> TalkingClip:
    """The first frame with the noise of a sensor."""
    grain = np.random.default_rng(0).normal(0, 1.5, clip.frames.shape)
    return replace(clip, frames=np.clip(clip.frames[:1] + grain, 0, 255).astype(np.uint8))


def covered_mouth(clip: TalkingClip) -> TalkingClip:
    """A hand of the color and texture of the forehead moves with the mouth."""
    track, frames = clip.track, clip.frames.copy()
    half = round(0.24 * face_height(track))
    for frame, points in zip(frames, np.nan_to_num(track.landmarks[..., :2]), strict=True):
        x, y = np.round(points[[13, 14, 61, 291]].mean(axis=0)).astype(int)
        forehead = np.round(points[[10, 151]].mean(axis=0)).astype(int)
        skin = frame[max(0, forehead[1] - 4) : forehead[1] + 4, max(0, forehead[0] - 4) : forehead[0] + 4]
        patch = cv2.resize(np.ascontiguousarray(skin), (2 * half, round(1.3 * half)))
        top, left = y - patch.shape[0] // 2, x - half
        target = frame[max(0, top) : top + patch.shape[0], max(0, left) : left + patch.shape[1]]
        target[:] = patch[: target.shape[0], : target.shape[1]]
    return replace(clip, frames=frames)


def subtitles(clip: TalkingClip) -> TalkingClip:
    """White text with a black outline over the chin."""
    track, frames = clip.track, clip.frames.copy()
    size = face_height(track)
    chin = np.nanmedian(track.landmarks[:, 152, :2], axis=0)
    place = int(chin[0] - 0.5 * size), int(chin[1])
    for frame in frames:
        for width, color in ((3, (0, 0, 0)), (1, (255, 255, 255))):
            text = "WHAT THEY SAY"
            cv2.putText(frame, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.0042 * size, color, width, cv2.LINE_AA)
    return replace(clip, frames=frames)


def enlarged(clip: TalkingClip, factor: float = 3.7) -> TalkingClip:
    """A face enlarged as one of 48 pixels is to 178."""
    small = round(clip.frames.shape[1] / factor)
    reduced = [cv2.resize(frame, (small, small), interpolation=cv2.INTER_AREA) for frame in clip.frames]
    shape = clip.frames.shape[2], clip.frames.shape[1]
    frames = [cv2.resize(frame, shape, interpolation=cv2.INTER_CUBIC) for frame in reduced]
    return replace(clip, frames=np.stack(frames).astype(np.uint8))


def blurred(clip: TalkingClip) -> TalkingClip:
    sigma = 0.035 * face_height(clip.track)
    return replace(clip, frames=np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in clip.frames]))


def moving_camera(clip: TalkingClip) -> TalkingClip:
    """A hand-held camera before a wall with pictures."""
    frames, size = clip.frames.copy(), clip.frames.shape[1]
    wall = np.random.default_rng(0).integers(0, 255, (6, 5, 3), dtype=np.uint8)
    picture = cv2.resize(wall, (size // 6, size // 5), interpolation=cv2.INTER_NEAREST)
    frames[:, : size // 5, : size // 6] = frames[:, : size // 5, -(size // 6) :] = picture
    moved = []
    for number, frame in enumerate(frames):
        angle = 2 * np.pi * 1.5 * number / FPS
        shift = np.array([[1, 0, 0.06 * size * np.sin(angle)], [0, 1, 0.03 * size * np.cos(angle)]])
        moved.append(cv2.warpAffine(frame, shift, (size, size), borderMode=cv2.BORDER_REFLECT))
    return replace(clip, frames=np.stack(moved).astype(np.uint8))


FAULTS: dict[str, tuple[RejectionReason, Callable[[TalkingClip], TalkingClip]]] = {
    "a tone": (RejectionReason.NOT_SPEECH, tone),
    "noise": (RejectionReason.NOT_SPEECH, noise),
    "music": (RejectionReason.NOT_SPEECH, music),
    "music over speech, -6 dB": (RejectionReason.BACKGROUND_SOUND, music_over_speech),
    "sound 600 ms late": (RejectionReason.SOUND_SHIFTED, late_sound),
    "a still photograph": (RejectionReason.STILL_MOUTH, still_photograph),
    "a hand before the mouth": (RejectionReason.COVERED_MOUTH, covered_mouth),
    "subtitles over the chin": (RejectionReason.TEXT_OVER_FACE, subtitles),
    "a face enlarged 3.7 times": (RejectionReason.LOW_DETAIL, enlarged),
    "out of focus": (RejectionReason.BLURRED, blurred),
    "a moving camera": (RejectionReason.CAMERA_MOTION, moving_camera),
}
"""Faults of one clip: expected reason, and what plants it."""


def _loud(samples: NDArray[np.floating]) -> Samples:
    return (0.5 * samples / np.abs(samples).max()).astype(np.float32)


def _chords(clip: TalkingClip) -> NDArray[np.float64]:
    """Plucked chords that change twice per second."""
    random = np.random.default_rng(1)
    times = np.arange(len(clip.samples)) / clip.rate
    sound = np.zeros(len(times))
    for start in np.arange(0, times[-1], 0.5):
        root, since = random.choice([110, 130.8, 146.8, 164.8, 196]), times - start
        envelope = np.where((since >= 0) & (since < 0.8), np.exp(-2 * since) * np.minimum(1, since / 0.01), 0)
        for ratio in (1, 1.26, 1.5, 2):
            for harmonic in range(1, 6):
                phase = random.uniform(0, 2 * np.pi)
                sound += envelope * np.sin(2 * np.pi * root * ratio * harmonic * since + phase) / harmonic
    return sound
