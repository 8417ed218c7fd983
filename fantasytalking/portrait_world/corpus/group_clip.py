"""One item with several people: each says a sentence or listens; the sound of each is kept beside the video."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fantasytalking import media
from fantasytalking.common.files import written_whole
from fantasytalking.media import write_image, write_video
from fantasytalking.portrait_world.corpus.group_scene import Group
from fantasytalking.portrait_world.corpus.rendered_clip import (
    TRUE_DIGITS,
    Act,
    act_speech,
    draw_manner,
    true_frames,
    write_truth,
)
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray
from fantasytalking.portrait_world.motion.performance import FRAMES_PER_SECOND, swinging
from fantasytalking.portrait_world.people.identity import make_identity
from fantasytalking.portrait_world.speech.synthesis import mixed_sound, silence, speak, within_silence

JITTER_SECONDS = 0.28
LARGEST_JITTER = 3.0
"""Times its root mean square that the camera is moved at most."""

_ACTING, _STANDING, _CAMERA = 1, 2, 3


class Role(NamedTuple):
    """Who says what; an empty text is a listener's."""

    identity: int
    text: str


@dataclass(frozen=True)
class GroupPlan:
    """What is to be made: `roles` from left to right, somebody speaks; `jitter` is the root mean square of the camera's
    movement in picture heights, across and down each; None draws an intensity for each person."""

    number: int
    sentence: int
    roles: tuple[Role, ...]
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
    def lead(self) -> int:
        """Whose clips are made one after the other."""
        return self.number

    def told_by(self, known: dict[str, Any]) -> bool:
        """Whether a truth.json is of the same people saying the same."""
        return [(person["identity"], person["text"]) for person in known["people"]] == list(self.roles)

    def random(self, *purpose: int) -> np.random.Generator:
        """The source of what is drawn for this purpose."""
        return np.random.default_rng([7_401, self.seed, self.number, self.sentence, *purpose])


@dataclass(frozen=True)
class GroupAct:
    """What each person says and does, all of one length, and the camera's path (T, 2), right and down."""

    acts: tuple[Act, ...]
    shifts: FloatArray


def gather(plan: GroupPlan, size: tuple[int, int], closeness: float) -> Group:
    """The people of a plan at places of their own in this clip; `size` is width and height."""
    return Group(plan.identities, size, closeness, plan.random(_STANDING))


def act_group(plan: GroupPlan) -> GroupAct:
    """Draws what the plan leaves open, speaks and acts it; the same for equal plans.

    The clip is as long as its longest sentence; the others begin at any time at which they still fit.
    """
    assert any(role.text for role in plan.roles), "somebody must speak"
    sources = [plan.random(_ACTING, index) for index in range(len(plan.roles))]
    manners = [
        draw_manner(make_identity(role.identity), plan.expression, plan.body, random)
        for role, random in zip(plan.roles, sources, strict=True)
    ]
    spoken = [
        speak(role.text, manner.voice) if role.text else None for role, manner in zip(plan.roles, manners, strict=True)
    ]
    seconds, rate = max((speech.seconds, speech.sample_rate) for speech in spoken if speech)
    acts = []
    for speech, manner, random in zip(spoken, manners, sources, strict=True):
        start = float(random.uniform())
        whole = (
            within_silence(speech, start * (seconds - speech.seconds), seconds) if speech else silence(seconds, rate)
        )
        acts.append(act_speech(whole, manner, random))
    shifts = camera_path(len(acts[0].performance.states), plan.jitter, plan.random(_CAMERA))
    return GroupAct(tuple(acts), shifts)


def camera_path(count: int, jitter: float, random: np.random.Generator) -> FloatArray:
    """A smooth random path (count, 2) in picture heights with this root mean square on each axis, softly limited."""
    waves = np.stack([swinging(random, count, JITTER_SECONDS) for _ in range(2)], 1)
    return np.round(jitter * LARGEST_JITTER * np.tanh(waves / LARGEST_JITTER), TRUE_DIGITS) + 0.0


def group_truth(group: Group, roles: Sequence[Role], acted: GroupAct, closeness: float) -> dict[str, Any]:
    """What is known of a clip: see `write_group_clip`."""
    performances = [act.performance for act in acted.acts]
    together = zip(*(performance.states for performance in performances), strict=True)
    shifts = acted.shifts.tolist()
    boxes = np.stack([group.boxes(states, (x, y)) for states, (x, y) in zip(together, shifts, strict=True)], 1)
    people = []
    for index, (role, act) in enumerate(zip(roles, acted.acts, strict=True)):
        frames = true_frames(group.people[index], act.performance)
        places = np.round(boxes[index].astype(np.float64), 2).tolist()
        people.append(
            {
                "identity": role.identity,
                "text": role.text,
                "speaks": bool(role.text),
                "expression": act.expression,
                "body": act.body,
                "closeness": round(group.standings[index].closeness, TRUE_DIGITS),
                "frames": [frame | {"box": box} for frame, box in zip(frames, places, strict=True)],
            }
        )
    return {"people": people, "closeness": closeness, "fps": FRAMES_PER_SECOND, "jitter": shifts}


def write_group_clip(plan: GroupPlan, size: tuple[int, int], closeness: float, folder: Path) -> None:
    """Makes `folder` whole or not at all: video.mp4 with everyone's sound, portrait.png, truth.json, and for every
    person, from left to right, speech_0.wav and so on, as long as the video and silent where that one says nothing.

    truth.json holds `people` from left to right, closeness, fps and jitter, per frame the shift of the whole picture,
    right and down, in picture heights. Of every person: identity, text (empty for a listener), speaks, expression and
    body in [0, 1], closeness (how much larger than in the usual portrait of this height), and per frame what
    `write_clip` tells, and box, around the face from forehead to chin and ear to ear: left, top, right, bottom in
    pixels, the camera's shift included. The head's own x and y leave that out.
    """
    group, acted = gather(plan, size, closeness), act_group(plan)
    write_group_acted(group, acted, group_truth(group, plan.roles, acted, closeness), folder)


def write_group_acted(group: Group, acted: GroupAct, known: dict[str, Any], folder: Path) -> None:
    """Writes the files of `write_group_clip` for people who do as `acted` says; `known` is its truth."""
    speeches = [act.speech for act in acted.acts]
    rate = speeches[0].sample_rate
    with written_whole(folder) as temporary:
        temporary.mkdir()
        write_video(
            temporary / "video.mp4",
            group.frames([act.performance for act in acted.acts], acted.shifts),
            fps=FRAMES_PER_SECOND,
            audio=mixed_sound(speeches),
            sample_rate=rate,
        )
        write_image(temporary / "portrait.png", group.portrait())
        for index, speech in enumerate(speeches):
            media.write_wave(temporary / f"speech_{index}.wav", speech.samples, rate)
        write_truth(temporary / "truth.json", known)
