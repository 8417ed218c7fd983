"""Selects the parameters that train, by name."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from fantasytalking.checkpoints.lora import strip_peft_name
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.data.collate import AudioAlignment
from fantasytalking.models.wan_loading import adapter_module_of, adapter_modules
from fantasytalking.training.stage_config import StageConfig

LORA_NAME_PART = ".lora_"
BASE_GROUP = "base"
AUDIO_POSITIONS = "audio_projector.positions"


def matches_pattern(name: str, pattern: str) -> bool:
    """Whether a pattern selects a parameter: `base` (none of the adapter's modules), a module's name, or a shell
    pattern."""
    name = strip_peft_name(name)
    if pattern == BASE_GROUP:
        return adapter_module_of(name) is None
    return any(fnmatchcase(name, part) for part in adapter_modules().get(pattern, (pattern,)))


def set_trainable(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Enables gradients for exactly the parameters that match and every LoRA layer, and returns their names.

    Raises:
        InputError: a pattern matches nothing, so that less would train than requested.
    """
    names = [name for name, _ in model.named_parameters() if LORA_NAME_PART not in name]
    for pattern in patterns:
        if not any(matches_pattern(name, pattern) for name in names):
            raise InputError(
                f"stage.trainable has '{pattern}', which matches no parameter of the model; use audio, face, motion, "
                "base, *, expression (with stage.expression), a condition of stage.conditions, or a pattern such as "
                f"'{names[len(names) // 2]}'",
                code=ErrorCode.unknown_key,
                field="stage.trainable",
                value=pattern,
            )
    selected = []
    for name, parameter in model.named_parameters():
        trains = LORA_NAME_PART in name or any(matches_pattern(name, pattern) for pattern in patterns)
        parameter.requires_grad_(trains)
        if trains:
            selected.append(name)
    return selected


def freeze_for_stage(model: nn.Module, stage: StageConfig) -> list[str]:
    """Enables gradients for exactly what a stage trains, and returns the names.

    Clip alignment has no audio windows, so the positions within a window stay frozen: a trained parameter without
    gradient fails under DDP, has no optimizer state that FSDP could restore, and decays under DeepSpeed only.

    Raises:
        InputError: as `set_trainable`.
    """
    names = set_trainable(model, stage.trainable)
    if stage.alignment is AudioAlignment.clip and AUDIO_POSITIONS in names:
        model.get_parameter(AUDIO_POSITIONS).requires_grad_(False)
        names.remove(AUDIO_POSITIONS)
    return names


def group_of(name: str) -> str:
    """Returns the part of a parameter: an adapter module (audio, face, motion, ...), lora or base."""
    return "lora" if LORA_NAME_PART in name else adapter_module_of(strip_peft_name(name)) or BASE_GROUP


def trainable_table(model: nn.Module) -> str:
    """Returns a text table of the parameters of every part: total and trained."""
    rows = {part: [0, 0] for part in (*adapter_modules(), "lora", BASE_GROUP)}
    for name, parameter in model.named_parameters():
        row = rows[group_of(name)]
        row[0] += parameter.numel()
        row[1] += parameter.numel() * parameter.requires_grad
    rows["total"] = [sum(row[0] for row in rows.values()), sum(row[1] for row in rows.values())]
    lines = [f"{'part':<8}{'parameters':>18}{'training':>18}"]
    lines += [f"{part:<8}{total:>18,}{training:>18,}" for part, (total, training) in rows.items() if total]
    return "\n".join(lines)
