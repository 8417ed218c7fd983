"""`fantasytalking make-portrait-world`: renders a corpus of speakers."""

from collections.abc import Sequence

from fantasytalking.commands.invocation import Invocation
from fantasytalking.common.cli_aliases import add_argument_with_alias

NANO_ZOOM = 1.1846
"""Zoom of configs/nano/build.yaml: nano knows faces of this size."""
DESCRIPTION = """Renders a corpus of speakers.

    {command} --identities 0-9 --sentences data/portrait_world/sentences_train.txt --output DIR

Identities 0-999 are for training, those from 1000 on are held out; data/portrait_world has sentences for each. With
--people 2 or 3 everyone says each sentence next to others, who say another one or listen.
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments and renders the clips, with a progress bar."""
    parser = invocation.parser(DESCRIPTION)
    parser.add_argument("--identities", required=True, metavar="A-B", help="identities, both ends included")
    parser.add_path("--sentences", required=True, metavar="FILE", help="one sentence per line; everyone says each")
    parser.add_path("--output", required=True, metavar="DIR", help="one folder per clip; resumed if it exists")
    parser.add_argument("--people", type=int, default=1, help="people per video, 1 to 3")
    size_help = "height of the videos in pixels, 96 to 512; WIDTHxHEIGHT for several people"
    parser.add_argument("--size", default="256", help=size_help)
    jitter_help = "root mean square of the camera's motion in image heights, 0 to 0.05 (several people)"
    add_argument_with_alias(parser, "--camera-jitter", "--jitter", type=float, default=0.0, help=jitter_help)
    for part, motion in (("expression", "facial"), ("body", "head and shoulder")):
        intensity_help = f"intensity of {motion} motion, 0 to 1 (default: drawn per clip)"
        add_argument_with_alias(parser, f"--{part}-intensity", f"--{part}", type=float, help=intensity_help)
    parser.add_argument("--seed", type=int, default=0, help="seed of the motion")
    zoom_help = "magnification of people, 1 to 1.5; by default that of nano's corpus"
    add_argument_with_alias(parser, "--zoom", "--closeness", type=float, default=NANO_ZOOM, help=zoom_help)
    add_argument_with_alias(parser, "--num-processes", "--processes", type=int, default=1, help="processes that render")
    options = parser.parse_args(arguments)

    from tqdm import tqdm

    from fantasytalking.portrait_world.corpus.clip_corpus import make_corpus, read_sentences
    from fantasytalking.portrait_world.corpus.group_corpus import parse_image_size, plan_world_corpus
    from fantasytalking.portrait_world.people.identity import parse_identity_range

    identities = parse_identity_range(options.identities)
    plan = plan_world_corpus(
        identities,
        read_sentences(options.sentences, identities),
        people=options.people,
        size=parse_image_size(options.size, options.people),
        jitter=options.camera_jitter,
        expression=options.expression_intensity,
        body=options.body_intensity,
        seed=options.seed,
        zoom=options.zoom,
    )
    with tqdm(unit="clip") as bar:
        for done, total in make_corpus(plan, options.output, options.num_processes):
            bar.total = total
            bar.update(done - bar.n)
