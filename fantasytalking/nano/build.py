"""Builds the nano pipeline from scratch, step by step: completed steps are skipped, interrupted ones resume."""

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
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write_text
from fantasytalking.common.locks import lock_output
from fantasytalking.inference.model_sources import EXPRESSION_ADAPTER_FOLDER
from fantasytalking.nano.config import BuildConfig, ScriptRunConfig
from fantasytalking.nano.context import BuildContext
from fantasytalking.nano.model_card import format_value, write_model_card
from fantasytalking.nano.steps import components, expression_components, extended_corpus, multi_person
from fantasytalking.nano.trainers.config import ADDED_LATER

logger = logging.getLogger(__name__)

REPORTS_FOLDER = "reports"


@dataclass(frozen=True)
class BuildStep:
    """One step of the build."""

    name: str
    run: Callable[[BuildContext], dict[str, Any]]
    """Runs the step and returns its measurements, which are written to its report."""
    depends_on: tuple[str, ...]
    """Names of the steps whose results it uses."""
    settings: tuple[str, ...]
    """Fields of `BuildConfig` that determine its result."""
    output_folder: str | None = None
    """Folder that it writes in the finished pipeline, "." for the pipeline itself. When the folder is missing, the step
    runs again; the model card is written after it."""

    def output_exists(self, output: Path) -> bool:
        """Whether the step's folder exists in the finished pipeline."""
        return self.output_folder is None or (output / self.output_folder).is_dir()


ENCODER_STEPS = ("vae", "audio_encoder", "face_encoder", "language")
EXPRESSION_SETTINGS = ("expression_encoder", "image_size", "zoom")
MULTI_PERSON_DEPENDENCIES = ("prepare", "expression_encoder", "people_videos")
EXTENDED_DEPENDENCIES = ("prepare", "more_videos")
BUILD_STEPS: tuple[BuildStep, ...] = (
    BuildStep("videos", components.make_training_videos, (), ("videos", "image_size", "zoom")),
    BuildStep("vae", components.train_vae, ("videos",), ("vae",)),
    BuildStep("audio_encoder", components.train_audio_encoder, (), ("audio_encoder",)),
    BuildStep("stills", components.render_portrait_images, (), ("portrait_images", "image_size", "zoom")),
    BuildStep("face_encoder", components.train_face_encoder, ("stills",), ("face_encoder",)),
    BuildStep("language", components.train_text_image_encoder, ("stills",), ("text_image_encoder",)),
    BuildStep("prepare", components.prepare_clips, ENCODER_STEPS, ("prepare", "prepared_size")),
    BuildStep("base", components.train_base, ("prepare",), ("base", "max_text_tokens", "flow_shift")),
    BuildStep("stage1", components.train_stage1, ("base",), ("stage1",)),
    BuildStep("stage2", components.train_stage2, ("stage1",), ("stage2",)),
    BuildStep("expression_encoder", expression_components.train_expression_encoder, (), EXPRESSION_SETTINGS),
    BuildStep("expression_reader", expression_components.fit_expression_reader, (), EXPRESSION_SETTINGS),
    BuildStep("people_videos", multi_person.make_multi_person_videos, ("videos",), ("multi_person_videos",)),
    BuildStep(
        "people_prepare",
        multi_person.prepare_multi_person,
        MULTI_PERSON_DEPENDENCIES,
        ("multi_person_prepare", "prepared_size"),
    ),
    BuildStep(
        "stage2_people", multi_person.train_stage2_multi_person, ("stage2", "people_prepare"), ("stage2_multi_person",)
    ),
    BuildStep("more_videos", extended_corpus.make_extended_videos, (), ("extended_videos", "image_size", "zoom")),
    BuildStep(
        "more_prepare", extended_corpus.prepare_extended, EXTENDED_DEPENDENCIES, ("extended_prepare", "prepared_size")
    ),
    BuildStep(
        "stage2_more", extended_corpus.train_stage2_extended, ("stage2_people", "more_prepare"), ("stage2_extended",)
    ),
    BuildStep("pack", components.pack_pipeline, ("stage2_more",), (), output_folder="."),
    BuildStep("people", multi_person.train_portrait_adapter, ("pack", "people_prepare"), ("portrait_stage",)),
    BuildStep(
        "pack_people", multi_person.pack_portrait_adapter, ("people",), (), output_folder=EXPRESSION_ADAPTER_FOLDER
    ),
)
STEP_NAMES = tuple(step.name for step in BUILD_STEPS)
PACK_STEP = "pack"
COMPONENT_STEPS = (*ENCODER_STEPS, "stills", "base", "expression_encoder")
"""Steps that are skipped when pretrained components are used."""


def build_nano(
    config: BuildConfig, output: Path, until: str = STEP_NAMES[-1], only: Collection[str] = STEP_NAMES
) -> None:
    """Runs all steps up to `until` that are not completed yet, and writes the model card from the step `pack` on.

    Args:
        config: configuration of the build.
        output: folder of the finished pipeline.
        until: name of the last step.
        only: names of the steps that may run; all others are skipped without a log line.

    Raises:
        InputError: there is no step `until`, a step was completed with other settings, `output` already has other
            content, a step fails, or another build works in the folder.
    """
    if until not in STEP_NAMES:
        raise InputError(
            f"there is no step '{until}';{did_you_mean(until, STEP_NAMES)} known steps: {', '.join(STEP_NAMES)}",
            code=ErrorCode.unknown_key,
            field="until",
            value=until,
        )
    context = BuildContext(config, output)
    with lock_output(context.work_dir):
        _run_steps(context, until, only)


def _run_steps(context: BuildContext, until: str, only: Collection[str]) -> None:
    config, output = context.config, context.output
    if PACK_STEP in only and STEP_NAMES.index(PACK_STEP) <= STEP_NAMES.index(until):
        _check_output_free(context)
    fingerprints: dict[str, str] = {}
    for number, step in enumerate(BUILD_STEPS, start=1):
        fingerprints[step.name] = _fingerprint(step, config, fingerprints)
        if step.name not in only:
            continue
        title = f"[{number}/{len(BUILD_STEPS)}] {step.name}"
        if _is_pretrained(step, config):
            logger.info(f"{title}: taken from '{config.pretrained_components}'")
        elif _is_done(_report_path(context, step), fingerprints[step.name], step.output_exists(output)):
            logger.info(f"{title}: already done")
        else:
            logger.info(title)
            start = perf_counter()
            results = step.run(context)
            seconds = perf_counter() - start
            run_facts = {"fingerprint": fingerprints[step.name], "seconds": seconds, "device": str(context.device)}
            _write_report(_report_path(context, step), run_facts | results)
            logger.info(f"{title}: {_format_results(results)}, {seconds / 60:.1f} min")
        if step.output_folder is not None:
            write_model_card(config, _load_reports(context), output)
            logger.info(f"wrote '{output}'")
        if step.name == until:
            break


def _check_output_free(context: BuildContext) -> None:
    """Fails before hours of training where packing would fail after them."""
    packed = context.work_dir / REPORTS_FOLDER / f"{PACK_STEP}.json"
    if context.output.is_dir() and any(context.output.iterdir()) and not packed.is_file():
        raise InputError(
            f"output folder '{context.output}' is not empty; choose a new folder with --output FOLDER",
            code=ErrorCode.output_exists,
            field="--output",
            value=str(context.output),
        )


def _is_pretrained(step: BuildStep, config: BuildConfig) -> bool:
    return config.pretrained_components is not None and step.name in COMPONENT_STEPS


def _report_path(context: BuildContext, step: BuildStep) -> Path:
    return context.work_dir / REPORTS_FOLDER / f"{step.name}.json"


def _load_reports(context: BuildContext) -> dict[str, dict[str, Any]]:
    """Returns the reports of all completed steps, by step name."""
    done = [
        step for step in BUILD_STEPS if _report_path(context, step).is_file() and step.output_exists(context.output)
    ]
    return {
        step.name: _read_report(_report_path(context, step))
        for step in done
        if not _is_pretrained(step, context.config)
    }


def _fingerprint(step: BuildStep, config: BuildConfig, upstream: dict[str, str]) -> str:
    """Returns a hash of the settings that determine a step's result, including those of the steps it depends on."""
    # Videos do not depend on the components, so that builds with and without pretrained components share them.
    always = ("seed", "model") if step.name == "videos" else ("seed", "model", "pretrained_components")
    extended = ("extended_videos", "image_size", "zoom") if step.name == "vae" and config.vae.extended_people else ()
    chosen = {name: _plain_settings(getattr(config, name)) for name in (*step.settings, *extended, *always)}
    # Under the keys of earlier releases, so that steps completed before keys were renamed still count as completed.
    settings = [restore_old_keys(BuildConfig, chosen), [upstream[name] for name in step.depends_on]]
    text = json.dumps(settings, sort_keys=True, default=_enum_value)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _enum_value(value: object) -> Any:
    assert isinstance(value, Enum), f"settings are plain values or choices, not {type(value).__name__}"
    return value.value


def _plain_settings(value: Any) -> Any:
    """Returns a dataclass as a dictionary; for a script's run the content of its YAML file is added."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    settings = {
        field.name: _plain_settings(getattr(value, field.name))
        for field in dataclasses.fields(value)
        if field.metadata != ADDED_LATER or getattr(value, field.name) != field.default
    }
    if isinstance(value, ScriptRunConfig):
        settings["file"] = (CONFIGS_FOLDER / value.config).read_text(encoding="utf-8")
    return settings


def _is_done(report: Path, fingerprint: str, output_exists: bool) -> bool:
    if not report.is_file() or not output_exists:
        return False
    if _read_report(report)["fingerprint"] != fingerprint:
        raise InputError(
            f"'{report}' was made with other settings; choose another folder with work_dir=..., or remove this file, "
            "the step's results and the reports of all later steps",
            code=ErrorCode.output_exists,
            field="work_dir",
            value=str(report),
        )
    return True


def _read_report(report: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(report.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(
            f"'{report}' is not valid JSON; remove it to run its step again",
            code=ErrorCode.malformed_file,
            field="work_dir",
            value=str(report),
        ) from error


def _write_report(report: Path, results: dict[str, Any]) -> None:
    atomic_write_text(report, json.dumps(results, indent=1) + "\n")


def _format_results(results: dict[str, Any]) -> str:
    numbers = {name: value for name, value in results.items() if isinstance(value, int | float)}
    return ", ".join(f"{name} {format_value(value)}" for name, value in numbers.items())
