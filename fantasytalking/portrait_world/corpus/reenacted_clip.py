"""True cross-reenactment: the people of one clip do, rendered, exactly what the people of other clips did."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fantasytalking.common.errors import InputError
from fantasytalking.portrait_world.corpus.group_clip import GroupAct, Role, gather, group_truth, write_group_acted
from fantasytalking.portrait_world.corpus.recorded_clips import Recorded, read_recorded, recorded_act
from fantasytalking.portrait_world.corpus.rendered_clip import Act, ClipPlan, Sitter, truth, write_acted
from fantasytalking.portrait_world.motion.performance import Performance
from fantasytalking.portrait_world.people.identity import make_identity
from fantasytalking.portrait_world.speech.synthesis import Phoneme, Speech


@dataclass(frozen=True)
class Driver:
    """Whose clip drives somebody, what is said in it, and how it is acted."""

    identity: int
    text: str
    act: Act


def read_driver(folder: str | Path) -> Driver:
    """The driver of a clip of one person.

    Raises:
        InputError: no such clip, or one of several people.
    """
    recorded = read_recorded(folder)
    act = recorded_act(recorded, folder)
    assert isinstance(recorded.plan, ClipPlan)
    return Driver(recorded.plan.identity, recorded.plan.text, act)


def reenact(portrait: str | Path, drivers: Sequence[str | Path], output: str | Path) -> int:
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
    shown = read_recorded(portrait)
    driving = [read_driver(folder) for folder in drivers]
    people = 1 if isinstance(shown.plan, ClipPlan) else len(shown.plan.roles)
    if len(driving) != people:
        raise InputError(
            f"'{Path(portrait).name}' shows {people} and there are {len(driving)} drivers; give one for each"
        )
    count = min(len(driver.act.performance.states) for driver in driving)
    samples = min(len(driver.act.speech.samples) for driver in driving)
    acts = tuple(_beginning(driver.act, count, samples) for driver in driving)
    told = {"drivers": [driver.identity for driver in driving]}
    if isinstance(shown.plan, ClipPlan):
        _reenact_one(shown, driving[0], acts[0], told, Path(output))
    else:
        _reenact_group(shown, driving, acts, told, Path(output))
    return count


def _reenact_one(shown: Recorded, driver: Driver, acted: Act, told: dict[str, Any], output: Path) -> None:
    plan = shown.plan
    assert isinstance(plan, ClipPlan)
    sitter = Sitter(make_identity(plan.identity), shown.size[1], shown.closeness)
    said = ClipPlan(plan.identity, plan.sentence, driver.text, plan.seed)
    write_acted(sitter, acted, truth(sitter, said, acted) | told, output)


def _reenact_group(
    shown: Recorded, driving: Sequence[Driver], acts: tuple[Act, ...], told: dict[str, Any], output: Path
) -> None:
    plan = shown.plan
    assert not isinstance(plan, ClipPlan)
    group = gather(plan, shown.size, shown.closeness)
    acted = GroupAct(acts, np.zeros((len(acts[0].performance.states), 2)))
    roles = [Role(identity, driver.text) for identity, driver in zip(plan.identities, driving, strict=True)]
    write_group_acted(group, acted, group_truth(group, roles, acted, shown.closeness) | told, output)


def _beginning(acted: Act, count: int, samples: int) -> Act:
    """The first `count` frames of an act, and as many samples of its sound."""
    speech, performance = acted.speech, acted.performance
    seconds = samples / speech.sample_rate
    sounding = tuple(
        Phoneme(phoneme.start, min(phoneme.end, seconds), phoneme.symbol)
        for phoneme in speech.phonemes
        if phoneme.start < seconds
    )
    heard = Speech(speech.samples[:samples], speech.sample_rate, sounding)
    shown = Performance(performance.states[:count], performance.phonemes[:count])
    return Act(heard, shown, acted.expression, acted.body)
