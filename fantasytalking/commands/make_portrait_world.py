"""`fantasytalking make-portrait-world`: renders a corpus of talking people."""

from collections.abc import Sequence

from fantasytalking.commands.invocation import Invocation

DESCRIPTION = """Renders a corpus of talking people.

    {command} --identities 0-9 --sentences data/portrait_world/sentences_train.txt --output DIR

Identities 0-999 are for training, those from 1000 on are held out; data/portrait_world has sentences for each. With
--people 2 or 3 everyone says each sentence beside others, who say another one or listen.
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments and renders the clips, with a progress bar."""
    parser = invocation.parser(DESCRIPTION)
    parser.add_argument("--identities", required=True, metavar="A-B", help="people, both ends included")
    parser.add_argument("--sentences", required=True, metavar="FILE", help="one sentence per line; everyone says each")
    parser.add_argument("--output", required=True, metavar="DIR", help="one folder per clip; resumed when it exists")
    parser.add_argument("--people", type=int, default=1, help="people in a picture, 1 to 3, among --identities")
    size_help = "height of the picture in pixels, 96 to 512 (default 256); WIDTHxHEIGHT for several people"
    parser.add_argument("--size", default="256", help=size_help)
    jitter_help = "movement of the camera, root mean square in picture heights (several people; default 0)"
    parser.add_argument("--jitter", type=float, default=0.0, help=jitter_help)
    parser.add_argument("--expression", type=float, help="strength of facial motion, 0 to 1 (default: drawn)")
    parser.add_argument("--body", type=float, help="strength of head and shoulder motion, 0 to 1 (default: drawn)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--closeness", type=float, default=1.0, help="magnification of people, 1 to 1.5")
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args(arguments)

    from tqdm import tqdm

    from fantasytalking.portrait_world.corpus.clip_corpus import make_corpus, read_sentences
    from fantasytalking.portrait_world.corpus.group_corpus import parse_image_size, plan_world_corpus
    from fantasytalking.portrait_world.people.identity import parse_identity_range

    identities = parse_identity_range(given.identities)
    sentences = read_sentences(given.sentences, identities)
    plan = plan_world_corpus(
        identities,
        sentences,
        people=given.people,
        size=parse_image_size(given.size, given.people),
        jitter=given.jitter,
        expression=given.expression,
        body=given.body,
        seed=given.seed,
        zoom=given.closeness,
    )
    with tqdm(total=len(identities) * len(sentences), unit="clip") as bar:
        for done, _ in make_corpus(plan, given.output, given.processes):
            bar.update(done - bar.n)
