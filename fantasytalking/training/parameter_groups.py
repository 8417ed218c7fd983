"""Which parameters train, by name."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from fantasytalking.common.errors import InputError
from fantasytalking.data.collate import AudioAlignment
from fantasytalking.models.wan_loading import ADAPTER_MODULES, adapter_module_of
from fantasytalking.training.stage_config import StageConfig

LORA_NAME_PART = ".lora_"
BASE_GROUP = "base"
AUDIO_POSITIONS = "audio_projector.positions"


def matches_pattern(name: str, pattern: str) -> bool:
    """Whether a pattern means a parameter: `base` all but the paper's modules, audio, face, motion ... one of them."""
    if pattern == BASE_GROUP:
        return adapter_module_of(name) is None
    return any(fnmatchcase(name, part) for part in ADAPTER_MODULES.get(pattern, (pattern,)))


def set_trainable(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Lets exactly the parameters that match train, and every LoRA layer; gives their names.

    Raises:
        InputError: a pattern that matches nothing, which would silently train less than was meant.
    """
    names = [name for name, _ in model.named_parameters() if LORA_NAME_PART not in name]
    for pattern in patterns:
        if not any(matches_pattern(name, pattern) for name in names):
            raise InputError(
                f"stage.trainable: '{pattern}' matches no parameter of the model; "
                f"use audio, face, motion, base, *, expression (with stage.expression), or a pattern such as "
                f"'{names[len(names) // 2]}'"
            )
    chosen = []
    for name, parameter in model.named_parameters():
        trains = LORA_NAME_PART in name or any(matches_pattern(name, pattern) for pattern in patterns)
        parameter.requires_grad_(trains)
        if trains:
            chosen.append(name)
    return chosen


def freeze_for_stage(model: nn.Module, stage: StageConfig) -> list[str]:
    """Lets what a stage trains train; gives the names.

    A clip's audio has no places in a window: what would train and never have a gradient is an error to DDP, has no
    optimiser state that FSDP could load again, and decays under DeepSpeed alone.

    Raises:
        InputError: as `set_trainable`.
    """
    names = set_trainable(model, stage.trainable)
    if stage.alignment is AudioAlignment.clip and AUDIO_POSITIONS in names:
        model.get_parameter(AUDIO_POSITIONS).requires_grad_(False)
        names.remove(AUDIO_POSITIONS)
    return names


def group_of(name: str) -> str:
    """audio, face, motion, lora or base."""
    return "lora" if LORA_NAME_PART in name else adapter_module_of(name) or BASE_GROUP


def trainable_table(model: nn.Module) -> str:
    """Parameters of every part: how many there are and how many train."""
    rows = {part: [0, 0] for part in (*ADAPTER_MODULES, "lora", BASE_GROUP)}
    for name, parameter in model.named_parameters():
        row = rows[group_of(name)]
        row[0] += parameter.numel()
        row[1] += parameter.numel() * parameter.requires_grad
    rows["total"] = [sum(row[0] for row in rows.values()), sum(row[1] for row in rows.values())]
    lines = [f"{'part':<8}{'parameters':>18}{'training':>18}"]
    lines += [f"{part:<8}{total:>18,}{training:>18,}" for part, (total, training) in rows.items() if total]
    return "\n".join(lines)
