"""Settings of the device: names, what the machine lacks, and what PyTorch says about each."""

import pytest
import torch

from fantasytalking.common import devices
from fantasytalking.common.errors import ErrorCode
from fantasytalking.common.process_memory import available_memory
from tests.helpers.errors import raises_input_error

PRESENT = torch.accelerator.current_accelerator(check_available=True)


def test_every_name_is_a_device_or_named_as_missing() -> None:
    for name in devices.DEVICE_NAMES:
        devices.check_device_name(name)
        if name in ("auto", "cpu") or (PRESENT is not None and PRESENT.type == name):
            assert devices.resolve_device(name).type == (
                name if name != "auto" else (PRESENT or torch.device("cpu")).type
            )
        else:
            with raises_input_error(ErrorCode.unsupported, "device", name):
                devices.resolve_device(name)
    with raises_input_error(ErrorCode.invalid_choice, "device", "tpu"):
        devices.check_device_name("tpu")


@pytest.mark.parametrize("kind", ["cpu", "mps"])
def test_devices_without_memory_of_their_own_have_the_main_memory(kind: str) -> None:
    device = torch.device(kind)
    assert devices.total_memory(device) == available_memory().total and devices.device_name(device) == kind
