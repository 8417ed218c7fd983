"""Renders the examples of the page: portraits, a driving video and a picture of two people, each with its speech."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fantasytalking import media
from fantasytalking.common.resources import resource_path
from fantasytalking.portrait_world.corpus.clip_corpus import HELD_OUT_SENTENCES_FILE, read_sentences
from fantasytalking.portrait_world.corpus.demo import DEMO_SIZE, DEMO_ZOOM
from fantasytalking.portrait_world.corpus.group_scene import GroupRenderer
from fantasytalking.portrait_world.corpus.rendered_clip import ClipPlan, Performance, PortraitRenderer, perform_plan
from fantasytalking.portrait_world.motion.animation import WORLD_FPS
from fantasytalking.portrait_world.people.identity import HELD_OUT_IDENTITIES, make_identity

DEMO_PORTRAIT, DEMO_SPEECH, DEMO_VIDEO = (f"data/demo/{name}" for name in ("portrait.png", "speech.wav", "talking.mp4"))
IDENTITIES = (1000, 1010, 1022)
"""People of the further portraits: held out, as that of the demonstration is."""
DRIVER, DRIVER_SIZE, DRIVER_SENTENCE, DRIVER_FRAMES = 1004, 192, 3, 50
PAIR, PAIR_SIZE = (1006, 1012), (320, 192)


@dataclass(frozen=True)
class Example:
    """Inputs of one video; None where it needs none."""

    portrait: Path
    audio: Path | None = None
    driving_video: Path | None = None
    second_audio: Path | None = None


@dataclass(frozen=True)
class Examples:
    """The examples of each kind, and a finished video of the first one."""

    speech: tuple[Example, ...] = ()
    driving_video: tuple[Example, ...] = ()
    two_people: tuple[Example, ...] = ()
    finished: Path | None = None
    folder: Path | None = None

    def contain(self, path: Path) -> bool:
        """Whether a file is one of the examples."""
        return path.parent == self.folder


def render_examples(folder: Path) -> Examples:
    """Renders the examples to an empty folder; deterministic, a few seconds.

    Raises:
        InputError: the folder cannot be written, or the files of the demonstration are missing.
    """
    demo, speech, finished = (
        Path(shutil.copyfile(resource_path(path), folder / f"example-{Path(path).name}"))
        for path in (DEMO_PORTRAIT, DEMO_SPEECH, DEMO_VIDEO)
    )
    portraits = [demo]
    for number in IDENTITIES:
        portraits.append(folder / f"example-portrait-{number}.png")
        media.write_image(portraits[-1], PortraitRenderer(make_identity(number), DEMO_SIZE, DEMO_ZOOM).portrait())
    performance = _perform(DRIVER)
    driver, second = folder / "example-driving-video.mp4", folder / "example-second-speech.wav"
    renderer = PortraitRenderer(make_identity(DRIVER), DRIVER_SIZE, DEMO_ZOOM)
    states = performance.animation.states[:DRIVER_FRAMES]
    media.write_video(driver, [renderer.frame(state) for state in states], fps=WORLD_FPS)
    media.write_wav(second, performance.speech.samples, performance.speech.sample_rate)
    pair = folder / "example-pair.png"
    media.write_image(pair, GroupRenderer(PAIR, PAIR_SIZE, 1.0, np.random.default_rng(0)).portrait())
    return Examples(
        tuple(Example(portrait, speech) for portrait in portraits),
        tuple(Example(portrait, driving_video=driver) for portrait in portraits[1:]),
        (Example(pair, speech, second_audio=second),),
        finished,
        folder,
    )


def _perform(number: int) -> Performance:
    sentence = read_sentences(HELD_OUT_SENTENCES_FILE, HELD_OUT_IDENTITIES)[DRIVER_SENTENCE]
    return perform_plan(make_identity(number), ClipPlan(number, DRIVER_SENTENCE, sentence, seed=0))
