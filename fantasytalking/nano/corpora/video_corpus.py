"""The videos that nano is trained on: people of the portrait world, each group with its own sentences."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write
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
"""Part of the videos that have the caption which stands for none."""


@dataclass(frozen=True)
class CorpusPart:
    """A folder of the corpus: everyone in `identities` says every sentence."""

    folder: str
    identities: range
    sentences: tuple[str, ...]


def training_sentences() -> list[str]:
    """The sentences of training people."""
    return read_sentences(TRAINING_SENTENCES_FILE, TRAINING_IDENTITIES)


def held_out_sentences() -> list[str]:
    """The sentences of held-out people."""
    return read_sentences(HELD_OUT_SENTENCES_FILE, HELD_OUT_IDENTITIES)


def plan_training_parts(config: VideosConfig) -> list[CorpusPart]:
    """Groups of training people with sentences that go round the whole list.

    Raises:
        InputError: more sentences a person than there are.
    """
    known = training_sentences()
    if config.sentences_per_person > len(known):
        raise InputError(
            f"videos.sentences_per_person is {config.sentences_per_person}; there are {len(known)} training sentences"
        )
    portions = []
    for number, first in enumerate(range(0, config.num_identities, config.group_size)):
        chosen = [
            known[(number * config.sentences_per_person + place) % len(known)]
            for place in range(config.sentences_per_person)
        ]
        people = range(first, min(first + config.group_size, config.num_identities))
        portions.append(CorpusPart(f"group{number:03d}", people, tuple(chosen)))
    return portions


def plan_held_out_parts(config: VideosConfig) -> list[CorpusPart]:
    """One held-out person a sentence."""
    known = held_out_sentences()
    return [
        CorpusPart(f"group{number:03d}", range(1000 + number, 1001 + number), (known[number % len(known)],))
        for number in range(config.num_held_out)
    ]


def render_videos(
    parts: Sequence[CorpusPart], output: Path, size: int, seed: int, processes: int, zoom: float = 1.0
) -> int:
    """Makes what `output` does not hold yet, and a caption beside every video. Gives the number of videos.

    Raises:
        InputError: `output` cannot be written or holds videos of other settings.
    """
    total = sum(len(portion.identities) * len(portion.sentences) for portion in parts)
    start, made, before = perf_counter(), 0, 0
    for portion in parts:
        plan = CorpusPlan(portion.identities, portion.sentences, size=size, seed=seed, closeness=zoom)
        previous: int | None = None  # what was there already is told first, and took no time
        for done, _ in make_corpus(plan, output / portion.folder, processes):
            made += 0 if previous is None else done - previous
            previous = done
            left = round((total - before - done) * (perf_counter() - start) / made) if made else 0
            if made and (before + done) % 20 == 0:
                logger.info(f"videos: {before + done}/{total}  {left // 60}:{left % 60:02d} left")
        before += len(portion.identities) * len(portion.sentences)
        write_captions(output / portion.folder, seed)
    return total


def write_captions(folder: Path, seed: int) -> None:
    """Writes the captions that are missing: of the person, or the one that stands for none."""
    for video in sorted(folder.glob("id*/video.mp4")):
        name = video.parent.name  # id0000_s0000
        identity, sentence = int(name[2:6]), int(name[8:12])
        random = np.random.default_rng([seed, identity, sentence, 1])
        text = (
            DEFAULT_CAPTION
            if random.random() < PLAIN_CAPTION_FRACTION
            else make_caption(make_identity(identity), random)
        )
        target = video.with_suffix(".txt")
        if not target.is_file():
            with atomic_write(target) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
