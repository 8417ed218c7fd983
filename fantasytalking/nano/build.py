"""The chain from nothing to a finished pipeline: every step once, skipped when done, and gone on with when killed."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from time import perf_counter
from typing import Any

from fantasytalking.common.config import CONFIGS, suggestion
from fantasytalking.common.errors import InputError
from fantasytalking.common.files import written_whole
from fantasytalking.inference.model_files import EXPRESSION_ADAPTER
from fantasytalking.nano.config import BuildConfig, ScriptConfig
from fantasytalking.nano.context import Workshop
from fantasytalking.nano.model_card import number, write_card
from fantasytalking.nano.steps import components as steps
from fantasytalking.nano.steps import expression_components as expression_step
from fantasytalking.nano.steps import extended_corpus as more_steps
from fantasytalking.nano.steps import multi_person as people_steps

logger = logging.getLogger(__name__)

REPORTS = "reports"


@dataclass(frozen=True)
class Step:
    """A step, what it needs, and the groups of settings that decide what comes of it."""

    name: str
    run: Callable[[Workshop], dict[str, Any]]
    after: tuple[str, ...]
    settings: tuple[str, ...]
    packs: str | None = None
    """The folder that it leaves in the finished one, or `.`; gone, it is done again. The model card is written then."""

    def stands(self, output: Path) -> bool:
        """Whether what it leaves in the finished folder is there."""
        return self.packs is None or (output / self.packs).is_dir()


ENCODERS = ("vae", "audio_encoder", "face_encoder", "language")
EXPRESSION = ("expression", "size", "closeness")
PEOPLE = ("prepare", "expression_encoder", "people_videos")
MORE = ("prepare", "more_videos")
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
    Step("expression_encoder", expression_step.train_expression_encoder, (), EXPRESSION),
    Step("expression_reader", expression_step.fit_expression_reader, (), EXPRESSION),
    Step("people_videos", people_steps.make_people_videos, ("videos",), ("people_videos",)),
    Step("people_prepare", people_steps.prepare_people, PEOPLE, ("people_prepare", "prepared_size")),
    Step("stage2_people", people_steps.train_stage2_people, ("stage2", "people_prepare"), ("stage2_people",)),
    Step("more_videos", more_steps.make_more, (), ("more_videos", "size", "closeness")),
    Step("more_prepare", more_steps.prepare_more, MORE, ("more_prepare", "prepared_size")),
    Step("stage2_more", more_steps.train_stage2_more, ("stage2_people", "more_prepare"), ("stage2_more",)),
    Step("pack", steps.pack_pipeline, ("stage2_more",), (), packs="."),
    Step("people", people_steps.train_people, ("pack", "people_prepare"), ("people",)),
    Step("pack_people", people_steps.pack_people, ("people",), (), packs=EXPRESSION_ADAPTER),
)
NAMES = tuple(step.name for step in STEPS)
PACK = "pack"
COMPONENT_STEPS = (*ENCODERS, "stills", "base", "expression_encoder")
"""Not done when finished components are given."""


def build(config: BuildConfig, output: Path, until: str = NAMES[-1], only: Collection[str] = NAMES) -> None:
    """Does every step up to `until` that is not done yet; from `pack` on the finished folder has its model card.

    Args:
        config: the recipe.
        output: where the finished pipeline goes.
        until: the last step.
        only: steps that may be done; the others are passed over, in silence, for whom their results lie elsewhere.

    Raises:
        InputError: no such step, a step was done with other settings, another pipeline stands where the finished one
            goes, or a step fails.
    """
    if until not in NAMES:
        raise InputError(f"there is no step '{until}';{suggestion(until, NAMES)} known: {', '.join(NAMES)}")
    shop = Workshop(config, output)
    if PACK in only and NAMES.index(PACK) <= NAMES.index(until):
        _check_room(shop)
    prints: dict[str, str] = {}
    for place, step in enumerate(STEPS, start=1):
        prints[step.name] = _fingerprint(step, config, prints)
        if step.name not in only:
            continue
        what = f"[{place}/{len(STEPS)}] {step.name}"
        if _is_given(step, config):
            logger.info(f"{what}: taken from '{config.components}'")
        elif _is_done(_report(shop, step), prints[step.name], step.stands(output)):
            logger.info(f"{what}: done before")
        else:
            logger.info(what)
            start = perf_counter()
            found = step.run(shop)
            seconds = perf_counter() - start
            known = {"fingerprint": prints[step.name], "seconds": seconds, "device": str(shop.device)}
            _write(_report(shop, step), known | found)
            logger.info(f"{what}: {_told(found)}, {seconds / 60:.1f} min")
        if step.packs is not None:
            write_card(config, _reports(shop), output)
            logger.info(f"wrote '{output}'")
        if step.name == until:
            break


def _check_room(shop: Workshop) -> None:
    """Tells before the hours of training what packing would tell after them."""
    packed = shop.work / REPORTS / f"{PACK}.json"
    if shop.output.is_dir() and any(shop.output.iterdir()) and not packed.is_file():
        raise InputError(
            f"output '{shop.output}' holds a pipeline or other things already; give a new folder: --output FOLDER"
        )


def _is_given(step: Step, config: BuildConfig) -> bool:
    return config.components is not None and step.name in COMPONENT_STEPS


def _report(shop: Workshop, step: Step) -> Path:
    return shop.work / REPORTS / f"{step.name}.json"


def _reports(shop: Workshop) -> dict[str, dict[str, Any]]:
    """What the steps measured that are done, by name."""
    done = [step for step in STEPS if _report(shop, step).is_file() and step.stands(shop.output)]
    return {step.name: _read(_report(shop, step)) for step in done if not _is_given(step, shop.config)}


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


def _is_done(report: Path, fingerprint: str, stands: bool) -> bool:
    if not report.is_file() or not stands:
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
