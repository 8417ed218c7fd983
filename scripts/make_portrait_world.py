"""Makes a corpus of talking people: make_portrait_world.py --identities 0-9 --sentences FILE --output DIR

Identities 0-999 are for training, those from 1000 on are held out; data/portrait_world has sentences for each. With
--people 2 or 3 everyone says each sentence beside others, who say another one or listen: a folder gNNNN_sNNNN each.
"""

import argparse

from tqdm import tqdm

from fantasytalking.common.errors import exit_cleanly


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identities", required=True, metavar="A-B", help="people, both ends included")
    parser.add_argument("--sentences", required=True, metavar="FILE", help="one sentence a line; everyone says each")
    parser.add_argument("--output", required=True, metavar="DIR", help="a folder per clip; continued when it exists")
    parser.add_argument("--people", type=int, default=1, help="in a picture, 1 to 3; --identities gives them all")
    size_help = "height of the picture in pixels, 96 to 512 (default 256); WIDTHxHEIGHT for several people"
    parser.add_argument("--size", default="256", help=size_help)
    jitter_help = "movement of the camera, root mean square in picture heights (several people; default 0)"
    parser.add_argument("--jitter", type=float, default=0.0, help=jitter_help)
    parser.add_argument("--expression", type=float, help="strength of the face's movement, 0 to 1 (default: drawn)")
    parser.add_argument("--body", type=float, help="strength of head and shoulder movement, 0 to 1 (default: drawn)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--closeness", type=float, default=1.0, help="how much larger people are seen, 1 to 1.5")
    parser.add_argument("--processes", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    from fantasytalking.portrait_world.corpus.clip_corpus import make_corpus, read_sentences
    from fantasytalking.portrait_world.corpus.group_corpus import parse_image_size, plan_world_corpus
    from fantasytalking.portrait_world.people.identity import parse_identity_range

    options = parse()
    identities = parse_identity_range(options.identities)
    sentences = read_sentences(options.sentences, identities)
    names = ("people", "jitter", "expression", "body", "seed", "closeness")
    size = parse_image_size(options.size, options.people)
    plan = plan_world_corpus(identities, sentences, size=size, **{name: getattr(options, name) for name in names})
    with tqdm(total=len(identities) * len(sentences), unit="clip") as bar:
        for done, _ in make_corpus(plan, options.output, options.processes):
            bar.update(done - bar.n)


if __name__ == "__main__":
    exit_cleanly(main)
