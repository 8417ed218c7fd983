"""`fantasytalking estimate`: estimates memory and time at full size, or counts the presets' parameters."""

from collections.abc import Sequence

from fantasytalking.commands.invocation import Invocation

DESCRIPTION = """Estimates memory and time at full size, as a Markdown table.

    {command} [--gpu NAME] [--gpus N ...]
    {command} --parameters          the number of parameters of every preset instead
"""


def main(arguments: Sequence[str], invocation: Invocation, parameters: bool = False) -> None:
    """Parses the arguments and prints the table.

    Args:
        parameters: whether the parameters are counted by default, as by scripts/count_parameters.py.
    """
    from fantasytalking.models.parameter_counts import parameter_table
    from fantasytalking.training.compute_estimate import ComputeEstimateConfig, compute_estimate_table
    from fantasytalking.training.gpus import GPUS

    default = ComputeEstimateConfig()
    parser = invocation.parser(DESCRIPTION)
    parser.add_argument("--presets", nargs="+", default=default.presets, choices=default.presets, help="models")
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=int,
        default=default.resolutions,
        metavar="PIXELS",
        help="sides of square videos, rounded down to whole tokens",
    )
    parser.add_argument("--gpus", nargs="+", type=int, default=default.num_gpus, metavar="N", help="numbers of GPUs")
    parser.add_argument(
        "--gpu", default=default.gpu, help=f"GPU whose time is estimated: {', '.join(GPUS)} (default: {default.gpu})"
    )
    parser.add_argument("--rate", type=float, metavar="TFLOPS", help="TFLOP/s that a GPU attains (default: by --gpu)")
    parser.add_argument("--parameters", action="store_true", default=parameters, help="count the presets' parameters")
    given = parser.parse_args(arguments)
    if given.parameters:
        for line in parameter_table():
            print(line, flush=True)
        return
    rate = None if given.rate is None else given.rate * 1e12
    plan = ComputeEstimateConfig(given.presets, given.sizes, default.num_frames, given.gpus, given.gpu, rate)
    plan.validate()
    print(compute_estimate_table(plan))
