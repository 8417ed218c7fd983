"""One item of the corpus: a person says a sentence; video, portrait, speech and the truth about every frame."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.files import written_whole
from fantasytalking.media import write_image, write_video
from fantasytalking.portrait_world.backdrop import make_backdrop
from fantasytalking.portrait_world.identity import Identity
from fantasytalking.portrait_world.motion import FRAMES_PER_SECOND, Performance, perform
from fantasytalking.portrait_world.person import Person
from fantasytalking.portrait_world.pose import Camera, seen_closer
from fantasytalking.portrait_world.scene import Place, oversampling, render
from fantasytalking.portrait_world.speech import Speech, Voice, speak
from fantasytalking.portrait_world.state import NEUTRAL, FaceState

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

    @property
    def name(self) -> str:
        return f"id{self.identity:04d}_s{self.sentence:04d}"


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


def act(identity: Identity, plan: ClipPlan) -> Act:
    """Draws what the plan leaves open, speaks the sentence and acts it; the same for equal plans."""
    random = np.random.default_rng([plan.seed, plan.identity, plan.sentence])
    expression, body = random.uniform(0, 1, 2)
    expression = float(expression) if plan.expression is None else plan.expression
    body = float(body) if plan.body is None else plan.body
    rate, pitch = int(random.integers(-18, 19)), int(random.integers(-6, 7))
    voice = identity.voice
    spoken = Voice(voice.name, voice.rate + rate, int(np.clip(voice.pitch + pitch, 0, 100)), voice.range)
    speech = speak(plan.text, spoken)
    return Act(
        speech, perform(speech, expression, body, random), round(expression, TRUE_DIGITS), round(body, TRUE_DIGITS)
    )


def truth(sitter: Sitter, plan: ClipPlan, acted: Act) -> dict[str, Any]:
    """What is known of a clip: see `write_clip`."""
    frames = []
    for state, phoneme in zip(acted.performance.states, acted.performance.phonemes, strict=True):
        opening, width = sitter.person.mouth_size(state)
        values = {"mouth_open": min(max(opening, 0.0), 1.0), "mouth_width": width}
        values |= {name: getattr(state, name) for name in TRUE_VALUES}
        frames.append({name: round(value, TRUE_DIGITS) + 0.0 for name, value in values.items()} | {"phoneme": phoneme})
    return {
        "identity": plan.identity,
        "text": plan.text,
        "expression": acted.expression,
        "body": acted.body,
        "closeness": sitter.closeness,
        "fps": FRAMES_PER_SECOND,
        "frames": frames,
    }


def write_clip(sitter: Sitter, plan: ClipPlan, folder: Path) -> None:
    """Makes `folder` whole or not at all: video.mp4, portrait.png, speech.wav and truth.json.

    truth.json holds identity, text, expression and body in [0, 1], closeness, fps, and per frame: mouth_open (gap
    between the inner lips over its largest value, [0, 1]), mouth_width (distance between the corners over that
    between the eyes), yaw (to the picture's right), pitch (down) and roll (top to the right) in radians, x (right)
    and y (down) of the head in picture heights, blink in [0, 1], brow, smile and gaze in [-1, 1], and eSpeak NG's
    phoneme, "_" in silence.
    """
    acted = act(sitter.identity, plan)
    known = truth(sitter, plan, acted)
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
        (temporary / "truth.json").write_text(
            json.dumps(known, separators=(",", ":"), ensure_ascii=False) + "\n", "utf-8"
        )
