"""One item with several people: each says a sentence or listens; the sound of each is kept beside the video."""

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
from fantasytalking.portrait_world.motion.performance import WORLD_FPS, smooth_random_wave
from fantasytalking.portrait_world.people.identity import make_identity
from fantasytalking.portrait_world.speech.synthesis import (
    mix_speeches,
    pad_with_silence,
    silent_speech,
    synthesize_speech,
)

JITTER_SECONDS = 0.28
MAX_JITTER_RATIO = 3.0
"""Times its root mean square that the camera is moved at most."""

_ACTING, _STANDING, _CAMERA = 1, 2, 3


class SpeakingRole(NamedTuple):
    """Who says what; an empty text is a listener's."""

    identity: int
    text: str


@dataclass(frozen=True)
class GroupClipPlan:
    """What is to be made: `roles` from left to right, somebody speaks; `jitter` is the root mean square of the camera's
    movement in picture heights, across and down each; None draws an intensity for each person."""

    number: int
    sentence: int
    roles: tuple[SpeakingRole, ...]
    seed: int
    expression: float | None = None
    body: float | None = None
    jitter: float = 0.0

    @property
    def name(self) -> str:
        return f"g{self.number:04d}_s{self.sentence:04d}"

    @property
    def identities(self) -> tuple[int, ...]:
        return tuple(role.identity for role in self.roles)

    @property
    def task_group(self) -> int:
        """Whose clips are made one after the other."""
        return self.number

    def matches_record(self, truth: dict[str, Any]) -> bool:
        """Whether a truth.json is of the same people saying the same."""
        return [(person["identity"], person["text"]) for person in truth["people"]] == list(self.roles)

    def random_for(self, *purpose: int) -> np.random.Generator:
        """The source of what is drawn for this purpose."""
        return np.random.default_rng([7_401, self.seed, self.number, self.sentence, *purpose])


@dataclass(frozen=True)
class GroupPerformance:
    """What each person says and does, all of one length, and the camera's path (T, 2), right and down."""

    performances: tuple[Performance, ...]
    camera_shifts: FloatArray


def make_group_renderer(plan: GroupClipPlan, size: tuple[int, int], zoom: float) -> GroupRenderer:
    """The people of a plan at places of their own in this clip; `size` is width and height."""
    return GroupRenderer(plan.identities, size, zoom, plan.random_for(_STANDING))


def perform_group(plan: GroupClipPlan) -> GroupPerformance:
    """Draws what the plan leaves open, speaks and acts it; the same for equal plans.

    The clip is as long as its longest sentence; the others begin at any time at which they still fit.
    """
    assert any(role.text for role in plan.roles), "somebody must speak"
    sources = [plan.random_for(_ACTING, index) for index in range(len(plan.roles))]
    manners = [
        sample_performance_style(make_identity(role.identity), plan.expression, plan.body, random)
        for role, random in zip(plan.roles, sources, strict=True)
    ]
    spoken = [
        synthesize_speech(role.text, manner.voice) if role.text else None
        for role, manner in zip(plan.roles, manners, strict=True)
    ]
    seconds, rate = max((speech.seconds, speech.sample_rate) for speech in spoken if speech)
    acts = []
    for speech, manner, random in zip(spoken, manners, sources, strict=True):
        start = float(random.uniform())
        whole = (
            pad_with_silence(speech, start * (seconds - speech.seconds), seconds)
            if speech
            else silent_speech(seconds, rate)
        )
        acts.append(perform_speech(whole, manner, random))
    shifts = camera_path(len(acts[0].animation.states), plan.jitter, plan.random_for(_CAMERA))
    return GroupPerformance(tuple(acts), shifts)


def camera_path(count: int, jitter: float, random: np.random.Generator) -> FloatArray:
    """A smooth random path (count, 2) in picture heights with this root mean square on each axis, softly limited."""
    waves = np.stack([smooth_random_wave(random, count, JITTER_SECONDS) for _ in range(2)], 1)
    return np.round(jitter * MAX_JITTER_RATIO * np.tanh(waves / MAX_JITTER_RATIO), TRUTH_DIGITS) + 0.0


def group_ground_truth(
    group: GroupRenderer, roles: Sequence[SpeakingRole], group_performance: GroupPerformance, zoom: float
) -> dict[str, Any]:
    """What is known of a clip: see `write_group_clip`."""
    performances = [act.animation for act in group_performance.performances]
    together = zip(*(performance.states for performance in performances), strict=True)
    shifts = group_performance.camera_shifts.tolist()
    boxes = np.stack([group.face_boxes(states, (x, y)) for states, (x, y) in zip(together, shifts, strict=True)], 1)
    people = []
    for index, (role, act) in enumerate(zip(roles, group_performance.performances, strict=True)):
        frames = ground_truth_frames(group.people[index], act.animation)
        places = np.round(boxes[index].astype(np.float64), 2).tolist()
        people.append(
            {
                "identity": role.identity,
                "text": role.text,
                "speaks": bool(role.text),
                "expression": act.expression,
                "body": act.body,
                "closeness": round(group.placements[index].zoom, TRUTH_DIGITS),
                "frames": [frame | {"box": box} for frame, box in zip(frames, places, strict=True)],
            }
        )
    return {"people": people, "closeness": zoom, "fps": WORLD_FPS, "jitter": shifts}


def write_group_clip(plan: GroupClipPlan, size: tuple[int, int], zoom: float, folder: Path) -> None:
    """Makes `folder` whole or not at all: video.mp4 with everyone's sound, portrait.png, truth.json, and for every
    person, from left to right, speech_0.wav and so on, as long as the video and silent where that one says nothing.

    truth.json holds `people` from left to right, closeness, fps and jitter, per frame the shift of the whole picture,
    right and down, in picture heights. Of every person: identity, text (empty for a listener), speaks, expression and
    body in [0, 1], closeness (how much larger than in the usual portrait of this height), and per frame what
    `write_clip` tells, and box, around the face from forehead to chin and ear to ear: left, top, right, bottom in
    pixels, the camera's shift included. The head's own x and y leave that out.
    """
    group, acted = make_group_renderer(plan, size, zoom), perform_group(plan)
    write_group_performance(group, acted, group_ground_truth(group, plan.roles, acted, zoom), folder)


def write_group_performance(
    group: GroupRenderer, performance: GroupPerformance, truth: dict[str, Any], folder: Path
) -> None:
    """Writes the files of `write_group_clip` for people who do as `performance` says; `truth` is its truth."""
    speeches = [act.speech for act in performance.performances]
    rate = speeches[0].sample_rate
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        write_video(
            temporary / "video.mp4",
            group.frames([act.animation for act in performance.performances], performance.camera_shifts),
            fps=WORLD_FPS,
            audio=mix_speeches(speeches),
            sample_rate=rate,
        )
        write_image(temporary / "portrait.png", group.portrait())
        for index, speech in enumerate(speeches):
            media.write_wav(temporary / f"speech_{index}.wav", speech.samples, rate)
        write_ground_truth(temporary / "truth.json", truth)
