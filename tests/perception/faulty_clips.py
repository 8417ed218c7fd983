"""Renders good clips and clips with planted faults: one person, static faces, photographs, blur."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from fantasytalking.perception.multi_person_filter import MultiPersonRejection
from fantasytalking.portrait_world.corpus.group_clip import camera_path
from fantasytalking.portrait_world.corpus.group_scene import GroupRenderer
from fantasytalking.portrait_world.corpus.rendered_clip import (
    PortraitRenderer,
    perform_speech,
    sample_performance_style,
)
from fantasytalking.portrait_world.motion.animation import WORLD_FPS
from fantasytalking.portrait_world.motion.frame_state import FaceState
from fantasytalking.portrait_world.people.identity import make_identity
from fantasytalking.portrait_world.speech.synthesis import pad_with_silence, silent_speech, synthesize_speech

SECONDS = 2.4
STEP = 2
"""Every second frame is drawn."""
JITTER, NOISE = 0.006, 2.0


@dataclass(frozen=True)
class FaultyClip:
    """A clip and its ground truth."""

    kind: str
    frames: np.ndarray
    """(T, H, W, 3) uint8."""
    times: np.ndarray
    rejection: MultiPersonRejection | None
    """Expected rejection; None for a clip to accept."""


States = list[FaceState]


class FaultyClipRenderer:
    """Draws clips of `height` pixels; equal seeds give equal clips."""

    def __init__(self, height: int, seed: int, seconds: float = SECONDS) -> None:
        self.height = height
        self.random = np.random.default_rng([seed, height])
        self.count = round(seconds * WORLD_FPS)

    def clip(self, kind: str) -> FaultyClip:
        """Renders one clip of a kind of `FAULT_KINDS`."""
        make, rejection = FAULT_KINDS[kind]
        frames = np.stack([self._noisy(frame) for frame in make(self)])
        return FaultyClip(kind, frames, np.arange(len(frames)) * STEP / WORLD_FPS, rejection)

    def moving(self, people: int) -> Iterator[np.ndarray]:
        """Moving people who speak or listen."""
        talking = [True] + [bool(self.random.random() < 0.6) for _ in range(people - 1)]
        return self._render_with_jitter(self._group(people), [self._states(talks) for talks in talking])

    def still(self, people: int) -> Iterator[np.ndarray]:
        """Motionless people before a moving camera."""
        return self._render_with_jitter(self._group(people), [[self._pose()] * self.count for _ in range(people)])

    def one_moves(self) -> Iterator[np.ndarray]:
        """A speaker beside a motionless person."""
        return self._render_with_jitter(self._group(2), [self._states(True), [self._pose()] * self.count])

    def blurred(self) -> Iterator[np.ndarray]:
        """Two moving people, out of focus."""
        deviation = self.random.uniform(0.015, 0.035) * self.height
        return (cv2.GaussianBlur(frame, (0, 0), deviation) for frame in self.moving(2))

    def photograph(self) -> Iterator[np.ndarray]:
        """A speaker before a framed photograph of another person, which moves with the camera."""
        photograph = PortraitRenderer(make_identity(self._next_identity()), self.height).portrait()
        side = round(0.5 * self.height)
        framed = cv2.resize(photograph, (side, side), interpolation=cv2.INTER_AREA)
        framed = cv2.copyMakeBorder(framed, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(240, 240, 235))
        shifts = self._path()
        group = self._group(1, width=2 * self.height)
        left = 0.07 if group.placements[0].x > 0 else 2 - 0.07 - len(framed) / self.height
        for frame, (x, y) in zip(self._render_frames(group, [self._states(True)], shifts), shifts[::STEP], strict=True):
            shift = np.array([[1, 0, (left + x) * self.height], [0, 1, (0.1 + y) * self.height]], np.float32)
            size = (frame.shape[1], frame.shape[0])
            inset, cover = (
                cv2.warpAffine(image, shift, size) for image in (framed, np.full(framed.shape, 255, np.uint8))
            )
            alpha = cover.astype(np.float32) / 255
            yield np.round(frame * (1 - alpha) + inset * alpha).astype(np.uint8)

    def passer_by(self) -> Iterator[np.ndarray]:
        """A speaker, and a person who is visible in the last third."""
        states, group = self._states(True), self._group(2)
        away = [FaceState(y=3.0)] * (2 * self.count // 3)
        return self._render_with_jitter(group, [states, away + self._states(True)[len(away) :]])

    def cut(self) -> Iterator[np.ndarray]:
        """One person, then another after a cut: never both."""
        first, second = (list(self.moving(1)) for _ in range(2))
        half = len(first) // 2
        yield from first[:half]
        yield from second[half:]

    def nobody(self) -> Iterator[np.ndarray]:
        """An empty room."""
        return self._render_with_jitter(self._group(2), [[FaceState(y=3.0)] * self.count] * 2)

    def _group(self, people: int, width: int = 0) -> GroupRenderer:
        identities = [self._next_identity() for _ in range(people)]
        while len(set(identities)) < people:
            identities = [self._next_identity() for _ in range(people)]
        size = (width or 16 * round(max(1.0, 0.83 * people) * self.height / 16), self.height)
        return GroupRenderer(identities, size, 1.0, self.random)

    def _next_identity(self) -> int:
        return int(self.random.integers(1000, 1100))

    def _states(self, talks: bool) -> States:
        expression, body = self.random.uniform(0.2 if talks else 0.4, 1.0), self.random.uniform(0.0, 1.0)
        identity = make_identity(self._next_identity())
        manner = sample_performance_style(identity, expression, body, self.random)
        speech = synthesize_speech("My father bought five big apples there.", manner.voice)
        seconds = max(self.count / WORLD_FPS, speech.seconds)
        whole = pad_with_silence(speech, 0.0, seconds) if talks else silent_speech(seconds, speech.sample_rate)
        return list(perform_speech(whole, manner, self.random).animation.states[: self.count])

    def _pose(self) -> FaceState:
        yaw, pitch, smile = self.random.uniform(-0.2, 0.2), self.random.uniform(-0.1, 0.1), self.random.uniform(0, 1)
        return FaceState(yaw=yaw, pitch=pitch, smile=smile, mouth_open=float(self.random.choice([0.0, 0.3])))

    def _path(self) -> np.ndarray:
        return camera_path(self.count, JITTER if self.random.random() < 0.7 else 0.0, self.random)

    def _render_with_jitter(self, group: GroupRenderer, states: list[States]) -> Iterator[np.ndarray]:
        return self._render_frames(group, states, self._path())

    def _render_frames(self, group: GroupRenderer, states: list[States], shifts: np.ndarray) -> Iterator[np.ndarray]:
        for frame in range(0, self.count, STEP):
            x, y = shifts[frame].tolist()
            yield group.frame([person[frame] for person in states], (x, y))

    def _noisy(self, frame: np.ndarray) -> np.ndarray:
        """With a sensor's noise: what is still is not the same in every frame."""
        noisy = frame + self.random.normal(0, NOISE, frame.shape)
        return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


FAULT_KINDS: dict[str, tuple[Callable[[FaultyClipRenderer], Iterator[np.ndarray]], MultiPersonRejection | None]] = {
    "two moving": (lambda planter: planter.moving(2), None),
    "three moving": (lambda planter: planter.moving(3), None),
    "one moving": (lambda planter: planter.moving(1), MultiPersonRejection.TOO_FEW_PEOPLE),
    "nobody": (FaultyClipRenderer.nobody, MultiPersonRejection.TOO_FEW_PEOPLE),
    "passer-by": (FaultyClipRenderer.passer_by, MultiPersonRejection.TOO_FEW_PEOPLE),
    "one, then another": (FaultyClipRenderer.cut, MultiPersonRejection.TOO_FEW_PEOPLE),
    "two still": (lambda planter: planter.still(2), MultiPersonRejection.STATIC),
    "three still": (lambda planter: planter.still(3), MultiPersonRejection.STATIC),
    "one of two moving": (FaultyClipRenderer.one_moves, MultiPersonRejection.STATIC),
    "photograph": (FaultyClipRenderer.photograph, MultiPersonRejection.STATIC),
    "two blurred": (FaultyClipRenderer.blurred, MultiPersonRejection.BLURRED),
}
