"""Identities: all constant properties of a person, drawn from the identity's number."""

from dataclasses import dataclass

import numpy as np

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.portrait_world.speech.synthesis import Voice

Color = tuple[float, float, float]  # sRGB, 0 to 1

# Held-out identities are never trained on. The first two ranges are part of every benchmark's definition.
TRAINING_IDENTITIES = range(1000)
HELD_OUT_IDENTITIES = range(1000, 1_000_000)
FURTHER_TRAINING_IDENTITIES = range(1_000_000, 2_000_000)
"""Training identities of corpora with more than a thousand people."""

SKIN_TONES: tuple[Color, ...] = (
    (0.965, 0.840, 0.760),
    (0.930, 0.775, 0.675),
    (0.880, 0.700, 0.575),
    (0.795, 0.605, 0.465),
    (0.675, 0.480, 0.345),
    (0.545, 0.365, 0.250),
    (0.420, 0.270, 0.185),
    (0.325, 0.205, 0.145),
)
DARK_HAIR: tuple[Color, ...] = ((0.075, 0.060, 0.055), (0.115, 0.080, 0.062), (0.180, 0.115, 0.080))
FAIR_HAIR: tuple[Color, ...] = (
    (0.300, 0.190, 0.120),
    (0.480, 0.330, 0.190),
    (0.690, 0.540, 0.330),
    (0.480, 0.210, 0.100),
)
GRAY_HAIR: Color = (0.720, 0.710, 0.700)
DARK_EYES: tuple[Color, ...] = ((0.200, 0.115, 0.065), (0.290, 0.175, 0.090))
FAIR_EYES: tuple[Color, ...] = (
    (0.260, 0.420, 0.590),
    (0.330, 0.440, 0.300),
    (0.400, 0.470, 0.500),
    (0.420, 0.300, 0.140),
)
CLOTHES: tuple[Color, ...] = (
    (0.130, 0.180, 0.290),
    (0.230, 0.250, 0.275),
    (0.500, 0.150, 0.170),
    (0.160, 0.330, 0.290),
    (0.820, 0.800, 0.760),
    (0.740, 0.560, 0.300),
    (0.360, 0.440, 0.560),
    (0.420, 0.290, 0.420),
    (0.090, 0.095, 0.110),
    (0.640, 0.380, 0.300),
    (0.560, 0.640, 0.560),
)
BACKDROPS: tuple[Color, ...] = (
    (0.600, 0.660, 0.710),
    (0.740, 0.700, 0.640),
    (0.420, 0.480, 0.500),
    (0.660, 0.590, 0.560),
    (0.520, 0.580, 0.490),
    (0.350, 0.370, 0.430),
    (0.780, 0.770, 0.760),
    (0.560, 0.520, 0.600),
)
LONG_HAIR_STYLES = ("long", "bob", "wavy", "bun", "curly", "ponytail")
SHORT_HAIR_STYLES = ("crop", "parted", "swept", "curly_short", "buzz")


@dataclass(frozen=True)
class FaceShape:
    """Deviations from the average face, each about -1 to 1; 0 is average."""

    width: float
    length: float
    jaw: float
    chin: float
    cheekbones: float
    forehead: float
    eye_size: float
    eye_spacing: float
    eye_tilt: float
    eye_height: float
    lid_fold: float
    brow_height: float
    brow_angle: float
    nose_length: float
    nose_width: float
    nose_depth: float
    nose_tip: float
    mouth_width: float
    mouth_height: float
    upper_lip: float
    lower_lip: float
    ears: float
    neck: float
    shoulders: float
    fullness: float


@dataclass(frozen=True)
class Identity:
    """A person: body, colors, clothes, surroundings and voice. Equal numbers give equal people.

    `age` is in years, `softness` in [0, 1] from heavy to fine features; colors are sRGB in [0, 1].
    """

    number: int
    age: float
    softness: float
    shape: FaceShape
    skin: Color
    lips: Color
    eyes: Color
    hair: Color
    brows: Color
    hair_style: str
    brow_weight: float
    beard: str
    glasses: str
    make_up: float
    freckles: float
    garment: str
    cloth: Color
    second_cloth: Color
    backdrop: Color
    backdrop_style: str
    light_side: float
    voice: Voice

    @property
    def name(self) -> str:
        return f"id{self.number:04d}"

    @property
    def held_out(self) -> bool:
        return self.number in HELD_OUT_IDENTITIES

    @property
    def childlikeness(self) -> float:
        """Degree of childlike proportions, from 0 (adult) to 1 (seven years old)."""
        return float(np.clip((16 - self.age) / 9, 0, 1))

    @property
    def wrinkles(self) -> float:
        """Strength of lines and folds, in [0, 1]."""
        return float(np.clip((self.age - 34) / 42, 0, 1))


def parse_identity_range(text: str) -> range:
    """Parses "A-B" (both included) or "A" to a range within one of the three ranges of identities.

    Raises:
        InputError: `text` has another form, or the range is out of bounds or not within one of them.
    """
    first, separator, last = text.partition("-")
    if not (first.isascii() and first.isdigit() and ((last.isascii() and last.isdigit()) or not separator)):
        raise InputError(
            f"identities '{text[:40]}' is not of the form A-B; give for example 0-199",
            code=ErrorCode.invalid_type,
            field="--identities",
            value=text,
        )
    chosen = range(int(first), int(last or first) + 1)
    if not len(chosen):
        raise InputError(
            f"identities '{text}' is a descending range; give the smaller number first",
            code=ErrorCode.out_of_range,
            field="--identities",
            value=text,
        )
    for allowed in (TRAINING_IDENTITIES, HELD_OUT_IDENTITIES, FURTHER_TRAINING_IDENTITIES):
        if chosen[0] in allowed and chosen[-1] in allowed:
            return chosen
    raise InputError(
        f"identities '{text[:40]}' must lie within {TRAINING_IDENTITIES[0]}-{TRAINING_IDENTITIES[-1]} or "
        f"{FURTHER_TRAINING_IDENTITIES[0]}-{FURTHER_TRAINING_IDENTITIES[-1]} (training) or within "
        f"{HELD_OUT_IDENTITIES[0]}-{HELD_OUT_IDENTITIES[-1]} (held out); use one run per range",
        code=ErrorCode.out_of_range,
        field="--identities",
        value=text,
    )


def mix_colors(first: Color, second: Color, fraction: float) -> Color:
    """Returns `first` blended with `fraction` of `second`."""
    mixture = [a + (b - a) * fraction for a, b in zip(first, second, strict=True)]
    return (mixture[0], mixture[1], mixture[2])


def make_identity(number: int) -> Identity:
    """Returns the identity of a non-negative number; deterministic."""
    assert number >= 0
    random = np.random.default_rng([7_301, number])
    age = float(
        random.choice([random.uniform(7, 15), random.uniform(17, 40), random.uniform(40, 82)], p=[0.1, 0.55, 0.35])
    )
    softness = float(np.clip(random.beta(0.45, 0.45), 0.04, 0.96))
    if age < 15:
        softness = 0.55 + 0.4 * softness
    tone = float(random.uniform(0, len(SKIN_TONES) - 1))
    skin = _interpolate_color(SKIN_TONES, tone)
    skin = mix_colors(skin, (0.80, 0.50, 0.42), float(random.uniform(0, 0.10)))
    hair, eyes = _hair_and_eye_color(random, tone, age)
    long_hair = random.random() < (0.9 if softness > 0.5 else 0.08)
    hair_style = str(random.choice(LONG_HAIR_STYLES if long_hair else SHORT_HAIR_STYLES))
    if not long_hair and age > 30 and random.random() < 0.08 + 0.3 * (age > 50):
        hair_style = str(random.choice(["bald", "balding"]))
    beard = "none"
    if softness < 0.5 and age > 19 and random.random() < 0.6:
        beard = str(random.choice(["stubble", "full", "goatee", "moustache"], p=[0.4, 0.35, 0.15, 0.1]))
    make_up = float(random.uniform(0.2, 1)) if softness > 0.5 and age > 17 and random.random() < 0.7 else 0.0
    lips = mix_colors(
        mix_colors(skin, (0.70, 0.29, 0.29), 0.42 if tone < 4 else 0.30), (0.70, 0.12, 0.20), 0.35 * make_up
    )
    cloth = CLOTHES[int(random.integers(len(CLOTHES)))]
    second = CLOTHES[int(random.integers(len(CLOTHES)))]
    return Identity(
        number=number,
        age=age,
        softness=softness,
        shape=_face_shape(random, age, softness),
        skin=skin,
        lips=lips,
        eyes=eyes,
        hair=hair,
        brows=mix_colors(hair, (0.12, 0.09, 0.08), 0.35) if sum(hair) > 0.6 else hair,
        hair_style=hair_style,
        brow_weight=float(np.clip(1.15 - 0.5 * softness + random.normal(0, 0.15), 0.5, 1.5)),
        beard=beard,
        glasses=str(random.choice(["none", "round", "square"], p=[0.8, 0.1, 0.1])),
        make_up=make_up,
        freckles=float(random.uniform(0.3, 1)) if tone < 2.2 and random.random() < 0.25 else 0.0,
        garment=str(random.choice(["crew", "vee", "turtleneck", "shirt", "jacket"])),
        cloth=cloth,
        second_cloth=second,
        backdrop=BACKDROPS[int(random.integers(len(BACKDROPS)))],
        backdrop_style=str(random.choice(["studio", "lights", "room"])),
        light_side=float(random.choice([-1, 1]) * random.uniform(0.45, 1)),
        voice=_voice(random, age, softness),
    )


def _interpolate_color(colors: tuple[Color, ...], position: float) -> Color:
    low = min(int(position), len(colors) - 2)
    return mix_colors(colors[low], colors[low + 1], position - low)


def _hair_and_eye_color(random: np.random.Generator, tone: float, age: float) -> tuple[Color, Color]:
    fair = random.random() < np.clip(0.85 - 0.33 * tone, 0.02, 0.8)
    hairs, irises = (FAIR_HAIR, FAIR_EYES) if fair else (DARK_HAIR, DARK_EYES)
    hair = hairs[int(random.integers(len(hairs)))]
    gray = float(np.clip((age - 42 + random.normal(0, 8)) / 28, 0, 0.95))
    return mix_colors(hair, GRAY_HAIR, gray), irises[int(random.integers(len(irises)))]


def _face_shape(random: np.random.Generator, age: float, softness: float) -> FaceShape:
    values = np.clip(random.normal(0, 0.45, len(FaceShape.__dataclass_fields__)), -1, 1)
    shape = dict(zip(FaceShape.__dataclass_fields__, map(float, values), strict=True))
    heavy = 0.5 - softness
    shape["jaw"] += 0.7 * heavy
    shape["chin"] += 0.5 * heavy
    shape["neck"] += 1.0 * heavy
    shape["shoulders"] += 1.0 * heavy
    shape["upper_lip"] -= 0.6 * heavy
    shape["lower_lip"] -= 0.5 * heavy
    shape["brow_height"] -= 0.5 * heavy
    shape["nose_width"] += 0.4 * heavy
    shape["eye_size"] -= 0.4 * heavy
    if age > 55:
        shape["upper_lip"] -= 0.4
        shape["lid_fold"] += 0.4
    return FaceShape(**{name: float(np.clip(value, -1.2, 1.2)) for name, value in shape.items()})


def _voice(random: np.random.Generator, age: float, softness: float) -> Voice:
    variants = ("f1", "f2", "f3", "f4", "f5") if softness > 0.5 else ("m1", "m3", "m4", "m6", "m7", "m8")
    accent = str(random.choice(["en-us", "en-gb-x-rp", "en-gb-scotland", "en"], p=[0.5, 0.2, 0.1, 0.2]))
    pitch = random.uniform(38, 62) + 22 * (age < 15) - 5 * (age > 60)
    rate = random.uniform(135, 185) - 12 * (age > 65)
    return Voice(
        f"{accent}+{random.choice(variants)}", int(rate), int(np.clip(pitch, 20, 90)), int(random.uniform(40, 75))
    )
