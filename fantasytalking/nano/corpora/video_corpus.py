"""Plans and renders nano's training videos: people of the portrait world in groups with their own sentences."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write_text
from fantasytalking.nano.config import VideosConfig
from fantasytalking.nano.corpora.captions import DEFAULT_CAPTION, make_caption
from fantasytalking.portrait_world.corpus.clip_corpus import (
    HELD_OUT_SENTENCES_FILE,
    TRAINING_SENTENCES_FILE,
    CorpusPlan,
    make_corpus,
    read_sentences,
)
from fantasytalking.portrait_world.people.identity import HELD_OUT_IDENTITIES, TRAINING_IDENTITIES, make_identity

logger = logging.getLogger(__name__)

PLAIN_CAPTION_FRACTION = 0.5
"""Fraction of the videos with the default caption, which stands for an empty prompt."""


@dataclass(frozen=True)
class CorpusPart:
    """Folder of the corpus in which everyone in `identities` says every sentence."""

    folder: str
    identities: range
    sentences: tuple[str, ...]


def training_sentences() -> list[str]:
    """Returns the sentences of training identities."""
    return read_sentences(TRAINING_SENTENCES_FILE, TRAINING_IDENTITIES)


def held_out_sentences() -> list[str]:
    """Returns the sentences of held-out identities."""
    return read_sentences(HELD_OUT_SENTENCES_FILE, HELD_OUT_IDENTITIES)


def plan_training_parts(config: VideosConfig) -> list[CorpusPart]:
    """Divides training identities into groups and assigns the training sentences to them in turn.

    Raises:
        InputError: there are fewer training sentences than `sentences_per_person`.
    """
    sentences = training_sentences()
    if config.sentences_per_person > len(sentences):
        raise InputError(
            f"videos.sentences_per_person is {config.sentences_per_person}; it must be at most {len(sentences)}, the "
            "number of training sentences",
            code=ErrorCode.out_of_range,
            field="videos.sentences_per_person",
            value=config.sentences_per_person,
        )
    parts = []
    for number, first in enumerate(range(0, config.num_identities, config.group_size)):
        chosen = [
            sentences[(number * config.sentences_per_person + index) % len(sentences)]
            for index in range(config.sentences_per_person)
        ]
        identities = range(first, min(first + config.group_size, config.num_identities))
        parts.append(CorpusPart(f"group{number:03d}", identities, tuple(chosen)))
    return parts


def plan_held_out_parts(config: VideosConfig) -> list[CorpusPart]:
    """Assigns one held-out sentence to each held-out identity."""
    sentences = held_out_sentences()
    return [
        CorpusPart(
            f"group{number:03d}", HELD_OUT_IDENTITIES[number : number + 1], (sentences[number % len(sentences)],)
        )
        for number in range(config.num_held_out)
    ]


def render_videos(
    parts: Sequence[CorpusPart], output: Path, size: int, seed: int, processes: int, zoom: float = 1.0
) -> int:
    """Renders all videos that `output` does not contain yet, each with a caption.

    Returns:
        the number of videos.

    Raises:
        InputError: `output` cannot be written or contains videos of other settings.
    """
    total = sum(len(part.identities) * len(part.sentences) for part in parts)
    start, rendered, previous_parts = perf_counter(), 0, 0
    for part in parts:
        plan = CorpusPlan(part.identities, part.sentences, size=size, seed=seed, zoom=zoom)
        previous: int | None = None  # the first count is that of existing videos, which took no time
        for done, _ in make_corpus(plan, output / part.folder, processes):
            rendered += 0 if previous is None else done - previous
            previous = done
            remaining = round((total - previous_parts - done) * (perf_counter() - start) / rendered) if rendered else 0
            if rendered and (previous_parts + done) % 20 == 0:
                minutes, seconds = divmod(remaining, 60)
                logger.info(f"videos: {previous_parts + done}/{total}  {minutes}:{seconds:02d} remaining")
        previous_parts += len(part.identities) * len(part.sentences)
        write_captions(output / part.folder, seed)
    return total


def write_captions(folder: Path, seed: int) -> None:
    """Writes missing captions: a description of the person, or the default caption."""
    for video in sorted(folder.glob("id*/video.mp4")):
        identity, sentence = (int(number) for number in video.parent.name[2:].split("_s"))  # id0000_s0000
        random = np.random.default_rng([seed, identity, sentence, 1])
        text = (
            DEFAULT_CAPTION
            if random.random() < PLAIN_CAPTION_FRACTION
            else make_caption(make_identity(identity), random)
        )
        target = video.with_suffix(".txt")
        if not target.is_file():
            atomic_write_text(target, text + "\n")
