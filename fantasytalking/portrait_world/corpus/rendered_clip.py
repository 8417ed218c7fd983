"""Renders one clip of one speaker: video, portrait, speech and ground truth per frame."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.common.files import atomic_write
from fantasytalking.media import write_image, write_video
from fantasytalking.portrait_world.motion.animation import (
    WORLD_FPS,
    Animation,
    animate_idle,
    animate_speech,
    frame_count,
)
from fantasytalking.portrait_world.motion.frame_state import NEUTRAL, FaceState
from fantasytalking.portrait_world.people.identity import Identity
from fantasytalking.portrait_world.render.backdrop import make_backdrop
from fantasytalking.portrait_world.render.camera import scale_shifts_for_zoom
from fantasytalking.portrait_world.render.person_mesh import PersonMesh
from fantasytalking.portrait_world.render.scene import PlacedPerson, render_scene, supersampling_factor
from fantasytalking.portrait_world.render.scene_layout import PersonPlacement
from fantasytalking.portrait_world.speech.synthesis import (
    Speech,
    Voice,
    pad_with_silence,
    silent_speech,
    synthesize_speech,
)

TRUTH_DIGITS = 5
IDLE_SAMPLE_RATE = 22050
"""Samples per second of the silence of people who do not speak, that of eSpeak NG."""
TRUTH_FIELDS = ("yaw", "pitch", "roll", "x", "y", "blink", "brow", "smile", "gaze_x", "gaze_y")


@dataclass(frozen=True)
class ClipPlan:
    """Plan of a clip of one speaker."""

    identity: int
    sentence: int
    """Index of the sentence in the sentences file."""
    text: str
    seed: int
    expression: float | None = None
    """Intensity of facial motion in [0, 1]. None: drawn at random."""
    body: float | None = None
    """Intensity of head and shoulder motion in [0, 1]. None: drawn at random."""
    rest_seconds: float = 0.0
    """Seconds of silence after the sentence."""
    coupling: float = 0.0
    """How far head, shoulders and light follow the speech, in [0, 1]."""
    idle_seconds: float | None = None
    """Seconds of somebody who does not speak; `text` is then empty. None: the text is spoken."""
    placement: PersonPlacement | None = None
    """Place and magnification of the person. None: centered at the zoom of the corpus."""

    @property
    def name(self) -> str:
        """Name of the clip's folder."""
        return f"id{self.identity:04d}_s{self.sentence:04d}"

    @property
    def task_group(self) -> int:
        """Number that clips rendered by the same process share."""
        return self.identity

    def matches_record(self, truth: dict[str, Any]) -> bool:
        """Whether the content of a truth.json has the same identity and text."""
        return (truth["identity"], truth["text"]) == (self.identity, self.text)


class PortraitRenderer:
    """Renders a person in front of a backdrop: `size` x `size` pixels, magnified `zoom` times relative to the default
    portrait, and shifted by `offset` (right, down) in image heights."""

    def __init__(
        self, identity: Identity, size: int, zoom: float = 1.0, offset: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        self.identity = identity
        self.size = size
        self.zoom = zoom
        self.offset = offset
        canvas = round(size * supersampling_factor(size))
        self._backdrop = make_backdrop(identity, canvas, canvas)
        camera = PersonPlacement(*offset, zoom).camera(canvas, canvas)
        self.person = PersonMesh(identity, camera.scale)
        self._placements = (PlacedPerson(self.person, camera),)

    def frame(self, state: FaceState, light: float = 0.0) -> NDArray[np.uint8]:
        """Renders one frame: (size, size, 3) uint8 RGB; `light` is the relative change of the backdrop's brightness."""
        backdrop = self._backdrop * np.float32(1 + light) if light else self._backdrop
        return render_scene(
            backdrop, self._placements, (scale_shifts_for_zoom(state, self.zoom),), (self.size, self.size)
        )

    def portrait(self) -> NDArray[np.uint8]:
        """Renders the person at rest: mouth closed, eyes open, looking ahead."""
        return self.frame(NEUTRAL)

    def frames(self, animation: Animation) -> Iterator[NDArray[np.uint8]]:
        """Yields all frames of an animation."""
        light = animation.light or (0.0,) * len(animation.states)
        return (self.frame(state, level) for state, level in zip(animation.states, light, strict=True))


@dataclass(frozen=True)
class Performance:
    """Speech, animation and the intensities in [0, 1] with which it was animated."""

    speech: Speech
    animation: Animation
    expression: float
    body: float


class PerformanceStyle(NamedTuple):
    """Intensities in [0, 1] and voice of one performance; the voice varies a little around the identity's voice."""

    expression: float
    body: float
    voice: Voice


def sample_performance_style(
    identity: Identity, expression: float | None, body: float | None, random: np.random.Generator
) -> PerformanceStyle:
    """Draws a voice, and the intensities that are None."""
    drawn = random.uniform(0, 1, 2).tolist()
    rate, pitch = int(random.integers(-18, 19)), int(random.integers(-6, 7))
    usual = identity.voice
    voice = Voice(usual.name, usual.rate + rate, int(np.clip(usual.pitch + pitch, 0, 100)), usual.range)
    return PerformanceStyle(drawn[0] if expression is None else expression, drawn[1] if body is None else body, voice)


def perform_speech(
    speech: Speech, style: PerformanceStyle, random: np.random.Generator, coupling: float = 0.0
) -> Performance:
    """Animates speech in a given style; `coupling` as in `animate_speech`."""
    animation = animate_speech(speech, style.expression, style.body, random, coupling)
    return Performance(speech, animation, round(style.expression, TRUTH_DIGITS), round(style.body, TRUTH_DIGITS))


def perform_plan(identity: Identity, plan: ClipPlan) -> Performance:
    """Synthesizes the speech and motion of a plan, with random values where the plan has None; deterministic."""
    random = np.random.default_rng([plan.seed, plan.identity, plan.sentence])
    style = sample_performance_style(identity, plan.expression, plan.body, random)
    if plan.idle_seconds is not None:
        animation = animate_idle(frame_count(plan.idle_seconds), style.expression, style.body, random)
        silence = silent_speech(plan.idle_seconds, IDLE_SAMPLE_RATE)
        return Performance(silence, animation, round(style.expression, TRUTH_DIGITS), round(style.body, TRUTH_DIGITS))
    speech = synthesize_speech(plan.text, style.voice)
    padded = pad_with_silence(speech, 0.0, speech.seconds + plan.rest_seconds)
    return perform_speech(padded, style, random, plan.coupling)


def ground_truth_frames(person: PersonMesh, animation: Animation) -> list[dict[str, Any]]:
    """Returns the ground truth of one person per frame, see `write_clip`."""
    frames = []
    for state, phoneme in zip(animation.states, animation.phonemes, strict=True):
        opening, width = person.mouth_size(state)
        values = {"mouth_open": min(max(opening, 0.0), 1.0), "mouth_width": width}
        values |= {name: getattr(state, name) for name in TRUTH_FIELDS}
        frames.append({name: round(value, TRUTH_DIGITS) + 0.0 for name, value in values.items()} | {"phoneme": phoneme})
    return frames


def clip_ground_truth(renderer: PortraitRenderer, plan: ClipPlan, performance: Performance) -> dict[str, Any]:
    """Returns the ground truth of a clip, see `write_clip`."""
    return {
        "identity": plan.identity,
        "text": plan.text,
        "expression": performance.expression,
        "body": performance.body,
        "closeness": renderer.zoom,
        **({"offset": list(renderer.offset)} if any(renderer.offset) else {}),
        "fps": WORLD_FPS,
        "frames": ground_truth_frames(renderer.person, performance.animation),
    }


def write_ground_truth(path: Path, truth: dict[str, Any]) -> None:
    """Writes what is known of a clip as one line of JSON."""
    path.write_text(json.dumps(truth, separators=(",", ":"), ensure_ascii=False) + "\n", "utf-8")


def write_clip(renderer: PortraitRenderer, plan: ClipPlan, folder: Path) -> None:
    """Renders a plan to `folder`, completely or not at all: video.mp4, portrait.png, speech.wav and truth.json.

    truth.json has identity, text, expression and body in [0, 1], closeness (the zoom), offset (right and down, in image
    heights) where the person is not centered, fps, and per frame: mouth_open
    (gap between the inner lips relative to its largest value, [0, 1]), mouth_width (distance between the mouth's
    corners relative to that between the eyes), yaw (toward the right of the image), pitch (down) and roll (top to the
    right) in radians, x (right) and y (down) of the head in image heights, blink in [0, 1], brow, smile and gaze in
    [-1, 1], and eSpeak NG's phoneme, "_" for silence.
    """
    performance = perform_plan(renderer.identity, plan)
    write_performance(renderer, performance, clip_ground_truth(renderer, plan, performance), folder)


def write_performance(
    renderer: PortraitRenderer, performance: Performance, truth: dict[str, Any], folder: Path
) -> None:
    """Renders a performance to the files of `write_clip`; `truth` is its ground truth."""
    audio = performance.speech.samples.astype(np.float32) / 32768
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        write_video(
            temporary / "video.mp4",
            renderer.frames(performance.animation),
            fps=WORLD_FPS,
            audio=audio,
            sample_rate=performance.speech.sample_rate,
        )
        write_image(temporary / "portrait.png", renderer.portrait())
        media.write_wav(temporary / "speech.wav", performance.speech.samples, performance.speech.sample_rate)
        write_ground_truth(temporary / "truth.json", truth)
