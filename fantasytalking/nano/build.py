"""The chain from nothing to a finished pipeline: every step once, skipped when done, and gone on with when killed."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from time import perf_counter
from typing import Any

from fantasytalking.config import CONFIGS, suggestion
from fantasytalking.errors import InputError
from fantasytalking.files import written_whole
from fantasytalking.nano import steps
from fantasytalking.nano.card import number, write_card
from fantasytalking.nano.config import BuildConfig, ScriptConfig
from fantasytalking.nano.workshop import Workshop

logger = logging.getLogger(__name__)

REPORTS = "reports"


@dataclass(frozen=True)
class Step:
    """A step, what it needs, and the groups of settings that decide what comes of it."""

    name: str
    run: Callable[[Workshop], dict[str, Any]]
    after: tuple[str, ...]
    settings: tuple[str, ...]


ENCODERS = ("vae", "audio_encoder", "face_encoder", "language")
STEPS: tuple[Step, ...] = (
    Step("videos", steps.make_training_videos, (), ("videos", "size", "closeness")),
    Step("vae", steps.train_vae, ("videos",), ("vae",)),
    Step("audio_encoder", steps.train_audio_encoder, (), ("audio",)),
    Step("stills", steps.draw_stills, (), ("stills", "size", "closeness")),
    Step("face_encoder", steps.train_face_encoder, ("stills",), ("face",)),
    Step("language", steps.train_language, ("stills",), ("language",)),
    Step("prepare", steps.prepare_clips, ENCODERS, ("prepare", "prepared_size")),
    Step("base", steps.train_base, ("prepare",), ("base", "text_length", "shift")),
    Step("stage1", steps.train_stage1, ("base",), ("stage1",)),
    Step("stage2", steps.train_stage2, ("stage1",), ("stage2",)),
    Step("pack", steps.pack_pipeline, ("stage2",), ()),
)
NAMES = tuple(step.name for step in STEPS)
COMPONENT_STEPS = (*ENCODERS, "stills", "base")
"""Not done when finished components are given."""


def build(config: BuildConfig, output: Path, until: str = NAMES[-1]) -> None:
    """Does every step up to `until` that is not done yet; the last one writes the model card too.

    Raises:
        InputError: no such step, a step was done with other settings, or one fails.
    """
    if until not in NAMES:
        raise InputError(f"there is no step '{until}';{suggestion(until, NAMES)} known: {', '.join(NAMES)}")
    shop = Workshop(config, output)
    prints: dict[str, str] = {}
    for place, step in enumerate(STEPS, start=1):
        prints[step.name] = _fingerprint(step, config, prints)
        report = shop.work / REPORTS / f"{step.name}.json"
        if config.components and step.name in COMPONENT_STEPS:
            logger.info(f"[{place}/{len(STEPS)}] {step.name}: taken from '{config.components}'")
        elif _is_done(report, prints[step.name], step.name == "pack" and not output.is_dir()):
            logger.info(f"[{place}/{len(STEPS)}] {step.name}: done before")
        else:
            logger.info(f"[{place}/{len(STEPS)}] {step.name}")
            start = perf_counter()
            found = step.run(shop)
            seconds = perf_counter() - start
            _write(report, {"fingerprint": prints[step.name], "seconds": seconds, "device": str(shop.device)} | found)
            logger.info(f"[{place}/{len(STEPS)}] {step.name}: {_told(found)}, {seconds / 60:.1f} min")
        if step.name == until:
            break
    if until == NAMES[-1]:
        done = [step.name for step in STEPS if not (config.components and step.name in COMPONENT_STEPS)]
        write_card(config, {name: _read(shop.work / REPORTS / f"{name}.json") for name in done}, output)
        logger.info(f"wrote '{output}'")


def _fingerprint(step: Step, config: BuildConfig, before: dict[str, str]) -> str:
    """Hash of the settings that decide what comes of a step, its forerunners' included."""
    # Videos owe nothing to the components, so that a build and a corpus with finished components share them.
    always = ("seed", "model") if step.name == "videos" else ("seed", "model", "components")
    chosen = {name: _plain(getattr(config, name)) for name in (*step.settings, *always)}
    told = json.dumps([chosen, [before[name] for name in step.after]], sort_keys=True, default=_choice)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _choice(value: object) -> Any:
    assert isinstance(value, Enum), f"settings are plain values or choices, not {type(value).__name__}"
    return value.value


def _plain(value: Any) -> Any:
    """As a dictionary; of a script's settings its YAML file too."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    told = dataclasses.asdict(value)
    if isinstance(value, ScriptConfig):
        told["file"] = (CONFIGS / value.config).read_text(encoding="utf-8")
    return told


def _is_done(report: Path, fingerprint: str, output_is_gone: bool) -> bool:
    if not report.is_file() or output_is_gone:
        return False
    if _read(report)["fingerprint"] != fingerprint:
        raise InputError(
            f"'{report}' was made with other settings; choose another folder with work=..., or remove this file, "
            f"what it stands for and the reports of the steps after it"
        )
    return True


def _read(report: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(report.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(f"'{report}' is damaged; remove it, and its step is done again") from error


def _write(report: Path, found: dict[str, Any]) -> None:
    with written_whole(report) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _told(found: dict[str, Any]) -> str:
    numbers = {name: value for name, value in found.items() if isinstance(value, int | float)}
    return ", ".join(f"{name} {number(value)}" for name, value in numbers.items())
