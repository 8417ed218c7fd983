"""Reads back the plans and performances of rendered portrait-world clips."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_TRUTH_BYTES
from fantasytalking.common.text_files import read_json
from fantasytalking.portrait_world.corpus.clip_corpus import CorpusPlan
from fantasytalking.portrait_world.corpus.group_clip import GroupClipPlan, SpeakingRole
from fantasytalking.portrait_world.corpus.group_corpus import GroupCorpusPlan
from fantasytalking.portrait_world.corpus.rendered_clip import (
    TRUTH_DIGITS,
    TRUTH_FIELDS,
    ClipPlan,
    Performance,
    perform_plan,
)
from fantasytalking.portrait_world.people.identity import HELD_OUT_IDENTITIES, make_identity

_CLIP_NAME_PATTERN = re.compile(r"(id|g)(\d{4,6})_s(\d{4,5})", re.ASCII)
_REPLAY_TOLERANCE = 2 * 10.0**-TRUTH_DIGITS


@dataclass(frozen=True)
class RecordedClip:
    """Plan and image geometry of a rendered clip."""

    plan: ClipPlan | GroupClipPlan
    size: tuple[int, int]
    """Width and height in pixels."""
    zoom: float
    """Magnification relative to the default portrait."""


def load_recorded_clip(folder: str | Path) -> RecordedClip:
    """Reads the plan of a clip from its folder's name, its truth.json and the corpus.json in the parent folder.

    Raises:
        InputError: `folder` is not a clip of a portrait-world corpus, or its files are invalid.
    """
    folder = Path(folder).absolute()
    name = _CLIP_NAME_PATTERN.fullmatch(folder.name)
    if not name:
        raise InputError(
            f"'{folder.name}' is not a clip of the portrait world; choose a folder such as id1000_s0000",
            code=ErrorCode.invalid_type,
            field="clip",
            value=folder.name,
        )
    files = (folder / "truth.json", folder.parent / "corpus.json")
    known, settings = (read_json(path, path.name, MAX_TRUTH_BYTES) for path in files)
    number, sentence = int(name[2]), int(name[3])
    try:
        return (_parse_single if name[1] == "id" else _parse_group)(known, settings, number, sentence)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"'{folder}' is damaged or was made by another version; render it again",
            code=ErrorCode.malformed_file,
            field="clip",
            value=str(folder),
        ) from error


def replay_performance(recorded: RecordedClip, folder: str | Path) -> Performance:
    """Recomputes the performance of a clip of one person and checks it against the clip's truth.json.

    Raises:
        InputError: the clip shows several people, or the recomputed performance differs from the record.
    """
    plan = recorded.plan
    if not isinstance(plan, ClipPlan):
        raise InputError(
            f"'{Path(folder).name}' shows several people; choose a clip of one person for each person of the portrait",
            code=ErrorCode.conflict,
            field="driver",
            value=str(folder),
        )
    performance = perform_plan(make_identity(plan.identity), plan)
    frames = read_json(Path(folder) / "truth.json", "truth.json", MAX_TRUTH_BYTES)["frames"]
    try:
        states = zip(performance.animation.states, frames, strict=True)
        same = all(
            abs(getattr(state, name) - frame[name]) < _REPLAY_TOLERANCE
            for state, frame in states
            for name in TRUTH_FIELDS
        )
    except (KeyError, TypeError, ValueError):
        same = False
    if not same:
        raise InputError(
            f"'{folder}' was made by another version and cannot be reproduced; render it again",
            code=ErrorCode.malformed_file,
            field="driver",
            value=str(folder),
        )
    return performance


def _parse_single(truth: dict[str, Any], settings: dict[str, Any], number: int, sentence: int) -> RecordedClip:
    identity, text = _checked_identity(truth["identity"]), _checked_text(truth["text"])
    corpus = CorpusPlan([identity], [text], **_plan_arguments(settings))
    if identity != number:
        raise ValueError(f"the folder is of identity {number} and truth.json of {identity}")
    plan = ClipPlan(identity, sentence, text, corpus.seed, corpus.expression, corpus.body)
    return RecordedClip(plan, (corpus.size, corpus.size), corpus.zoom)


def _parse_group(truth: dict[str, Any], settings: dict[str, Any], number: int, sentence: int) -> RecordedClip:
    roles = tuple(
        SpeakingRole(_checked_identity(person["identity"]), _checked_text(person["text"])) for person in truth["people"]
    )
    width, height = settings["size"]
    chosen = _plan_arguments({key: settings[key] for key in ("expression", "body", "seed", "closeness", "jitter")})
    identities, sentences = [role.identity for role in roles], [role.text for role in roles]
    corpus = GroupCorpusPlan(identities, sentences, len(roles), (width, height), **chosen)
    plan = GroupClipPlan(number, sentence, roles, corpus.seed, corpus.expression, corpus.body, corpus.jitter)
    return RecordedClip(plan, corpus.size, corpus.zoom)


def _plan_arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns settings of corpus.json as arguments of a corpus plan, which calls `closeness` zoom."""
    return {"zoom" if key == "closeness" else key: value for key, value in settings.items()}


def _checked_identity(value: Any) -> int:
    if type(value) is not int or not 0 <= value < HELD_OUT_IDENTITIES.stop:
        raise ValueError(f"{value!r} is not an identity")
    return value


def _checked_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value
