"""Captions of people of the portrait world."""

import numpy as np

from fantasytalking.portrait_world.people.identity import LONG_HAIR_STYLES, Color, Identity

HAIR_COLORS: dict[str, Color] = {
    "black": (0.09, 0.08, 0.08),
    "brown": (0.30, 0.20, 0.13),
    "blond": (0.69, 0.54, 0.33),
    "red": (0.48, 0.21, 0.12),
    "grey": (0.66, 0.65, 0.64),
}
CLOTHING_COLORS: dict[str, Color] = {
    "blue": (0.20, 0.27, 0.42),
    "black": (0.10, 0.10, 0.11),
    "grey": (0.24, 0.25, 0.28),
    "red": (0.50, 0.15, 0.17),
    "green": (0.30, 0.45, 0.38),
    "white": (0.82, 0.80, 0.76),
    "yellow": (0.74, 0.56, 0.30),
    "purple": (0.42, 0.29, 0.42),
    "orange": (0.64, 0.38, 0.30),
}
CAPTION_ENDINGS = ("is talking.", "is speaking.", "talks.", "speaks.")
DEFAULT_CAPTION = "A person is talking."


def make_caption(identity: Identity, random: np.random.Generator) -> str:
    """Returns a caption of at most fourteen words with a random choice of the person's features."""
    features = (
        [f"{_nearest_color_name(identity.hair, HAIR_COLORS)} hair"]
        if identity.hair_style not in ("bald", "buzz")
        else []
    )
    if identity.hair_style in ("bald", "balding"):
        features = ["a bald head"]
    elif identity.hair_style in LONG_HAIR_STYLES and random.random() < 0.7:
        features = [f"long {features[0]}"]
    if identity.glasses != "none":
        features.append("glasses")
    if identity.beard in ("full", "goatee", "moustache"):
        features.append("a moustache" if identity.beard == "moustache" else "a beard")
    features.append(f"a {_nearest_color_name(identity.cloth, CLOTHING_COLORS)} {_garment_noun(identity)}")
    chosen = [features[index] for index in sorted(random.permutation(len(features))[:2])]
    return f"A {_person_noun(identity)} with {' and '.join(chosen)} {random.choice(CAPTION_ENDINGS)}"


def _person_noun(identity: Identity) -> str:
    feminine = identity.softness > 0.5
    if identity.age < 16:
        return "girl" if feminine else "boy"
    age = "young " if identity.age < 35 else "old " if identity.age > 60 else ""
    return age + ("woman" if feminine else "man")


def _garment_noun(identity: Identity) -> str:
    return {"crew": "top", "vee": "top", "turtleneck": "turtleneck", "shirt": "shirt", "jacket": "jacket"}[
        identity.garment
    ]


def _nearest_color_name(color: Color, names: dict[str, Color]) -> str:
    return min(names, key=lambda name: sum((a - b) ** 2 for a, b in zip(color, names[name], strict=True)))
