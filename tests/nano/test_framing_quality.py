"""How the mouth of the included nano follows the speech by the framing of the portrait; -s shows the measurements.

People, sentences and recordings are none that nano was trained or tuned on.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.inference.config import InferConfig
from fantasytalking.media.resolution import ResizeMode
from fantasytalking.perception.face_track import track_faces
from fantasytalking.perception.landmark_measures import mouth_opening
from fantasytalking.pipeline import FantasyTalkingPipeline
from fantasytalking.portrait_world.corpus.rendered_clip import ClipPlan, PortraitRenderer, perform_plan
from fantasytalking.portrait_world.people.identity import make_identity
from tests.helpers.paths import ROOT
from tests.nano.test_shipped_model import audio_samples, pooled, tell

PEOPLE = (1061, 1062, 1063, 1064)
SENTENCES = ("My neighbor paints wooden boats in winter.", "Please bring a warm coat and two lamps.")
STEPS, FRAMES, SIZE, NANO_ZOOM = 10, 49, 256, 1.1846

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


class Score(NamedTuple):
    """Mean height of the faces and pooled correlation of the mouth with the truth."""

    face_fraction: float
    mouth: float


def render(identity: int, zoom: float) -> np.ndarray:
    return PortraitRenderer(make_identity(identity), SIZE, zoom).portrait()


def off_center(identity: int) -> np.ndarray:
    """The picture of the default zoom, cut to the scale of nano's corpus so that the person stands at the right."""
    side = round(SIZE / NANO_ZOOM)
    return render(identity, 1.0)[SIZE - side :, :side]


OWN, MODES = "zoom of the corpus", (ResizeMode.crop, ResizeMode.fit)
PICTURES = {
    OWN: lambda identity: render(identity, NANO_ZOOM),
    "zoom 1": lambda identity: render(identity, 1.0),
    "zoom 1.45": lambda identity: render(identity, 1.45),
    "off center": off_center,
}


@pytest.fixture(scope="module")
def scores() -> dict[tuple[str, ResizeMode], Score]:
    config = load_config(InferConfig, preset_path("nano", "infer"), [])
    controls = replace(config.controls(), expression_motion=0.5, body_motion=0.5, num_inference_steps=STEPS)
    pipe = FantasyTalkingPipeline.from_pretrained(ROOT / "checkpoints" / "nano")
    pipe.set_progress_bar_config(disable=True)
    found: dict[tuple[str, ResizeMode], Score] = {}
    for name, picture in PICTURES.items():
        for mode in MODES[:1] if name == OWN else MODES:  # fit keeps the framing of the corpus
            options = replace(config, resize_mode=mode).portrait_options(pipe.facts.face_ranges)
            measured, known, heights = [], [], []
            for index, identity in enumerate(PEOPLE):
                portrait = options.prepare(np.ascontiguousarray(picture(identity)))
                act = perform_plan(
                    make_identity(identity), ClipPlan(identity, index, SENTENCES[index % 2], 5, 0.5, 0.5)
                )
                samples = audio_samples(act)[: round(FRAMES / config.fps * 16_000)]
                made = pipe(portrait, samples, controls=controls, generator=torch.Generator().manual_seed(index))
                frames = (made.frames[0] * 255).round().astype(np.uint8)
                timed = [(number / config.fps, frame) for number, frame in enumerate(frames)]
                opening = mouth_opening(track_faces(timed, max_people=1)[0].landmarks).astype(np.float64)
                seen = np.isfinite(opening)
                measured.append(opening[seen])
                known.append(np.array([state.mouth_open for state in act.animation.states])[: len(opening)][seen])
                heights.append(portrait.placement.height)
            found[name, mode] = Score(float(np.mean(heights)), pooled(measured, known))
            score = found[name, mode]
            tell(f"{name}, {mode.value}: face {score.face_fraction:.3f}, mouth {score.mouth:.3f}")
    return found


def test_fit_brings_small_faces_to_what_nano_knows(scores):
    own = scores[OWN, ResizeMode.crop]
    before, after = scores["zoom 1", ResizeMode.crop], scores["zoom 1", ResizeMode.fit]
    assert before.face_fraction < 0.9 * own.face_fraction < after.face_fraction
    assert after.mouth > before.mouth + 0.05


def test_fit_brings_people_who_stand_aside_to_the_middle(scores):
    assert scores["off center", ResizeMode.fit].mouth > scores["off center", ResizeMode.crop].mouth + 0.3


def test_fit_does_not_harm_large_faces(scores):
    fit, crop = scores["zoom 1.45", ResizeMode.fit], scores["zoom 1.45", ResizeMode.crop]
    assert fit.face_fraction < crop.face_fraction and fit.mouth > crop.mouth - 0.05
