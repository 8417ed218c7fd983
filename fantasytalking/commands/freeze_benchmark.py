"""`fantasytalking freeze-benchmark`: writes the manifest of a benchmark from a local dataset."""

from collections.abc import Sequence

from fantasytalking.commands.invocation import Invocation

DESCRIPTION = """Freezes a benchmark: which part of which local file counts, at which frame rate, size and crop.

    {command} --benchmark hdtf --references HDTF --output hdtf.json [key=value ...]

The manifest holds names, times and hashes, and no media. Settings: configs/benchmarks/*.yaml.
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments, writes the manifest, and prints its size."""
    from fantasytalking.evaluation.cli import benchmark_names, freeze_benchmark

    parser = invocation.parser(DESCRIPTION)
    parser.add_argument("--benchmark", choices=benchmark_names(), required=True, help="which benchmark")
    parser.add_path("--references", required=True, help="folder of the dataset's videos")
    parser.add_path("--output", required=True, help="the manifest, a .json")
    parser.add_settings("settings, such as max_clips=20 width=256")
    given = parser.parse_intermixed_args(arguments)
    protocol = freeze_benchmark(given.benchmark, given.references, given.overrides)
    protocol.save(given.output)
    people = len({clip.identity for clip in protocol.clips})
    print(f"protocol {protocol.id}: {len(protocol.clips)} clips of {people} people in '{given.output}'")
