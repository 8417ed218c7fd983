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

from fantasytalking.common.config import CONFIGS_FOLDER, did_you_mean
from fantasytalking.common.config_aliases import restore_old_keys
from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.inference.model_sources import EXPRESSION_ADAPTER_FOLDER
from fantasytalking.nano.config import BuildConfig, ScriptRunConfig
from fantasytalking.nano.context import BuildContext
from fantasytalking.nano.model_card import format_value, write_model_card
from fantasytalking.nano.steps import components as steps
from fantasytalking.nano.steps import expression_components as expression_step
from fantasytalking.nano.steps import extended_corpus as more_steps
from fantasytalking.nano.steps import multi_person as people_steps

logger = logging.getLogger(__name__)

REPORTS_FOLDER = "reports"


@dataclass(frozen=True)
class BuildStep:
    """A step, what it needs, and the groups of settings that decide what comes of it."""

    name: str
    run: Callable[[BuildContext], dict[str, Any]]
    depends_on: tuple[str, ...]
    settings: tuple[str, ...]
    output_folder: str | None = None
    """The folder that it leaves in the finished one, or `.`; gone, it is done again. The model card is written then."""

    def output_exists(self, output: Path) -> bool:
        """Whether what it leaves in the finished folder is there."""
        return self.output_folder is None or (output / self.output_folder).is_dir()


ENCODER_STEPS = ("vae", "audio_encoder", "face_encoder", "language")
EXPRESSION_SETTINGS = ("expression_encoder", "image_size", "zoom")
MULTI_PERSON_DEPENDENCIES = ("prepare", "expression_encoder", "people_videos")
EXTENDED_DEPENDENCIES = ("prepare", "more_videos")
BUILD_STEPS: tuple[BuildStep, ...] = (
    BuildStep("videos", steps.make_training_videos, (), ("videos", "image_size", "zoom")),
    BuildStep("vae", steps.train_vae, ("videos",), ("vae",)),
    BuildStep("audio_encoder", steps.train_audio_encoder, (), ("audio_encoder",)),
    BuildStep("stills", steps.render_portrait_images, (), ("portrait_images", "image_size", "zoom")),
    BuildStep("face_encoder", steps.train_face_encoder, ("stills",), ("face_encoder",)),
    BuildStep("language", steps.train_text_image_encoder, ("stills",), ("text_image_encoder",)),
    BuildStep("prepare", steps.prepare_clips, ENCODER_STEPS, ("prepare", "prepared_size")),
    BuildStep("base", steps.train_base, ("prepare",), ("base", "max_text_tokens", "flow_shift")),
    BuildStep("stage1", steps.train_stage1, ("base",), ("stage1",)),
    BuildStep("stage2", steps.train_stage2, ("stage1",), ("stage2",)),
    BuildStep("expression_encoder", expression_step.train_expression_encoder, (), EXPRESSION_SETTINGS),
    BuildStep("expression_reader", expression_step.fit_expression_reader, (), EXPRESSION_SETTINGS),
    BuildStep("people_videos", people_steps.make_multi_person_videos, ("videos",), ("multi_person_videos",)),
    BuildStep(
        "people_prepare",
        people_steps.prepare_multi_person,
        MULTI_PERSON_DEPENDENCIES,
        ("multi_person_prepare", "prepared_size"),
    ),
    BuildStep(
        "stage2_people", people_steps.train_stage2_multi_person, ("stage2", "people_prepare"), ("stage2_multi_person",)
    ),
    BuildStep("more_videos", more_steps.make_extended_videos, (), ("extended_videos", "image_size", "zoom")),
    BuildStep(
        "more_prepare", more_steps.prepare_extended, EXTENDED_DEPENDENCIES, ("extended_prepare", "prepared_size")
    ),
    BuildStep("stage2_more", more_steps.train_stage2_extended, ("stage2_people", "more_prepare"), ("stage2_extended",)),
    BuildStep("pack", steps.pack_pipeline, ("stage2_more",), (), output_folder="."),
    BuildStep("people", people_steps.train_portrait_adapter, ("pack", "people_prepare"), ("portrait_stage",)),
    BuildStep(
        "pack_people", people_steps.pack_portrait_adapter, ("people",), (), output_folder=EXPRESSION_ADAPTER_FOLDER
    ),
)
STEP_NAMES = tuple(step.name for step in BUILD_STEPS)
PACK_STEP = "pack"
COMPONENT_STEPS = (*ENCODER_STEPS, "stills", "base", "expression_encoder")
"""Not done when finished components are given."""


def build_nano(
    config: BuildConfig, output: Path, until: str = STEP_NAMES[-1], only: Collection[str] = STEP_NAMES
) -> None:
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
    if until not in STEP_NAMES:
        raise InputError(f"there is no step '{until}';{did_you_mean(until, STEP_NAMES)} known: {', '.join(STEP_NAMES)}")
    shop = BuildContext(config, output)
    if PACK_STEP in only and STEP_NAMES.index(PACK_STEP) <= STEP_NAMES.index(until):
        _check_output_free(shop)
    prints: dict[str, str] = {}
    for place, step in enumerate(BUILD_STEPS, start=1):
        prints[step.name] = _fingerprint(step, config, prints)
        if step.name not in only:
            continue
        what = f"[{place}/{len(BUILD_STEPS)}] {step.name}"
        if _is_pretrained(step, config):
            logger.info(f"{what}: taken from '{config.pretrained_components}'")
        elif _is_done(_report_path(shop, step), prints[step.name], step.output_exists(output)):
            logger.info(f"{what}: done before")
        else:
            logger.info(what)
            start = perf_counter()
            found = step.run(shop)
            seconds = perf_counter() - start
            known = {"fingerprint": prints[step.name], "seconds": seconds, "device": str(shop.device)}
            _write_report(_report_path(shop, step), known | found)
            logger.info(f"{what}: {_format_results(found)}, {seconds / 60:.1f} min")
        if step.output_folder is not None:
            write_model_card(config, _load_reports(shop), output)
            logger.info(f"wrote '{output}'")
        if step.name == until:
            break


def _check_output_free(context: BuildContext) -> None:
    """Tells before the hours of training what packing would tell after them."""
    packed = context.work_dir / REPORTS_FOLDER / f"{PACK_STEP}.json"
    if context.output.is_dir() and any(context.output.iterdir()) and not packed.is_file():
        raise InputError(
            f"output '{context.output}' holds a pipeline or other things already; give a new folder: --output FOLDER"
        )


def _is_pretrained(step: BuildStep, config: BuildConfig) -> bool:
    return config.pretrained_components is not None and step.name in COMPONENT_STEPS


def _report_path(context: BuildContext, step: BuildStep) -> Path:
    return context.work_dir / REPORTS_FOLDER / f"{step.name}.json"


def _load_reports(context: BuildContext) -> dict[str, dict[str, Any]]:
    """What the steps measured that are done, by name."""
    done = [
        step for step in BUILD_STEPS if _report_path(context, step).is_file() and step.output_exists(context.output)
    ]
    return {
        step.name: _read_report(_report_path(context, step))
        for step in done
        if not _is_pretrained(step, context.config)
    }


def _fingerprint(step: BuildStep, config: BuildConfig, upstream: dict[str, str]) -> str:
    """Hash of the settings that decide what comes of a step, its forerunners' included."""
    # Videos owe nothing to the components, so that a build and a corpus with finished components share them.
    always = ("seed", "model") if step.name == "videos" else ("seed", "model", "pretrained_components")
    chosen = {name: _plain_settings(getattr(config, name)) for name in (*step.settings, *always)}
    # Under the keys of earlier releases, so that steps that were done before keys were renamed count as done.
    settings = [restore_old_keys(BuildConfig, chosen), [upstream[name] for name in step.depends_on]]
    text = json.dumps(settings, sort_keys=True, default=_enum_value)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _enum_value(value: object) -> Any:
    assert isinstance(value, Enum), f"settings are plain values or choices, not {type(value).__name__}"
    return value.value


def _plain_settings(value: Any) -> Any:
    """As a dictionary; of a script's settings its YAML file too."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    told = dataclasses.asdict(value)
    if isinstance(value, ScriptRunConfig):
        told["file"] = (CONFIGS_FOLDER / value.config).read_text(encoding="utf-8")
    return told


def _is_done(report: Path, fingerprint: str, output_exists: bool) -> bool:
    if not report.is_file() or not output_exists:
        return False
    if _read_report(report)["fingerprint"] != fingerprint:
        raise InputError(
            f"'{report}' was made with other settings; choose another folder with work_dir=..., or remove this file, "
            f"what it stands for and the reports of the steps after it"
        )
    return True


def _read_report(report: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(report.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(f"'{report}' is damaged; remove it, and its step is done again") from error


def _write_report(report: Path, results: dict[str, Any]) -> None:
    with atomic_write(report) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _format_results(results: dict[str, Any]) -> str:
    numbers = {name: value for name, value in results.items() if isinstance(value, int | float)}
    return ", ".join(f"{name} {format_value(value)}" for name, value in numbers.items())
