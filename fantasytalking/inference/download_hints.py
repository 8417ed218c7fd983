"""Commands, sizes and licenses of the weights that configurations name."""

from typing import NamedTuple

from fantasytalking.common.hub import CHECKPOINTS_FOLDER, HUB_ID, local_folder
from fantasytalking.common.weight_files import WEIGHT_SUFFIXES


class DownloadHint(NamedTuple):
    """How to get weights."""

    command: str
    size: str
    license: str


_SIZES_BY_DTYPE = "in half precision, {} GB in single"
DOWNLOAD_HINTS = {
    "checkpoints/nano": DownloadHint(
        "it is part of the repository, not of the wheel: copy checkpoints/nano of a clone here, give base=FOLDER, or "
        "build it in some hours: fantasytalking build-nano",
        "48 MB at most",
        "Apache-2.0",
    ),
    "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers": DownloadHint(
        "hf download Wan-AI/Wan2.1-I2V-14B-720P-Diffusers --local-dir checkpoints/Wan2.1-I2V-14B-720P-Diffusers",
        f"about 46 GB {_SIZES_BY_DTYPE.format(91)}",
        "Apache-2.0",
    ),
    "weizhou03/Wan2.1-Fun-1.3B-InP-Diffusers": DownloadHint(
        "hf download weizhou03/Wan2.1-Fun-1.3B-InP-Diffusers --local-dir checkpoints/Wan2.1-Fun-1.3B-InP-Diffusers",
        f"about 16 GB {_SIZES_BY_DTYPE.format(32)}",
        "Apache-2.0",
    ),
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": DownloadHint(
        "hf download Wan-AI/Wan2.2-TI2V-5B-Diffusers --local-dir checkpoints/Wan2.2-TI2V-5B-Diffusers",
        f"about 23 GB {_SIZES_BY_DTYPE.format(46)}",
        "Apache-2.0",
    ),
    "Wan-AI/Wan2.2-I2V-A14B-Diffusers": DownloadHint(
        "hf download Wan-AI/Wan2.2-I2V-A14B-Diffusers --local-dir checkpoints/Wan2.2-I2V-A14B-Diffusers",
        f"about 69 GB {_SIZES_BY_DTYPE.format(138)}",
        "Apache-2.0",
    ),
    "facebook/wav2vec2-base-960h": DownloadHint(
        "hf download facebook/wav2vec2-base-960h --include '*.json' --include model.safetensors "
        "--local-dir checkpoints/wav2vec2-base-960h",
        "about 0.4 GB",
        "Apache-2.0",
    ),
    "TencentGameMate/chinese-wav2vec2-base": DownloadHint(
        "hf download TencentGameMate/chinese-wav2vec2-base --include '*.json' --local-dir "
        "checkpoints/chinese-wav2vec2-base && hf download TencentGameMate/chinese-wav2vec2-base model.safetensors "
        "--revision refs/pr/1 --local-dir checkpoints/chinese-wav2vec2-base",
        "about 0.4 GB",
        "see its page for the license",
    ),
    "openai/whisper-small": DownloadHint(
        "hf download openai/whisper-small --include '*.json' --include model.safetensors "
        "--local-dir checkpoints/whisper-small",
        "about 1 GB",
        "Apache-2.0",
    ),
    "checkpoints/fantasytalking_audio": DownloadHint(
        "hf download acvlab/FantasyTalking fantasytalking_model.ckpt --local-dir checkpoints && "
        "fantasytalking convert checkpoints/fantasytalking_model.ckpt checkpoints/fantasytalking_audio",
        f"about 1.7 GB {_SIZES_BY_DTYPE.format('3.4')}",
        "Apache-2.0",
    ),
    "outputs/wan1.3b/stage2/adapter": DownloadHint(
        "fantasytalking train --config configs/wan1.3b/stage2.yaml (after stage 1)",
        "about 0.9 GB in half precision, 1.8 GB in single",
        "yours",
    ),
    "outputs/wan2.2-5b/stage2/adapter": DownloadHint(
        "fantasytalking train --config configs/wan2.2-5b/stage2.yaml (after stage 1)",
        "about 1.7 GB in half precision, 3.3 GB in single",
        "yours",
    ),
    "outputs/wan2.2-a14b/stage2/adapter": DownloadHint(
        "fantasytalking train --config configs/wan2.2-a14b/stage2.yaml (after stage 1)",
        "about 3.5 GB in half precision, 7.0 GB in single",
        "yours",
    ),
    "outputs/wan2.2-a14b/stage2_low/adapter": DownloadHint(
        "fantasytalking train --config configs/wan2.2-a14b/stage2.yaml stage.expert=low "
        "stage.init_from=outputs/wan2.2-a14b/stage1_low/adapter output=outputs/wan2.2-a14b/stage2_low (after stage 1)",
        "about 3.5 GB in half precision, 7.0 GB in single",
        "yours",
    ),
    "checkpoints/fantasyportrait_model.ckpt": DownloadHint(
        "hf download acvlab/FantasyPortrait fantasyportrait_model.ckpt --local-dir checkpoints",
        f"about 2 GB {_SIZES_BY_DTYPE.format(4)}",
        "see its page for the license",
    ),
    "checkpoints/loras/Wan21_I2V_14B_lightx2v_cfg_step_distill_lora_rank64.safetensors": DownloadHint(
        "hf download lightx2v/Wan2.1-I2V-14B-480P-StepDistill-CfgDistill-Lightx2v "
        "loras/Wan21_I2V_14B_lightx2v_cfg_step_distill_lora_rank64.safetensors --local-dir checkpoints",
        "about 0.7 GB",
        "see its page for the license",
    ),
    "checkpoints/arcface/w600k_r50.onnx": DownloadHint(
        "curl -LO https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip && "
        "unzip -j buffalo_l.zip '*w600k_r50.onnx' -d checkpoints/arcface",
        "0.2 GB",
        "non-commercial research only",
    ),
}
"""Hints by path or hub id; sizes follow from the numbers of parameters."""


def download_hint(path_or_id: str) -> str:
    """Returns how to get the weights of a path or hub id: command, size and license."""
    source = DOWNLOAD_HINTS.get(path_or_id)
    if source is not None:
        return f"'{path_or_id}': {source.command} ({source.size}, {source.license})"
    is_path = path_or_id.startswith((f"{CHECKPOINTS_FOLDER}/", "outputs/")) or path_or_id.endswith(WEIGHT_SUFFIXES)
    if HUB_ID.fullmatch(path_or_id) and not is_path:
        return (
            f"'{path_or_id}': hf download {path_or_id} --local-dir {local_folder(path_or_id)} "
            "(its page states size and license)"
        )
    return f"'{path_or_id}' does not exist; check the path"
