"""Clips of the portrait world read back: who is in them, and exactly what that person said and did."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import existing_file
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

MAX_CLIP_JSON_BYTES = 20_000_000

_CLIP_NAME_PATTERN = re.compile(r"(id|g)(\d{4,6})_s(\d{4,5})", re.ASCII)
_REPLAY_TOLERANCE = 2 * 10.0**-TRUTH_DIGITS


@dataclass(frozen=True)
class RecordedClip:
    """A clip's plan, and the width, height and closeness of its picture."""

    plan: ClipPlan | GroupClipPlan
    size: tuple[int, int]
    zoom: float


def load_recorded_clip(folder: str | Path) -> RecordedClip:
    """The plan of a clip in the folder of a corpus, from its name, truth.json and the corpus.json beside it.

    Raises:
        InputError: not such a folder, or what it says cannot be.
    """
    folder = Path(folder).absolute()
    name = _CLIP_NAME_PATTERN.fullmatch(folder.name)
    if not name:
        raise InputError(f"'{folder.name}' is no clip of the portrait world; give a folder like id1000_s0000")
    known, settings = _read_json(folder / "truth.json"), _read_json(folder.parent / "corpus.json")
    number, sentence = int(name[2]), int(name[3])
    try:
        return (_parse_single if name[1] == "id" else _parse_group)(known, settings, number, sentence)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"'{folder}' is damaged or was made by another version; make it again") from error


def replay_performance(recorded: RecordedClip, folder: str | Path) -> Performance:
    """What the one person of a clip said and did, played again and checked against the clip's truth.json.

    Raises:
        InputError: a clip of several people, or one that does not come out as it was recorded.
    """
    plan = recorded.plan
    if not isinstance(plan, ClipPlan):
        raise InputError(f"'{Path(folder).name}' shows several people; give a clip of one person for each to be driven")
    acted = perform_plan(make_identity(plan.identity), plan)
    frames = _read_json(Path(folder) / "truth.json")["frames"]
    try:
        states = zip(acted.animation.states, frames, strict=True)
        same = all(
            abs(getattr(state, name) - frame[name]) < _REPLAY_TOLERANCE
            for state, frame in states
            for name in TRUTH_FIELDS
        )
    except (KeyError, TypeError, ValueError):
        same = False
    if not same:
        raise InputError(
            f"'{folder}' does not come out as it was recorded; it was made by another version: make it again"
        )
    return acted


def _parse_single(truth: dict[str, Any], settings: dict[str, Any], number: int, sentence: int) -> RecordedClip:
    identity, text = _checked_identity(truth["identity"]), _checked_text(truth["text"])
    corpus = CorpusPlan([identity], [text], **settings)
    if identity != number:
        raise ValueError(f"a clip of {number} is said to show {identity}")
    plan = ClipPlan(identity, sentence, text, corpus.seed, corpus.expression, corpus.body)
    return RecordedClip(plan, (corpus.size, corpus.size), corpus.closeness)


def _parse_group(truth: dict[str, Any], settings: dict[str, Any], number: int, sentence: int) -> RecordedClip:
    roles = tuple(
        SpeakingRole(_checked_identity(person["identity"]), _checked_text(person["text"])) for person in truth["people"]
    )
    width, height = settings["size"]
    names = ("expression", "body", "seed", "closeness", "jitter")
    chosen = {name: settings[name] for name in names}
    identities, sentences = [role.identity for role in roles], [role.text for role in roles]
    corpus = GroupCorpusPlan(identities, sentences, len(roles), (width, height), **chosen)
    plan = GroupClipPlan(number, sentence, roles, corpus.seed, corpus.expression, corpus.body, corpus.jitter)
    return RecordedClip(plan, corpus.size, corpus.closeness)


def _checked_identity(value: Any) -> int:
    if type(value) is not int or not 0 <= value < HELD_OUT_IDENTITIES.stop:
        raise ValueError(f"{value!r} is no identity")
    return value


def _checked_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _read_json(path: Path) -> dict[str, Any]:
    path = existing_file(path, "file of a portrait-world clip")
    if path.stat().st_size > MAX_CLIP_JSON_BYTES:
        raise InputError(f"'{path}' has over {MAX_CLIP_JSON_BYTES} bytes; a clip's truth is smaller")
    try:
        values = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"'{path}' is not JSON; make the clip again") from error
    if not isinstance(values, dict):
        raise InputError(f"'{path}' holds no mapping; make the clip again")
    return values
