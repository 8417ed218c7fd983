"""Renders videos of further identities with unique utterances, made by shuffling the training sentences."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from fantasytalking.nano.config import ExtendedVideosConfig
from fantasytalking.nano.corpora.video_corpus import training_sentences, write_captions
from fantasytalking.portrait_world.corpus.clip_corpus import CorpusPlan, make_corpus
from fantasytalking.portrait_world.corpus.rendered_clip import ClipPlan

logger = logging.getLogger(__name__)

SHUFFLED_FRACTION = 0.5
"""Fraction of utterances with shuffled words, which adds combinations of phonemes."""
MIN_PAUSED_WORDS = 5


def vary_sentence(sentences: Sequence[str], index: int, random: np.random.Generator) -> str:
    """Returns a sentence, or with probability `SHUFFLED_FRACTION` shuffled words of it and of another sentence, up to
    two words more than the sentence has."""
    sentence = sentences[index % len(sentences)]
    if random.random() >= SHUFFLED_FRACTION:
        return sentence
    words, others = sentence.split(), sentences[int(random.integers(len(sentences)))].split()
    return " ".join(str(word).strip(",.?!") for word in random.permutation(words + others)[: len(words) + 2])


def compose_utterance(sentences: Sequence[str], count: int, random: np.random.Generator) -> str:
    """Returns `count` random words of the sentences' vocabulary. Half of the utterances of `MIN_PAUSED_WORDS` or more
    consist of two sentences, with a pause between them."""
    vocabulary = sorted({word.strip(",.?!").lower() for sentence in sentences for word in sentence.split()})
    words = [vocabulary[int(index)] for index in random.integers(len(vocabulary), size=count)]
    if count >= MIN_PAUSED_WORDS and random.random() < 0.5:
        words[int(random.integers(1, count - 2))] += "."
    return " ".join(words) + "."


@dataclass(frozen=True)
class UniqueUtterancesPlan(CorpusPlan):
    """Plan of a corpus in which everyone in `identities` says unique utterances; some end with a silent one more."""

    videos_config: ExtendedVideosConfig = field(default_factory=ExtendedVideosConfig)

    def settings(self) -> dict[str, object]:
        """Returns the settings that all clips share, with those of framing and motion that are not the default."""
        config = self.videos_config
        chosen: dict[str, object] = {"framing": asdict(config.framing) if config.framing is not None else None}
        chosen |= {"coupling": config.coupling or None, "idle_seconds": config.idle_seconds}
        return super().settings() | {name: value for name, value in chosen.items() if value is not None}

    def clips(self) -> Iterator[ClipPlan]:
        """Yields one plan per clip, person by person."""
        config = self.videos_config
        for identity in self.identities:
            random = np.random.default_rng([self.seed, 43, identity])
            for number in range(config.utterances_per_person + int(identity % config.rest_interval == 0)):
                if config.min_words is None or config.max_words is None:
                    text = vary_sentence(self.sentences, int(random.integers(len(self.sentences))), random)
                else:
                    count = int(random.integers(config.min_words, config.max_words + 1))
                    text = compose_utterance(self.sentences, count, random)
                rest = config.rest_seconds if number == config.utterances_per_person else 0.0
                placement = config.framing.draw(random) if config.framing is not None else None
                idle = config.idle_seconds
                yield ClipPlan(
                    identity,
                    number,
                    "" if idle is not None else text,
                    self.seed,
                    self.expression,
                    self.body,
                    rest,
                    config.coupling,
                    idle,
                    placement,
                )


def render_extended_videos(
    config: ExtendedVideosConfig, output: Path, size: int, seed: int, processes: int, zoom: float = 1.0
) -> int:
    """Renders all videos that `output` does not contain yet.

    Returns:
        the number of videos.

    Raises:
        InputError: `output` cannot be written or contains videos of other settings.
    """
    identities = range(config.first_identity, config.first_identity + config.num_identities)
    plan = UniqueUtterancesPlan(identities, training_sentences(), size, seed=seed, zoom=zoom, videos_config=config)
    for done, _ in make_corpus(plan, output, processes):
        if done and done % 20 == 0:
            logger.info(f"extended videos: {done}/{config.num_videos}")
    write_captions(output, seed)
    return config.num_videos
