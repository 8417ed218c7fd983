"""Operations per second that GPUs attain on Wan, for estimates of time.

The measured rates follow from Wan2.1's published times of whole videos (table "Computational Efficiency" of its
repository): the transformer's matrix products and attention, counted as in `compute_estimate`, over the time of the
whole video. I2V-14B at 1280x720 and 81 frames in 40 steps is 5.23e17 operations, T2V-1.3B at 832x480 in 50 steps
2.83e16. The released code of FantasyTalking states 15.5 s per guided step at 512x512 on an A100, 176 TFLOP/s.
"""

from typing import NamedTuple

from fantasytalking.common.errors import ErrorCode, InputError


class Gpu(NamedTuple):
    """Memory and speed of a GPU."""

    memory_gib: int
    flops_per_second: float
    """Attained operations per second in bf16, with dense attention."""
    source: str
    """Where the rate comes from."""


_WAN = "Wan2.1's published times"
_BY_PEAK = "the RTX4090's share of its peak, not measured"
GPUS = {
    "A100": Gpu(80, 193e12, _WAN),
    "H100": Gpu(80, 351e12, _WAN),
    "H20": Gpu(96, 95e12, _WAN),
    "H200": Gpu(141, 351e12, "that of the H100, which computes as fast; not measured"),
    "RTX4090": Gpu(24, 108e12, _WAN),
    "RTX5090": Gpu(32, 137e12, _BY_PEAK),
    "RTX3090": Gpu(24, 46e12, _BY_PEAK),
    "RTX6000Ada": Gpu(48, 238e12, _BY_PEAK),
    "L40S": Gpu(48, 237e12, _BY_PEAK),
}
"""By name. Peaks in bf16 with float32 accumulation, by NVIDIA's data sheets: 165 TFLOP/s (RTX4090), 209.5 (RTX5090), 71
(RTX3090), 364 (RTX6000Ada) and 362 (L40S)."""


def find_gpu(name: str, field: str = "gpu") -> Gpu:
    """Returns the GPU of a name, in any case and with or without spaces.

    Raises:
        InputError: it is not known.
    """
    wanted = name.replace(" ", "").replace("-", "").lower()
    for known, gpu in GPUS.items():
        if known.lower() == wanted:
            return gpu
    raise InputError(
        f"{field} is '{name}'; known are {', '.join(GPUS)}; for another one use `fantasytalking estimate --rate`",
        code=ErrorCode.invalid_choice,
        field=field,
        value=name,
    )
