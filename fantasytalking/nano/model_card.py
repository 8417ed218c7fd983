"""The model card of a finished nano, written from what the build measured and from nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from fantasytalking.common.files import atomic_write
from fantasytalking.nano.config import BuildConfig
from fantasytalking.nano.expression.expression_samples import EXPRESSION_TARGETS

CARD_FILE = "README.md"
CARD_METADATA = """---
license: apache-2.0
tags: [talking-head, image-to-video, synthetic]
---
"""
CARD_INTRO = """# nano

A miniature of FantasyTalking (arXiv 2504.04842): every component has the architecture of the real one and a fraction of
its size, and was trained from random weights on the portrait world, drawn people who say synthesised sentences. No
photograph, no recording and no other model's weights went into it. It shows how the method works on a small machine; it
knows drawn people only, and a photograph is to it a picture from another world.

This folder is a diffusers pipeline (`FantasyTalkingPipeline.from_pretrained`), the components of
`scripts/prepare_data.py`, and the base of the training scripts. Weights are stored in half precision.
It was made by `python scripts/build_nano.py`; the recipe stands below.
"""
CARD_PORTRAIT_SECTION = """## Faces that videos drive, of one person and of several

`expression_encoder` reads what the face in a driving video does, and `expression_adapter` goes on this pipeline and
makes the faces of a portrait do it (FantasyPortrait, arXiv 2507.12956), with a sound for each or without. It was
trained beside the finished pipeline, which is the same without it:
`scripts/infer.py --image PORTRAIT --drive VIDEO [--drive VIDEO] [--audio SPEECH]`, people from left to right.
"""


def write_model_card(config: BuildConfig, reports: Mapping[str, Mapping[str, Any]], output: Path) -> None:
    """Writes README.md into the finished folder; `reports` are what each step measured."""
    portrait = [CARD_PORTRAIT_SECTION] if "pack_people" in reports else []
    parts = [
        CARD_METADATA + CARD_INTRO,
        *portrait,
        _quality_section(reports),
        _training_section(reports),
        _size_section(reports),
    ]
    recipe = OmegaConf.to_yaml(OmegaConf.structured(config)).rstrip()
    parts.append(f"## Recipe\n\nSeed {config.seed}.\n\n```yaml\n{recipe}\n```")
    with atomic_write(output / CARD_FILE) as temporary:
        temporary.write_text("\n".join(part.rstrip() + "\n" for part in parts), encoding="utf-8")


def format_value(value: float) -> str:
    """Whole numbers as they are, others with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _quality_section(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """What each component can do, on people and sentences that were never trained on."""
    rows = []
    if "vae" in reports:
        vae = reports["vae"]
        rows.append(
            f"| VAE | {vae['psnr']:.2f} dB PSNR, {vae['psnr_mouth']:.2f} dB around the mouth, {vae['videos']} videos |"
        )
        rows.append(
            f"| | normalised latents: means within {vae['latent_mean_error']:.3f} of 0, deviations within "
            f"{vae['latent_deviation_error']:.3f} of 1, on training clips that were not measured for them |"
        )
    if "audio_encoder" in reports:
        audio = reports["audio_encoder"]
        rows.append(
            f"| audio encoder | {audio['accuracy']:.1%} of tokens named with the right phoneme, "
            f"{audio['accuracy_sounding']:.1%} without silence, {audio['utterances']} utterances |"
        )
    if "face_encoder" in reports:
        face = reports["face_encoder"]
        rows.append(
            f"| face net | {face['accuracy']:.1%} of pairs verified, {face['people']} people; mean cosine "
            f"{face['cosine_same']:.2f} of the same, {face['cosine_other']:.2f} of another person |"
        )
    if "language" in reports:
        language = reports["language"]
        rows.append(
            f"| text and image encoder | {language['matched']:.1%} of portraits matched to their caption among "
            f"{language['of']} |"
        )
    rows += _expression_rows(reports)
    return "\n".join(["## Measured on held-out people and sentences", "", "| part | result |", "|---|---|", *rows, ""])


def _expression_rows(reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = []
    if "expression_encoder" in reports:
        encoder = reports["expression_encoder"]
        rows.append(f"| expression encoder | {_mean_correlations(encoder)} |")
        rows.append(
            f"| | a linear map of its features names the person in {encoder['identity_accuracy']:.1%} of the pictures, "
            f"of the cut face in {encoder['identity_of_crops']:.1%}, chance in {encoder['identity_chance']:.1%} |"
        )
    if "expression_reader" in reports:
        rows.append(f"| reader of expressions, for evaluation | {_mean_correlations(reports['expression_reader'])} |")
    return rows


def _mean_correlations(report: Mapping[str, Any]) -> str:
    """Means over the truths of each part of the expression."""
    means = {part: float(np.mean([report[name] for name in names])) for part, names in EXPRESSION_TARGETS.items()}
    return "correlation with the truth: " + ", ".join(f"{part} {mean:.2f}" for part, mean in means.items())


def _training_section(reports: Mapping[str, Mapping[str, Any]]) -> str:
    columns = ("step", "steps", "loss, first tenth", "loss, last tenth", "seconds a step", "minutes", "on")
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
    lines += ["", f"Corpus: {', '.join(counts)}. Minutes of an interrupted step count from when it was last begun."]
    if {"people_videos", "people_prepare"} <= reports.keys():
        videos = reports["people_videos"]
        drawn = f"{videos['videos']} videos of several people, {videos['videos_alone']} of one"
        lines.append(f"Corpus with what drives the faces: {drawn}, {_clip_counts(reports['people_prepare'])}.")
    if {"more_videos", "more_prepare"} <= reports.keys():
        drawn = f"{reports['more_videos']['videos']} videos"
        lines.append(f"Corpus of further people: {drawn}, {_clip_counts(reports['more_prepare'])}.")
    return "\n".join([*lines, ""])


def _clip_counts(report: Mapping[str, Any]) -> str:
    return f"{report['clips']} clips prepared, {report['left_out']} left out"


def _size_section(reports: Mapping[str, Mapping[str, Any]]) -> str:
    sizes = reports.get("pack", {}).get("parts", {}) | reports.get("pack_people", {}).get("parts", {})
    lines = ["## Size", "", "| part | MB |", "|---|---|"]
    lines += [f"| {name} | {size / 1e6:.2f} |" for name, size in sizes.items()]
    lines += [f"| all | {sum(sizes.values()) / 1e6:.2f} |", ""]
    return "\n".join(lines)
