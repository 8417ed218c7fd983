"""Settings of Wan 14B for cards by their memory: configs/wan14b/8gb.yaml and so on."""

from enum import Enum

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.devices import device_name, resolve_device, total_memory
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.console import notify

CARD_PRESET = "wan14b"
CARD_GIB = {"8gb": 8, "12gb": 12, "16gb": 16, "24gb": 24, "48gb": 48}
"""Memory by name of the card, and of its configuration."""
USABLE_FRACTION = 0.9
"""Part of that memory that a plan may fill, and that a device must have: some report less, and libraries take some."""
AUTO_CARD = "auto"
CARD_NAMES = (AUTO_CARD, *CARD_GIB)
_MEMORY_SETTINGS = (
    *("dtype", "offload", "optimizations.quantization", "optimizations.offload_blocks"),
    *("optimizations.offload_prefetch", "optimizations.text_encoder_device", "optimizations.vae_tiling"),
)


def resolve_card(name: str) -> str:
    """Returns the name of a card; for `auto`, that of the largest whose settings fit this machine's device.

    Raises:
        InputError: the device is the CPU, or smaller than every card.
    """
    if name != AUTO_CARD:
        return name
    device = resolve_device("auto")
    memory = total_memory(device) / 2**30
    fitting = [card for card, size in CARD_GIB.items() if size * USABLE_FRACTION <= memory]
    if device.type == "cpu" or not fitting:
        has = "has no device beside the CPU" if device.type == "cpu" else f"has a device of {memory:.1f} GiB"
        raise InputError(
            f"--card is auto, but this machine {has}; the smallest card is {next(iter(CARD_GIB))}; leave out "
            "--card, or name the card",
            code=ErrorCode.insufficient_resources,
            field="--card",
            value=name,
        )
    card = fitting[-1]
    notify(
        f"note: {device_name(device)} has {memory:.1f} GiB: --card {card}, configs/{CARD_PRESET}/{card}.yaml, whose "
        "memory is computed, not measured"
    )
    return card


def card_settings(card: str) -> list[str]:
    """Returns the settings of a card that decide about memory, as key=value, for another configuration."""
    config = load_config(InferConfig, preset_path(CARD_PRESET, card))
    return [f"{name}={_value(config, name)}" for name in _MEMORY_SETTINGS]


def _value(config: InferConfig, name: str) -> str:
    group, _, field = name.rpartition(".")
    value = getattr(config.optimizations if group else config, field)
    if isinstance(value, Enum):
        return str(value.value)
    return "null" if value is None else str(value).lower()
