"""A corpus of pictures with several people: each person gathers others round them, once for every sentence."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fantasytalking.common.errors import InputError
from fantasytalking.portrait_world.corpus.clip_corpus import (
    MAX_IMAGE_SIZE,
    MIN_IMAGE_SIZE,
    CorpusPlan,
    CorpusPlanProtocol,
    check_performance_settings,
)
from fantasytalking.portrait_world.corpus.group_clip import GroupClipPlan, SpeakingRole, write_group_clip
from fantasytalking.portrait_world.corpus.group_scene import MAX_GROUP_PEOPLE

MAX_GROUP_WIDTH = 1280
GROUP_SIZE_MULTIPLE = 16
MIN_WIDTH_PER_PERSON, DEFAULT_WIDTH_PER_PERSON = 0.55, 0.83
"""Of the picture's height."""

MAX_CAMERA_JITTER = 0.05
LISTENER_FRACTION = 0.3
"""Part of the people beside the one whose sentence it is that say nothing."""


@dataclass(frozen=True)
class GroupCorpusPlan:
    """What to make: everyone in `identities` says every sentence beside others of them, who say another one or listen.
    None draws an intensity for each person of each clip; `jitter` is the camera's, in picture heights.

    Raises:
        InputError: a size, an intensity or a number of people out of bounds.
    """

    identities: Sequence[int]
    sentences: Sequence[str]
    people: int
    size: tuple[int, int]
    """Width and height in pixels."""
    expression: float | None = None
    body: float | None = None
    seed: int = 0
    closeness: float = 1.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        width, height = self.size
        if not 1 <= self.people <= MAX_GROUP_PEOPLE:
            raise InputError(f"people is {self.people}; give a number from 1 to {MAX_GROUP_PEOPLE}")
        if len(self.identities) < self.people:
            raise InputError(
                f"identities are {len(self.identities)} and a picture has {self.people}; give at least as many"
            )
        if (
            not MIN_IMAGE_SIZE <= height <= MAX_IMAGE_SIZE
            or width > MAX_GROUP_WIDTH
            or width % GROUP_SIZE_MULTIPLE
            or height % GROUP_SIZE_MULTIPLE
        ):
            raise InputError(
                f"size is {width}x{height}; give multiples of {GROUP_SIZE_MULTIPLE}, {MIN_IMAGE_SIZE} to "
                f"{MAX_IMAGE_SIZE} high "
                f"and at most {MAX_GROUP_WIDTH} wide"
            )
        least = MIN_WIDTH_PER_PERSON * self.people * height
        if width < least:
            raise InputError(
                f"size is {width}x{height}; {self.people} people need at least {least:.0f} pixels of width"
            )
        if not 0 <= self.jitter <= MAX_CAMERA_JITTER:
            raise InputError(f"jitter is {self.jitter}; give picture heights from 0 to {MAX_CAMERA_JITTER}")
        check_performance_settings(self.expression, self.body, self.closeness, self.seed)

    def clips(self) -> Iterator[GroupClipPlan]:
        """One plan per clip, group by group; a group has the number of the one who gathers it."""
        for number in self.identities:
            for sentence in range(len(self.sentences)):
                roles = self._assign_roles(number, sentence)
                yield GroupClipPlan(number, sentence, roles, self.seed, self.expression, self.body, self.jitter)

    def settings(self) -> dict[str, object]:
        """What all clips in a folder have in common."""
        return {
            "people": self.people,
            "identities": [self.identities[0], self.identities[-1]],
            "size": list(self.size),
            "expression": self.expression,
            "body": self.body,
            "seed": self.seed,
            "closeness": self.closeness,
            "jitter": self.jitter,
        }

    def make_clip(self, clip: GroupClipPlan, output: Path) -> None:
        """Makes one of the clips."""
        write_group_clip(clip, self.size, self.closeness, output / clip.name)

    def _assign_roles(self, number: int, sentence: int) -> tuple[SpeakingRole, ...]:
        """Who stands where and says what: the same company for all sentences of a group, in changing order."""
        gathering = np.random.default_rng([7_402, self.seed, number])
        others = [other for other in self.identities if other != number]
        company = [int(other) for other in gathering.choice(others, self.people - 1, replace=False)]
        random = np.random.default_rng([7_403, self.seed, number, sentence])
        lines = [text for index, text in enumerate(self.sentences) if index != sentence] or list(self.sentences)
        roles = [SpeakingRole(number, self.sentences[sentence])]
        for other in company:
            listens = random.random() < LISTENER_FRACTION
            line = lines[int(random.integers(len(lines)))]
            roles.append(SpeakingRole(other, "" if listens else line))
        return tuple(roles[place] for place in random.permutation(self.people))


def parse_image_size(text: str, people: int) -> tuple[int, int]:
    """ "WIDTHxHEIGHT" or "HEIGHT" in pixels as (width, height); a height alone is that of a picture as wide as suits.

    Raises:
        InputError: not of this form.
    """
    parts = text.split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        raise InputError(f"size '{text[:40]}' is not of the form HEIGHT or WIDTHxHEIGHT; give for example 160x96")
    height = int(parts[-1])
    if len(parts) == 2:
        return int(parts[0]), height
    return (
        height
        if people == 1
        else GROUP_SIZE_MULTIPLE * round(DEFAULT_WIDTH_PER_PERSON * people * height / GROUP_SIZE_MULTIPLE)
    ), height


def plan_world_corpus(
    identities: Sequence[int],
    sentences: Sequence[str],
    people: int,
    size: tuple[int, int],
    jitter: float,
    expression: float | None,
    body: float | None,
    seed: int,
    zoom: float,
) -> CorpusPlanProtocol[Any]:
    """Portraits of one for one person, else pictures of several.

    Raises:
        InputError: settings out of bounds, or such as only pictures of several people have.
    """
    if people != 1:
        return GroupCorpusPlan(identities, sentences, people, size, expression, body, seed, zoom, jitter)
    if size[0] != size[1] or jitter:
        raise InputError(
            f"size {size[0]}x{size[1]} and jitter {jitter:g} are for several people; one person's portrait is square "
            "and still, or give --people 2"
        )
    return CorpusPlan(identities, sentences, size[1], expression, body, seed, zoom)
