"""Writes the model card of nano from the measurements of its build."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fantasytalking.common.config import config_to_yaml
from fantasytalking.common.files import atomic_write_text
from fantasytalking.evaluation.features.landmark_expressions import EXPRESSION_CHANNELS
from fantasytalking.nano.config import BuildConfig
from fantasytalking.nano.expression.expression_samples import EXPRESSION_TARGETS
from fantasytalking.nano.trainers.vae_readings import ORIGINAL, RECONSTRUCTED

CARD_FILE = "README.md"
CARD_METADATA = """---
license: apache-2.0
tags: [talking-head, image-to-video, synthetic]
---
"""
CARD_INTRO = """# nano

A miniature of FantasyTalking (arXiv 2504.04842): every component has the architecture of the full-size model at a
fraction of its size, and was trained from random weights on the portrait world, a corpus of rendered people with
synthesized speech. No photographs, recordings or weights of other models were used. The model shows how the method
works on a small machine. It has seen rendered people only, so photographs are out of its domain.

This folder is a diffusers pipeline (`FantasyTalkingPipeline.from_pretrained`), and the base of
`scripts/prepare_data.py` and of the training scripts. Weights are stored in half precision. The folder was written by
`python scripts/build_nano.py`; its configuration is below.
"""
CARD_PORTRAIT_SECTION = """## Driving videos, for one and several people

`expression_encoder` encodes the expression of the face in a driving video, and `expression_adapter` transfers it to a
face of the portrait (FantasyPortrait, arXiv 2507.12956), with or without audio. The adapter was trained on the finished
pipeline, which is unchanged without it:
`scripts/infer.py --image PORTRAIT --driving-video VIDEO [--driving-video VIDEO] [--audio SPEECH]`, people from left to
right.
"""


def write_model_card(config: BuildConfig, reports: Mapping[str, Mapping[str, Any]], output: Path) -> None:
    """Writes README.md to the folder of the pipeline.

    Args:
        config: configuration of the build.
        reports: measurements of the completed steps, by step name.
        output: folder of the pipeline.
    """
    portrait = [CARD_PORTRAIT_SECTION] if "pack_people" in reports else []
    parts = [
        CARD_METADATA + CARD_INTRO,
        *portrait,
        _quality_section(reports),
        _training_section(reports),
        _size_section(reports),
    ]
    recipe = config_to_yaml(config).rstrip()
    parts.append(f"## Configuration\n\nSeed {config.seed}.\n\n```yaml\n{recipe}\n```")
    atomic_write_text(output / CARD_FILE, "\n".join(part.rstrip() + "\n" for part in parts))


def format_value(value: float) -> str:
    """Formats integers as they are and other numbers with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _quality_section(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the table of each component's quality on held-out people and sentences."""
    rows = []
    if "vae" in reports:
        vae = reports["vae"]
        named = (("psnr", "dB PSNR"), ("psnr_mouth", "dB around the mouth"), ("psnr_eyes", "dB around the eyes"))
        values = [f"{vae[key]:.2f} {unit}" for key, unit in named if key in vae]
        rows.append(f"| VAE | {', '.join(values)}, {vae['videos']} videos |")
        if f"{RECONSTRUCTED}_mouth" in vae:
            rows.append(_readings_row(vae))
        rows.append(
            f"| | normalized latents: means within {vae['latent_mean_error']:.3f} of 0, standard deviations within "
            f"{vae['latent_deviation_error']:.3f} of 1, on training clips not used for the statistics |"
        )
    if "audio_encoder" in reports:
        audio = reports["audio_encoder"]
        rows.append(
            f"| audio encoder | {audio['accuracy']:.1%} of the tokens classified as the correct phoneme, "
            f"{audio['accuracy_sounding']:.1%} without silence, {audio['utterances']} utterances |"
        )
    if "face_encoder" in reports:
        face = reports["face_encoder"]
        rows.append(
            f"| face encoder | {face['accuracy']:.1%} of the pairs verified correctly, {face['people']} people; mean "
            f"cosine {face['cosine_same']:.2f} for the same person, {face['cosine_other']:.2f} for different people |"
        )
    if "language" in reports:
        language = reports["language"]
        rows.append(
            f"| text and image encoders | {language['matched']:.1%} of the portraits matched to their caption among "
            f"{language['of']} |"
        )
    rows += _expression_rows(reports)
    return "\n".join(["## Measured on held-out people and sentences", "", "| part | result |", "|---|---|", *rows, ""])


def _readings_row(vae: Mapping[str, Any]) -> str:
    readings = [
        f"{group} {vae[f'{RECONSTRUCTED}_{group}']:.2f} ({vae[f'{ORIGINAL}_{group}']:.2f})"
        for group in EXPRESSION_CHANNELS
    ]
    return (
        "| | correlation of the expressions that MediaPipe reads from the reconstructed videos (from the videos "
        f"themselves) with the truth: {', '.join(readings)} |"
    )


def _expression_rows(reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = []
    if "expression_encoder" in reports:
        encoder = reports["expression_encoder"]
        rows.append(f"| expression encoder | {_mean_correlations(encoder)} |")
        rows.append(
            f"| | identity accuracy of a linear probe: {encoder['identity_accuracy']:.1%} on its features, "
            f"{encoder['identity_of_crops']:.1%} on the face crops, {encoder['identity_chance']:.1%} by chance |"
        )
    if "expression_reader" in reports:
        rows.append(f"| expression reader, for evaluation | {_mean_correlations(reports['expression_reader'])} |")
    return rows


def _mean_correlations(report: Mapping[str, Any]) -> str:
    """Returns the mean correlation of each part of the expression."""
    means = {part: float(np.mean([report[name] for name in names])) for part, names in EXPRESSION_TARGETS.items()}
    return "correlation with the ground truth: " + ", ".join(f"{part} {mean:.2f}" for part, mean in means.items())


def _training_section(reports: Mapping[str, Mapping[str, Any]]) -> str:
    columns = ("step", "steps", "loss, first tenth", "loss, last tenth", "seconds per step", "minutes", "device")
    lines = [
        "## Training",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for name, report in reports.items():
        values = [report.get(key) for key in ("steps", "first_loss", "last_loss", "seconds_a_step")]
        cells = ["" if value is None else format_value(value) for value in values]
        lines.append(f"| {name} | {' | '.join(cells)} | {report['seconds'] / 60:.1f} | {report['device']} |")
    total = sum(report["seconds"] for report in reports.values()) / 60
    lines.append(f"| all | | | | | {total:.1f} | |")
    counts = [f"{reports['videos']['videos']} videos"] if "videos" in reports else []
    if "prepare" in reports:
        counts.append(_clip_counts(reports["prepare"]))
    lines += ["", f"Corpus: {', '.join(counts)}. Minutes of an interrupted step are those of its last run."]
    if {"people_videos", "people_prepare"} <= reports.keys():
        videos = reports["people_videos"]
        rendered = f"{videos['videos']} videos of several people, {videos['videos_alone']} of one"
        lines.append(f"Multi-person corpus: {rendered}, {_clip_counts(reports['people_prepare'])}.")
    if {"more_videos", "more_prepare"} <= reports.keys():
        rendered = f"{reports['more_videos']['videos']} videos"
        lines.append(f"Extended corpus: {rendered}, {_clip_counts(reports['more_prepare'])}.")
    return "\n".join([*lines, ""])


def _clip_counts(report: Mapping[str, Any]) -> str:
    return f"{report['clips']} clips prepared, {report['left_out']} rejected"


def _size_section(reports: Mapping[str, Mapping[str, Any]]) -> str:
    sizes = reports.get("pack", {}).get("parts", {}) | reports.get("pack_people", {}).get("parts", {})
    lines = ["## Size", "", "| part | MB |", "|---|---|"]
    lines += [f"| {name} | {size / 1e6:.2f} |" for name, size in sizes.items()]
    lines += [f"| all | {sum(sizes.values()) / 1e6:.2f} |", ""]
    return "\n".join(lines)
