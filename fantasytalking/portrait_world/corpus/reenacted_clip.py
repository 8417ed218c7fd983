"""True cross-reenactment: the people of one clip do, rendered, exactly what the people of other clips did."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fantasytalking.common.errors import InputError
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
from fantasytalking.portrait_world.motion.performance import Animation
from fantasytalking.portrait_world.people.identity import make_identity
from fantasytalking.portrait_world.speech.synthesis import Phoneme, Speech


@dataclass(frozen=True)
class DrivingPerformance:
    """Whose clip drives somebody, what is said in it, and how it is acted."""

    identity: int
    text: str
    performance: Performance


def load_driving_performance(folder: str | Path) -> DrivingPerformance:
    """The driver of a clip of one person.

    Raises:
        InputError: no such clip, or one of several people.
    """
    recorded = load_recorded_clip(folder)
    act = replay_performance(recorded, folder)
    assert isinstance(recorded.plan, ClipPlan)
    return DrivingPerformance(recorded.plan.identity, recorded.plan.text, act)


def render_reenactment(portrait: str | Path, drivers: Sequence[str | Path], output: str | Path) -> int:
    """Makes the folder `output` like that of a clip: the people of the clip `portrait`, at their places and before
    their backdrop, with the expressions, movements and voices of `drivers`; the camera is still.

    Args:
        portrait: a clip's folder; one person or several.
        drivers: folders of clips of one person, one for each in the portrait from left to right.
        output: is made whole or not at all; its truth.json says in `drivers` who drove each person.

    Returns:
        frames, as many as the shortest driver has.

    Raises:
        InputError: no such clips, or not one driver a person.
    """
    shown = load_recorded_clip(portrait)
    driving = [load_driving_performance(folder) for folder in drivers]
    people = 1 if isinstance(shown.plan, ClipPlan) else len(shown.plan.roles)
    if len(driving) != people:
        raise InputError(
            f"'{Path(portrait).name}' shows {people} and there are {len(driving)} drivers; give one for each"
        )
    count = min(len(driver.performance.animation.states) for driver in driving)
    samples = min(len(driver.performance.speech.samples) for driver in driving)
    acts = tuple(_truncate(driver.performance, count, samples) for driver in driving)
    told = {"drivers": [driver.identity for driver in driving]}
    if isinstance(shown.plan, ClipPlan):
        _render_single(shown, driving[0], acts[0], told, Path(output))
    else:
        _render_group(shown, driving, acts, told, Path(output))
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
    sitter = PortraitRenderer(make_identity(plan.identity), portrait_clip.size[1], portrait_clip.zoom)
    said = ClipPlan(plan.identity, plan.sentence, driver.text, plan.seed)
    write_performance(sitter, performance, clip_ground_truth(sitter, said, performance) | truth_extras, output)


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
    acted = GroupPerformance(performances, np.zeros((len(performances[0].animation.states), 2)))
    roles = [SpeakingRole(identity, driver.text) for identity, driver in zip(plan.identities, drivers, strict=True)]
    write_group_performance(
        group, acted, group_ground_truth(group, roles, acted, portrait_clip.zoom) | truth_extras, output
    )


def _truncate(source: Performance, count: int, samples: int) -> Performance:
    """The first `count` frames of an act, and as many samples of its sound."""
    speech, performance = source.speech, source.animation
    seconds = samples / speech.sample_rate
    sounding = tuple(
        Phoneme(phoneme.start, min(phoneme.end, seconds), phoneme.symbol)
        for phoneme in speech.phonemes
        if phoneme.start < seconds
    )
    heard = Speech(speech.samples[:samples], speech.sample_rate, sounding)
    shown = Animation(performance.states[:count], performance.phonemes[:count])
    return Performance(heard, shown, source.expression, source.body)
