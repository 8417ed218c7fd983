"""`fantasytalking split-corpus`: splits a prepared corpus by person."""

from collections.abc import Sequence

from fantasytalking.commands.invocation import Invocation

DESCRIPTION = """Splits a prepared corpus so that no person is in both parts.

    {command} --manifest CORPUS/manifest.jsonl --held-out 0.1

Writes CORPUS/manifest_train.jsonl and CORPUS/manifest_heldout.jsonl, for data.manifests and holdout.manifests.
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments, writes both manifests, and prints a summary."""
    parser = invocation.parser(DESCRIPTION)
    parser.add_path("--manifest", required=True, help="manifest.jsonl of a prepared corpus")
    parser.add_argument("--held-out", type=float, required=True, help="largest fraction of the clips to hold out")
    parser.add_argument(
        "--by",
        choices=("face", "folder", "video"),
        default="face",
        help="a person is: similar faces, a top folder of the input, or a video (default: face)",
    )
    parser.add_argument(
        "--min-similarity",
        type=float,
        default=0.4,
        help="cosine similarity from which on two faces are of one person (default: %(default)g, for ArcFace)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of people (default: %(default)d)")
    given = parser.parse_args(arguments)

    from fantasytalking.data.manifest import write_records
    from fantasytalking.data.person_split import PersonSource, split_by_person

    split = split_by_person(given.manifest, given.held_out, PersonSource(given.by), given.min_similarity, given.seed)
    for name, records in (("train", split.train), ("heldout", split.held_out)):
        write_records(given.manifest.with_name(f"{given.manifest.stem}_{name}.jsonl"), records)
    nearest = "" if split.nearest is None else f"; the most similar faces of both parts: {split.nearest:.2f}"
    print(
        f"{len(split.train)} clips of {split.train_people} people to train on, {len(split.held_out)} of "
        f"{split.held_out_people} held out{nearest}"
    )
