"""Renders ground-truth cross-reenactment: the people of one clip perform what the people of other clips performed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.portrait_world.corpus.group_clip import (
    GroupPerformance,
    SpeakingRole,
    group_ground_truth,
    make_group_renderer,
    write_group_performance,
)
from fantasytalking.portrait_world.corpus.recorded_clips import RecordedClip, load_recorded_clip, replay_performance
from fantasytalking.portrait_world.corpus.rendered_clip import (
    ClipPlan,
    Performance,
    PortraitRenderer,
    clip_ground_truth,
    write_performance,
)
from fantasytalking.portrait_world.motion.animation import Animation
from fantasytalking.portrait_world.people.identity import make_identity
from fantasytalking.portrait_world.speech.synthesis import Phoneme, Speech


@dataclass(frozen=True)
class DrivingPerformance:
    """Identity, text and performance of a driving clip."""

    identity: int
    text: str
    performance: Performance


def load_driving_performance(folder: str | Path) -> DrivingPerformance:
    """Loads the performance of a clip of one person.

    Raises:
        InputError: `folder` is not such a clip, or it shows several people.
    """
    recorded = load_recorded_clip(folder)
    performance = replay_performance(recorded, folder)
    assert isinstance(recorded.plan, ClipPlan)
    return DrivingPerformance(recorded.plan.identity, recorded.plan.text, performance)


def render_reenactment(portrait: str | Path, drivers: Sequence[str | Path], output: str | Path) -> int:
    """Writes a clip with the people, positions and backdrop of `portrait` and the expressions, motion and voices of
    `drivers`. The camera does not move.

    Args:
        portrait: folder of a clip of one or several people.
        drivers: folders of clips of one person, one per person of the portrait, from left to right.
        output: folder of the new clip, written completely or not at all. `drivers` in its truth.json lists the driving
            identities.

    Returns:
        the number of frames, that of the shortest driver.

    Raises:
        InputError: a folder is not a clip, or the number of drivers differs from the number of people.
    """
    shown = load_recorded_clip(portrait)
    driving = [load_driving_performance(folder) for folder in drivers]
    people = 1 if isinstance(shown.plan, ClipPlan) else len(shown.plan.roles)
    if len(driving) != people:
        raise InputError(
            f"{len(driving)} drivers were given and '{Path(portrait).name}' shows {people} people; give one driver per "
            "person",
            code=ErrorCode.conflict,
            field="driver",
            value=len(driving),
        )
    count = min(len(driver.performance.animation.states) for driver in driving)
    samples = min(len(driver.performance.speech.samples) for driver in driving)
    performances = tuple(_truncate(driver.performance, count, samples) for driver in driving)
    truth_extras = {"drivers": [driver.identity for driver in driving]}
    if isinstance(shown.plan, ClipPlan):
        _render_single(shown, driving[0], performances[0], truth_extras, Path(output))
    else:
        _render_group(shown, driving, performances, truth_extras, Path(output))
    return count


def _render_single(
    portrait_clip: RecordedClip,
    driver: DrivingPerformance,
    performance: Performance,
    truth_extras: dict[str, Any],
    output: Path,
) -> None:
    plan = portrait_clip.plan
    assert isinstance(plan, ClipPlan)
    renderer = PortraitRenderer(make_identity(plan.identity), portrait_clip.size[1], portrait_clip.zoom)
    spoken_plan = ClipPlan(plan.identity, plan.sentence, driver.text, plan.seed)
    truth = clip_ground_truth(renderer, spoken_plan, performance) | truth_extras
    write_performance(renderer, performance, truth, output)


def _render_group(
    portrait_clip: RecordedClip,
    drivers: Sequence[DrivingPerformance],
    performances: tuple[Performance, ...],
    truth_extras: dict[str, Any],
    output: Path,
) -> None:
    plan = portrait_clip.plan
    assert not isinstance(plan, ClipPlan)
    group = make_group_renderer(plan, portrait_clip.size, portrait_clip.zoom)
    performance = GroupPerformance(performances, np.zeros((len(performances[0].animation.states), 2)))
    roles = [SpeakingRole(identity, driver.text) for identity, driver in zip(plan.identities, drivers, strict=True)]
    truth = group_ground_truth(group, roles, performance, portrait_clip.zoom) | truth_extras
    write_group_performance(group, performance, truth, output)


def _truncate(source: Performance, count: int, samples: int) -> Performance:
    """Returns the first `count` frames of a performance and the first `samples` samples of its speech."""
    speech, animation = source.speech, source.animation
    seconds = samples / speech.sample_rate
    phonemes = tuple(
        Phoneme(phoneme.start, min(phoneme.end, seconds), phoneme.symbol)
        for phoneme in speech.phonemes
        if phoneme.start < seconds
    )
    return Performance(
        Speech(speech.samples[:samples], speech.sample_rate, phonemes),
        Animation(animation.states[:count], animation.phonemes[:count]),
        source.expression,
        source.body,
    )
