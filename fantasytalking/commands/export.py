"""`fantasytalking export`: turns a checkpoint of a training run into an adapter."""

from collections.abc import Sequence

from fantasytalking.commands.invocation import Invocation

DESCRIPTION = """Turns a checkpoint of a training run into an adapter folder, as the end of a run does.

    {command} --run outputs/wan14b/stage2 --output outputs/step20000 [--step 20000]

The base and the initial weights of the run must be on this machine. Checkpoints of one process, DDP, FSDP and ZeRO are
read; no GPU is needed.
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments, writes the adapter, and prints what was written."""
    parser = invocation.parser(DESCRIPTION)
    parser.add_path("--run", required=True, help="output folder of the training run")
    parser.add_path("--output", required=True, help="new folder, or an adapter to replace")
    parser.add_argument("--step", type=int, help="step of the checkpoint; default: the newest")
    parser.add_argument(
        "--weights",
        choices=("auto", "trained"),
        default="auto",
        help="auto: the moving average if there is one; trained: the trained weights themselves (default: auto)",
    )
    given = parser.parse_args(arguments)

    from fantasytalking.training.export import ExportedWeights, export_checkpoint

    print(export_checkpoint(given.run, given.output, given.step, ExportedWeights(given.weights)))
