"""Plans a corpus of videos with several people: each identity leads a group that says every sentence."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fantasytalking.common.errors import ErrorCode, InputError
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
"""Image width per person, in image heights."""

MAX_CAMERA_JITTER = 0.05
"""Largest root mean square of the camera's motion, in image heights."""
LISTENER_FRACTION = 0.3
"""Probability that a person other than the leader of the group is silent."""


@dataclass(frozen=True)
class GroupCorpusPlan:
    """Plan of a corpus in which everyone in `identities` says every sentence next to others, who say another sentence
    or listen.

    Raises:
        InputError: a size, an intensity or a number of people is out of range.
    """

    identities: Sequence[int]
    sentences: Sequence[str]
    people: int
    """People per video."""
    size: tuple[int, int]
    """Width and height in pixels."""
    expression: float | None = None
    """Intensity of facial motion in [0, 1]. None: drawn for each person of each clip."""
    body: float | None = None
    """Intensity of head and shoulder motion in [0, 1]. None: drawn for each person of each clip."""
    seed: int = 0
    zoom: float = 1.0
    """Magnification relative to the default portrait. Stored under the key `closeness`."""
    jitter: float = 0.0
    """Root mean square of the camera's motion along each axis, in image heights."""

    def __post_init__(self) -> None:
        width, height = self.size
        if not 1 <= self.people <= MAX_GROUP_PEOPLE:
            raise InputError(
                f"people is {self.people}; it must be from 1 to {MAX_GROUP_PEOPLE}",
                code=ErrorCode.out_of_range,
                field="people",
                value=self.people,
            )
        if len(self.identities) < self.people:
            raise InputError(
                f"there are {len(self.identities)} identities and {self.people} people per video; give at least "
                f"{self.people} identities",
                code=ErrorCode.conflict,
                field="identities",
                value=len(self.identities),
            )
        if (
            not MIN_IMAGE_SIZE <= height <= MAX_IMAGE_SIZE
            or width > MAX_GROUP_WIDTH
            or width % GROUP_SIZE_MULTIPLE
            or height % GROUP_SIZE_MULTIPLE
        ):
            raise InputError(
                f"size is {width}x{height}; both must be multiples of {GROUP_SIZE_MULTIPLE}, the height "
                f"{MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE} and the width at most {MAX_GROUP_WIDTH}",
                code=ErrorCode.out_of_range,
                field="size",
                value=self.size,
            )
        min_width = MIN_WIDTH_PER_PERSON * self.people * height
        if width < min_width:
            raise InputError(
                f"size is {width}x{height}; {self.people} people need a width of at least {min_width:.0f} pixels",
                code=ErrorCode.out_of_range,
                field="size",
                value=self.size,
            )
        if not 0 <= self.jitter <= MAX_CAMERA_JITTER:
            raise InputError(
                f"jitter is {self.jitter}; it must be from 0 to {MAX_CAMERA_JITTER} image heights",
                code=ErrorCode.out_of_range,
                field="jitter",
                value=self.jitter,
            )
        check_performance_settings(self.expression, self.body, self.zoom, self.seed)

    def clips(self) -> Iterator[GroupClipPlan]:
        """Yields one plan per clip, group by group; a group has the number of its leader."""
        for number in self.identities:
            for sentence in range(len(self.sentences)):
                roles = self._assign_roles(number, sentence)
                yield GroupClipPlan(number, sentence, roles, self.seed, self.expression, self.body, self.jitter)

    def settings(self) -> dict[str, object]:
        """Returns the settings that all clips of a folder share, under the keys of corpus.json."""
        return {
            "people": self.people,
            "identities": [self.identities[0], self.identities[-1]],
            "size": list(self.size),
            "expression": self.expression,
            "body": self.body,
            "seed": self.seed,
            "closeness": self.zoom,
            "jitter": self.jitter,
        }

    def make_clip(self, clip: GroupClipPlan, output: Path) -> None:
        """Writes one clip to its folder below `output`."""
        write_group_clip(clip, self.size, self.zoom, output / clip.name)

    def _assign_roles(self, number: int, sentence: int) -> tuple[SpeakingRole, ...]:
        """Draws order and texts of a clip's people; the people of a group are the same for all its sentences."""
        group_random = np.random.default_rng([7_402, self.seed, number])
        others = [other for other in self.identities if other != number]
        companions = [int(other) for other in group_random.choice(others, self.people - 1, replace=False)]
        random = np.random.default_rng([7_403, self.seed, number, sentence])
        lines = [text for index, text in enumerate(self.sentences) if index != sentence] or list(self.sentences)
        roles = [SpeakingRole(number, self.sentences[sentence])]
        for other in companions:
            listens = random.random() < LISTENER_FRACTION
            line = lines[int(random.integers(len(lines)))]
            roles.append(SpeakingRole(other, "" if listens else line))
        return tuple(roles[index] for index in random.permutation(self.people))


def parse_image_size(text: str, people: int) -> tuple[int, int]:
    """Parses "WIDTHxHEIGHT" or "HEIGHT" in pixels to (width, height); without a width, one is chosen for `people`.

    Raises:
        InputError: `text` has another form.
    """
    parts = text.split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        raise InputError(
            f"size '{text[:40]}' is not of the form HEIGHT or WIDTHxHEIGHT; give for example 160x96",
            code=ErrorCode.invalid_type,
            field="size",
            value=text,
        )
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
    """Returns the plan of a corpus of portraits for one person per video, else of a corpus of groups.

    Raises:
        InputError: a setting is out of range, or one for several people is used with one.
    """
    if people != 1:
        return GroupCorpusPlan(identities, sentences, people, size, expression, body, seed, zoom, jitter)
    if size[0] != size[1] or jitter:
        raise InputError(
            f"size is {size[0]}x{size[1]} and jitter {jitter:g}; videos of one person are square and without jitter, "
            "or give --people 2",
            code=ErrorCode.conflict,
            field="people",
            value=people,
        )
    return CorpusPlan(identities, sentences, size[1], expression, body, seed, zoom)
