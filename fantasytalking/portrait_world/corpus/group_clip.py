"""Renders one clip of several people, who each say a sentence or listen, with one audio file per person."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fantasytalking import media
from fantasytalking.common.files import atomic_write
from fantasytalking.media import write_image, write_video
from fantasytalking.portrait_world.corpus.group_scene import GroupRenderer
from fantasytalking.portrait_world.corpus.rendered_clip import (
    TRUTH_DIGITS,
    Performance,
    ground_truth_frames,
    perform_speech,
    sample_performance_style,
    write_ground_truth,
)
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray
from fantasytalking.portrait_world.motion.animation import WORLD_FPS, smooth_random_wave
from fantasytalking.portrait_world.people.identity import make_identity
from fantasytalking.portrait_world.speech.synthesis import (
    mix_speeches,
    pad_with_silence,
    silent_speech,
    synthesize_speech,
)

JITTER_SECONDS = 0.28
MAX_JITTER_RATIO = 3.0
"""Largest camera displacement, relative to its root mean square."""

_PERFORMANCE_STREAM, _PLACEMENT_STREAM, _CAMERA_STREAM = 1, 2, 3


class SpeakingRole(NamedTuple):
    """Identity and text of one person; the text of a listener is empty."""

    identity: int
    text: str


@dataclass(frozen=True)
class GroupClipPlan:
    """Plan of a clip of several people, at least one of whom speaks."""

    number: int
    """Number of the group."""
    sentence: int
    """Index of the sentence in the sentences file."""
    roles: tuple[SpeakingRole, ...]
    """People from left to right."""
    seed: int
    expression: float | None = None
    """Intensity of facial motion in [0, 1]. None: drawn for each person."""
    body: float | None = None
    """Intensity of head and shoulder motion in [0, 1]. None: drawn for each person."""
    jitter: float = 0.0
    """Root mean square of the camera's motion along each axis, in image heights."""

    @property
    def name(self) -> str:
        """Name of the clip's folder."""
        return f"g{self.number:04d}_s{self.sentence:04d}"

    @property
    def identities(self) -> tuple[int, ...]:
        """Identities from left to right."""
        return tuple(role.identity for role in self.roles)

    @property
    def task_group(self) -> int:
        """Number that clips rendered by the same process share."""
        return self.number

    def matches_record(self, truth: dict[str, Any]) -> bool:
        """Whether the content of a truth.json has the same people and texts."""
        return [(person["identity"], person["text"]) for person in truth["people"]] == list(self.roles)

    def random_for(self, *purpose: int) -> np.random.Generator:
        """Returns the random generator for a purpose."""
        return np.random.default_rng([7_401, self.seed, self.number, self.sentence, *purpose])


@dataclass(frozen=True)
class GroupPerformance:
    """Performances of equal length, one per person, and the camera's path (T, 2), right and down in image heights."""

    performances: tuple[Performance, ...]
    camera_shifts: FloatArray


def make_group_renderer(plan: GroupClipPlan, size: tuple[int, int], zoom: float) -> GroupRenderer:
    """Returns the renderer of a plan's people, placed at random; `size` is width and height in pixels."""
    return GroupRenderer(plan.identities, size, zoom, plan.random_for(_PLACEMENT_STREAM))


def perform_group(plan: GroupClipPlan) -> GroupPerformance:
    """Synthesizes the speech and motion of a plan, with random values where the plan has None; deterministic.

    The clip is as long as its longest sentence. The other sentences start at a random time at which they fit.
    """
    assert any(role.text for role in plan.roles), "at least one person must speak"
    sources = [plan.random_for(_PERFORMANCE_STREAM, index) for index in range(len(plan.roles))]
    styles = [
        sample_performance_style(make_identity(role.identity), plan.expression, plan.body, random)
        for role, random in zip(plan.roles, sources, strict=True)
    ]
    spoken = [
        synthesize_speech(role.text, style.voice) if role.text else None
        for role, style in zip(plan.roles, styles, strict=True)
    ]
    seconds, rate = max((speech.seconds, speech.sample_rate) for speech in spoken if speech)
    performances = []
    for speech, style, random in zip(spoken, styles, sources, strict=True):
        start = float(random.uniform())
        padded = (
            pad_with_silence(speech, start * (seconds - speech.seconds), seconds)
            if speech
            else silent_speech(seconds, rate)
        )
        performances.append(perform_speech(padded, style, random))
    shifts = camera_path(len(performances[0].animation.states), plan.jitter, plan.random_for(_CAMERA_STREAM))
    return GroupPerformance(tuple(performances), shifts)


def camera_path(count: int, jitter: float, random: np.random.Generator) -> FloatArray:
    """Draws a smooth random path (count, 2) in image heights, with root mean square `jitter` per axis."""
    waves = np.stack([smooth_random_wave(random, count, JITTER_SECONDS) for _ in range(2)], 1)
    return np.round(jitter * MAX_JITTER_RATIO * np.tanh(waves / MAX_JITTER_RATIO), TRUTH_DIGITS) + 0.0


def group_ground_truth(
    group: GroupRenderer, roles: Sequence[SpeakingRole], group_performance: GroupPerformance, zoom: float
) -> dict[str, Any]:
    """Returns the ground truth of a clip, see `write_group_clip`."""
    animations = [performance.animation for performance in group_performance.performances]
    frame_states = zip(*(animation.states for animation in animations), strict=True)
    shifts = group_performance.camera_shifts.tolist()
    boxes = np.stack([group.face_boxes(states, (x, y)) for states, (x, y) in zip(frame_states, shifts, strict=True)], 1)
    people = []
    for index, (role, performance) in enumerate(zip(roles, group_performance.performances, strict=True)):
        frames = ground_truth_frames(group.people[index], performance.animation)
        rounded_boxes = np.round(boxes[index].astype(np.float64), 2).tolist()
        people.append(
            {
                "identity": role.identity,
                "text": role.text,
                "speaks": bool(role.text),
                "expression": performance.expression,
                "body": performance.body,
                "closeness": round(group.placements[index].zoom, TRUTH_DIGITS),
                "frames": [frame | {"box": box} for frame, box in zip(frames, rounded_boxes, strict=True)],
            }
        )
    return {"people": people, "closeness": zoom, "fps": WORLD_FPS, "jitter": shifts}


def write_group_clip(plan: GroupClipPlan, size: tuple[int, int], zoom: float, folder: Path) -> None:
    """Renders a plan to `folder`, completely or not at all: video.mp4 with the mixed audio, portrait.png, truth.json,
    and per person, from left to right, speech_0.wav and so on, as long as the video and silent for a listener.

    truth.json has `people` from left to right, `closeness` (the zoom), `fps`, and `jitter`: per frame the shift of the
    whole image, right and down, in image heights. Per person it has identity, text (empty for a listener), speaks,
    expression and body in [0, 1], closeness (magnification relative to the default portrait of this height), and per
    frame the values of `write_clip` and box: left, top, right, bottom in pixels around the face from forehead to chin
    and ear to ear, with the camera's shift. The head's x and y are without that shift.
    """
    group, performance = make_group_renderer(plan, size, zoom), perform_group(plan)
    write_group_performance(group, performance, group_ground_truth(group, plan.roles, performance, zoom), folder)


def write_group_performance(
    group: GroupRenderer, performance: GroupPerformance, truth: dict[str, Any], folder: Path
) -> None:
    """Renders a performance to the files of `write_group_clip`; `truth` is its ground truth."""
    speeches = [each.speech for each in performance.performances]
    rate = speeches[0].sample_rate
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        write_video(
            temporary / "video.mp4",
            group.frames([each.animation for each in performance.performances], performance.camera_shifts),
            fps=WORLD_FPS,
            audio=mix_speeches(speeches),
            sample_rate=rate,
        )
        write_image(temporary / "portrait.png", group.portrait())
        for index, speech in enumerate(speeches):
            media.write_wav(temporary / f"speech_{index}.wav", speech.samples, rate)
        write_ground_truth(temporary / "truth.json", truth)
