"""One item of the corpus: a person says a sentence; video, portrait, speech and the truth about every frame."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.common.files import written_whole
from fantasytalking.media import write_image, write_video
from fantasytalking.portrait_world.motion.frame_state import NEUTRAL, FaceState
from fantasytalking.portrait_world.motion.performance import FRAMES_PER_SECOND, Performance, perform
from fantasytalking.portrait_world.people.identity import Identity
from fantasytalking.portrait_world.render.backdrop import make_backdrop
from fantasytalking.portrait_world.render.camera import Camera, seen_closer
from fantasytalking.portrait_world.render.person_mesh import Person
from fantasytalking.portrait_world.render.scene import Place, oversampling, render
from fantasytalking.portrait_world.speech.synthesis import Speech, Voice, speak, within_silence

TRUE_DIGITS = 5
TRUE_VALUES = ("yaw", "pitch", "roll", "x", "y", "blink", "brow", "smile", "gaze_x", "gaze_y")


@dataclass(frozen=True)
class ClipPlan:
    """What is to be made: `sentence` counts the lines of the sentences file from 0; None draws an intensity."""

    identity: int
    sentence: int
    text: str
    seed: int
    expression: float | None = None
    body: float | None = None
    rest: float = 0.0
    """Seconds of silence after what is said."""

    @property
    def name(self) -> str:
        return f"id{self.identity:04d}_s{self.sentence:04d}"

    @property
    def lead(self) -> int:
        """Whose clips are made one after the other."""
        return self.identity

    def told_by(self, known: dict[str, Any]) -> bool:
        """Whether a truth.json is of the same person saying the same."""
        return (known["identity"], known["text"]) == (self.identity, self.text)


class Sitter:
    """A person before a backdrop, `size` x `size` pixels, seen `closeness` times larger than in the usual portrait."""

    def __init__(self, identity: Identity, size: int, closeness: float = 1.0) -> None:
        self.identity = identity
        self.size = size
        self.closeness = closeness
        canvas = round(size * oversampling(size))
        self._backdrop = make_backdrop(identity, canvas, canvas)
        camera = Camera.portrait(canvas, canvas, closeness)
        self.person = Person(identity, camera.scale)
        self._places = (Place(self.person, camera),)

    def frame(self, state: FaceState) -> NDArray[np.uint8]:
        """(size, size, 3) uint8 RGB."""
        return render(self._backdrop, self._places, (seen_closer(state, self.closeness),), (self.size, self.size))

    def portrait(self) -> NDArray[np.uint8]:
        """At rest: mouth closed, eyes open, looking ahead."""
        return self.frame(NEUTRAL)

    def frames(self, performance: Performance) -> Iterator[NDArray[np.uint8]]:
        """Every frame of a performance."""
        return (self.frame(state) for state in performance.states)


@dataclass(frozen=True)
class Act:
    """A sentence as spoken and acted with these intensities."""

    speech: Speech
    performance: Performance
    expression: float
    body: float


class Manner(NamedTuple):
    """How someone does it this time: intensities in [0, 1] and a voice a little unlike the usual one."""

    expression: float
    body: float
    voice: Voice


def draw_manner(
    identity: Identity, expression: float | None, body: float | None, random: np.random.Generator
) -> Manner:
    """Draws the intensities that are None, and the voice."""
    drawn = random.uniform(0, 1, 2).tolist()
    rate, pitch = int(random.integers(-18, 19)), int(random.integers(-6, 7))
    usual = identity.voice
    voice = Voice(usual.name, usual.rate + rate, int(np.clip(usual.pitch + pitch, 0, 100)), usual.range)
    return Manner(drawn[0] if expression is None else expression, drawn[1] if body is None else body, voice)


def act_speech(speech: Speech, manner: Manner, random: np.random.Generator) -> Act:
    """Acts what is said in this manner."""
    performance = perform(speech, manner.expression, manner.body, random)
    return Act(speech, performance, round(manner.expression, TRUE_DIGITS), round(manner.body, TRUE_DIGITS))


def act(identity: Identity, plan: ClipPlan) -> Act:
    """Draws what the plan leaves open, speaks the sentence and acts it; the same for equal plans."""
    random = np.random.default_rng([plan.seed, plan.identity, plan.sentence])
    manner = draw_manner(identity, plan.expression, plan.body, random)
    speech = speak(plan.text, manner.voice)
    return act_speech(within_silence(speech, 0.0, speech.seconds + plan.rest), manner, random)


def true_frames(person: Person, performance: Performance) -> list[dict[str, Any]]:
    """What is known of one person in every frame: see `write_clip`."""
    frames = []
    for state, phoneme in zip(performance.states, performance.phonemes, strict=True):
        opening, width = person.mouth_size(state)
        values = {"mouth_open": min(max(opening, 0.0), 1.0), "mouth_width": width}
        values |= {name: getattr(state, name) for name in TRUE_VALUES}
        frames.append({name: round(value, TRUE_DIGITS) + 0.0 for name, value in values.items()} | {"phoneme": phoneme})
    return frames


def truth(sitter: Sitter, plan: ClipPlan, acted: Act) -> dict[str, Any]:
    """What is known of a clip: see `write_clip`."""
    return {
        "identity": plan.identity,
        "text": plan.text,
        "expression": acted.expression,
        "body": acted.body,
        "closeness": sitter.closeness,
        "fps": FRAMES_PER_SECOND,
        "frames": true_frames(sitter.person, acted.performance),
    }


def write_truth(path: Path, known: dict[str, Any]) -> None:
    """Writes what is known of a clip as one line of JSON."""
    path.write_text(json.dumps(known, separators=(",", ":"), ensure_ascii=False) + "\n", "utf-8")


def write_clip(sitter: Sitter, plan: ClipPlan, folder: Path) -> None:
    """Makes `folder` whole or not at all: video.mp4, portrait.png, speech.wav and truth.json.

    truth.json holds identity, text, expression and body in [0, 1], closeness, fps, and per frame: mouth_open (gap
    between the inner lips over its largest value, [0, 1]), mouth_width (distance between the corners over that
    between the eyes), yaw (to the picture's right), pitch (down) and roll (top to the right) in radians, x (right)
    and y (down) of the head in picture heights, blink in [0, 1], brow, smile and gaze in [-1, 1], and eSpeak NG's
    phoneme, "_" in silence.
    """
    acted = act(sitter.identity, plan)
    write_acted(sitter, acted, truth(sitter, plan, acted), folder)


def write_acted(sitter: Sitter, acted: Act, known: dict[str, Any], folder: Path) -> None:
    """Writes the files of `write_clip` for someone who does as `acted` says; `known` is its truth."""
    sound = acted.speech.samples.astype(np.float32) / 32768
    with written_whole(folder) as temporary:
        temporary.mkdir()
        write_video(
            temporary / "video.mp4",
            sitter.frames(acted.performance),
            fps=FRAMES_PER_SECOND,
            audio=sound,
            sample_rate=acted.speech.sample_rate,
        )
        write_image(temporary / "portrait.png", sitter.portrait())
        media.write_wave(temporary / "speech.wav", acted.speech.samples, acted.speech.sample_rate)
        write_truth(temporary / "truth.json", known)
