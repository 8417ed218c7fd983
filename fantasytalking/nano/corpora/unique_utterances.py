"""Further people, each with words of their own: what the transformer needs more of than the autoencoder does."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fantasytalking.nano.config import ExtendedVideosConfig
from fantasytalking.nano.corpora.video_corpus import training_sentences, write_captions
from fantasytalking.portrait_world.corpus.clip_corpus import CorpusPlan, make_corpus
from fantasytalking.portrait_world.corpus.rendered_clip import ClipPlan

logger = logging.getLogger(__name__)

SHUFFLED_FRACTION = 0.5
"""Part of what is said whose words come in another order, so that more sounds meet."""


def vary_sentence(sentences: Sequence[str], index: int, random: np.random.Generator) -> str:
    """One of the sentences, or as many words of it and another, and two, in another order."""
    sentence = sentences[index % len(sentences)]
    if random.random() >= SHUFFLED_FRACTION:
        return sentence
    words, others = sentence.split(), sentences[int(random.integers(len(sentences)))].split()
    return " ".join(str(word).strip(",.?!") for word in random.permutation(words + others)[: len(words) + 2])


@dataclass(frozen=True)
class UniqueUtterancesPlan(CorpusPlan):
    """Everyone in `identities` says words of their own, made of `sentences`; some say one thing more and then rest."""

    videos_config: ExtendedVideosConfig = field(default_factory=ExtendedVideosConfig)

    def clips(self) -> Iterator[ClipPlan]:
        """One plan per clip, person by person."""
        words = self.videos_config
        for identity in self.identities:
            random = np.random.default_rng([self.seed, 43, identity])
            for number in range(words.utterances_per_person + int(identity % words.rest_interval == 0)):
                text = vary_sentence(self.sentences, int(random.integers(len(self.sentences))), random)
                rest = words.rest_seconds if number == words.utterances_per_person else 0.0
                yield ClipPlan(identity, number, text, self.seed, self.expression, self.body, rest)


def render_extended_videos(
    config: ExtendedVideosConfig, output: Path, size: int, seed: int, processes: int, zoom: float = 1.0
) -> int:
    """Makes what `output` does not hold yet. Gives the number of videos.

    Raises:
        InputError: `output` cannot be written or holds videos of other settings.
    """
    people = range(config.first_identity, config.first_identity + config.num_identities)
    plan = UniqueUtterancesPlan(people, training_sentences(), size, seed=seed, closeness=zoom, videos_config=config)
    for done, _ in make_corpus(plan, output, processes):
        if done and done % 20 == 0:
            logger.info(f"more videos: {done}/{config.num_videos}")
    write_captions(output, seed)
    return config.num_videos
