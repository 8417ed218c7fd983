"""The model card of a finished nano, written from what the build measured and from nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fantasytalking.files import written_whole
from fantasytalking.nano.config import BuildConfig

CARD = "README.md"
LICENCE = """---
license: apache-2.0
tags: [talking-head, image-to-video, synthetic]
---
"""
HEAD = """# nano

A miniature of FantasyTalking (arXiv 2504.04842): every component has the architecture of the real one and a fraction of
its size, and was trained from random weights on the portrait world, drawn people who say synthesised sentences. No
photograph, no recording and no other model's weights went into it. It shows how the method works on a small machine; it
knows drawn people only, and a photograph is to it a picture from another world.

This folder is a diffusers pipeline (`FantasyTalkingPipeline.from_pretrained`), the components of
`scripts/prepare_data.py`, and the base of the training scripts. Weights are stored in half precision.
It was made by `python scripts/build_nano.py`; the recipe stands below.
"""


def write_card(config: BuildConfig, reports: Mapping[str, Mapping[str, Any]], output: Path) -> None:
    """Writes README.md into the finished folder; `reports` are what each step measured."""
    parts = [LICENCE + HEAD, _measured(config, reports), _costs(reports), _sizes(reports.get("pack", {}))]
    recipe = OmegaConf.to_yaml(OmegaConf.structured(config)).rstrip()
    parts.append(f"## Recipe\n\nSeed {config.seed}.\n\n```yaml\n{recipe}\n```")
    with written_whole(output / CARD) as temporary:
        temporary.write_text("\n".join(part.rstrip() + "\n" for part in parts), encoding="utf-8")


def number(value: float) -> str:
    """Whole numbers as they are, others with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _measured(config: BuildConfig, reports: Mapping[str, Mapping[str, Any]]) -> str:
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
    return "\n".join(["## Measured on held-out people and sentences", "", "| part | result |", "|---|---|", *rows, ""])


def _costs(reports: Mapping[str, Mapping[str, Any]]) -> str:
    columns = ("step", "steps", "loss, first tenth", "loss, last tenth", "seconds a step", "minutes", "on")
    lines = [
        "## Training",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for name, report in reports.items():
        values = [report.get(key) for key in ("steps", "first_loss", "last_loss", "seconds_a_step")]
        cells = ["" if value is None else number(value) for value in values]
        lines.append(f"| {name} | {' | '.join(cells)} | {report['seconds'] / 60:.1f} | {report['device']} |")
    total = sum(report["seconds"] for report in reports.values()) / 60
    lines.append(f"| all | | | | | {total:.1f} | |")
    counts = [f"{reports['videos']['videos']} videos"] if "videos" in reports else []
    if "prepare" in reports:
        counts.append(f"{reports['prepare']['clips']} clips prepared, {reports['prepare']['left_out']} left out")
    lines += [
        "",
        f"Corpus: {', '.join(counts)}. Minutes of an interrupted step count from when it was last begun.",
        "",
    ]
    return "\n".join(lines)


def _sizes(report: Mapping[str, Any]) -> str:
    sizes = report.get("parts", {})
    lines = ["## Size", "", "| part | MB |", "|---|---|"]
    lines += [f"| {name} | {size / 1e6:.2f} |" for name, size in sizes.items()]
    lines += [f"| all | {report.get('bytes', 0) / 1e6:.2f} |", ""]
    return "\n".join(lines)
