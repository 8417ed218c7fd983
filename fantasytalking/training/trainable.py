"""Which parameters train, by name."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from fantasytalking.errors import InputError
from fantasytalking.models.assembly import PORTRAIT_MODULES, portrait_module

LORA_MARK = ".lora_"


def expand_patterns(patterns: Sequence[str]) -> list[str]:
    """audio, face and motion replaced by the patterns of their parameters."""
    return [name for pattern in patterns for name in PORTRAIT_MODULES.get(pattern, (pattern,))]


def set_trainable(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Lets exactly the parameters that match train, and every LoRA layer; gives their names.

    Raises:
        InputError: a pattern that matches nothing, which would silently train less than was meant.
    """
    names = [name for name, _ in model.named_parameters() if LORA_MARK not in name]
    for pattern in expand_patterns(patterns):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(
                f"stage.trainable: '{pattern}' matches no parameter of the model; "
                f"use audio, face, motion, * or a pattern such as '{names[len(names) // 2]}'"
            )
    expanded = expand_patterns(patterns)
    chosen = []
    for name, parameter in model.named_parameters():
        trains = LORA_MARK in name or any(fnmatchcase(name, pattern) for pattern in expanded)
        parameter.requires_grad_(trains)
        if trains:
            chosen.append(name)
    return chosen


def part_of(name: str) -> str:
    """audio, face, motion, lora or base."""
    return "lora" if LORA_MARK in name else portrait_module(name) or "base"


def trainable_table(model: nn.Module) -> str:
    """Parameters of every part: how many there are and how many train."""
    rows = {part: [0, 0] for part in (*PORTRAIT_MODULES, "lora", "base")}
    for name, parameter in model.named_parameters():
        row = rows[part_of(name)]
        row[0] += parameter.numel()
        row[1] += parameter.numel() * parameter.requires_grad
    rows["total"] = [sum(row[0] for row in rows.values()), sum(row[1] for row in rows.values())]
    lines = [f"{'part':<8}{'parameters':>18}{'training':>18}"]
    lines += [f"{part:<8}{total:>18,}{training:>18,}" for part, (total, training) in rows.items() if total]
    return "\n".join(lines)
