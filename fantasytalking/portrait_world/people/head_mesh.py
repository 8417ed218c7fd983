"""Mesh of head, neck and shoulders at rest, lofted from rings, with slits for the eyes and the mouth.

Coordinates: 1 unit is about 10 cm; x to the right of the image, y up, z toward the camera; the origin is between the
eyes' height and the head's center. Rings run from the crown (t = 0) over eyes (t = 6) and mouth (t = 9) to the chest.
At rest eyes and mouth are closed; `face_deformation.py` opens them.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from fantasytalking.portrait_world.graphics.mesh import Grid, gaussian_bump, smoothstep
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray
from fantasytalking.portrait_world.people.identity import Identity

EYE_RING, MOUTH_RING, NECK_RING, CHEST_RING = 6.0, 9.0, 13.0, 15.5

# t, then front y and z, half width, side y and z, back y and z.
RINGS = (
    (0.0, 1.090, -0.080, 0.010, 1.090, -0.100, 1.090, -0.120),
    (0.5, 1.078, 0.130, 0.185, 1.072, -0.100, 1.065, -0.330),
    (1.0, 1.040, 0.330, 0.345, 1.025, -0.100, 0.980, -0.560),
    (2.0, 0.900, 0.610, 0.555, 0.860, -0.090, 0.760, -0.840),
    (3.0, 0.690, 0.805, 0.675, 0.640, -0.080, 0.480, -0.970),
    (4.0, 0.440, 0.905, 0.722, 0.400, -0.070, 0.220, -0.990),
    (5.0, 0.220, 0.930, 0.722, 0.190, -0.060, 0.000, -0.950),
    (6.0, -0.020, 0.885, 0.705, -0.010, -0.050, -0.220, -0.870),
    (7.0, -0.220, 0.880, 0.685, -0.180, -0.040, -0.400, -0.770),
    (8.0, -0.470, 0.880, 0.645, -0.370, -0.040, -0.560, -0.680),
    (9.0, -0.690, 0.870, 0.598, -0.540, -0.050, -0.700, -0.630),
    (10.0, -0.960, 0.840, 0.535, -0.720, -0.060, -0.820, -0.600),
    (11.0, -1.110, 0.720, 0.455, -0.830, -0.090, -0.920, -0.590),
    (12.0, -1.130, 0.480, 0.405, -0.950, -0.120, -1.000, -0.590),
    (13.0, -1.220, 0.250, 0.385, -1.120, -0.150, -1.120, -0.580),
    (14.0, -1.480, 0.170, 0.400, -1.380, -0.180, -1.260, -0.600),
    (15.0, -1.720, 0.200, 0.520, -1.520, -0.200, -1.360, -0.640),
    (16.0, -1.900, 0.330, 0.980, -1.640, -0.190, -1.460, -0.640),
    (17.0, -2.100, 0.480, 1.560, -1.840, -0.140, -1.600, -0.620),
    (18.0, -2.450, 0.600, 1.900, -2.300, -0.080, -2.100, -0.600),
    (19.0, -3.100, 0.700, 2.000, -3.000, -0.050, -3.000, -0.600),
)
TOP_ROWS = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 2.75, 3, 3.25, 3.5, 3.75, 4, 4.2, 4.4, 4.6, 4.8, 4.95)
BROW_ROWS = (5.08, 5.2, 5.32, 5.43, 5.53, 5.62, 5.7, 5.77, 5.83, 5.88, 5.92, 5.96, 6.0)
CHEEK_ROWS = (
    6.0,
    6.05,
    6.1,
    6.16,
    6.23,
    6.32,
    6.43,
    6.56,
    6.72,
    6.9,
    7.1,
    7.3,
    7.48,
    7.62,
    7.73,
    7.82,
    7.9,
    7.97,
    8.04,
)
LIP_ROWS = (8.12, 8.22, 8.33, 8.44, 8.54, 8.62, 8.69, 8.76, 8.82, 8.88, 8.93, 8.97, 9.0)
CHIN_ROWS = (
    9.0,
    9.03,
    9.07,
    9.12,
    9.17,
    9.23,
    9.29,
    9.36,
    9.44,
    9.54,
    9.66,
    9.8,
    9.95,
    10.1,
    10.3,
    10.5,
    10.7,
    10.85,
    11,
)
NECK_ROWS = (11.2, 11.5, 11.8, 12.1, 12.5, *np.arange(12.8, 17.5, 0.2).round(1), 17.8, 18.2, 18.6, 19)
PATCH_ROWS = (TOP_ROWS + BROW_ROWS, CHEEK_ROWS + LIP_ROWS, CHIN_ROWS + NECK_ROWS)


def column_angles() -> NDArray[np.float64]:
    """Returns the angles of the columns around the vertical axis, -pi to pi, 0 in front, dense on the face."""
    half = np.concatenate([np.arange(0, 0.84, 0.042), np.linspace(0.9, 1.62, 9), np.linspace(1.85, np.pi, 6)])
    return np.concatenate([-half[:0:-1], half])


@dataclass(frozen=True)
class FaceFeatures:
    """Positions and sizes of facial features in units; those of one side are mirrored."""

    eye_x: float
    eye_y: float
    eye_half_width: float
    eye_up: float
    eye_down: float
    eye_tilt: float
    eyeball: float
    brow_y: float
    nose_y: float
    mouth_y: float
    mouth_half_width: float
    upper_lip: float
    lower_lip: float

    @property
    def interocular(self) -> float:
        return 2 * self.eye_x

    def lid_line(self, x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Returns y of upper lid, closing line and lower lid at x for the eye on that side; equal beside the eye."""
        along = (np.abs(x) - self.eye_x) / self.eye_half_width
        inside = np.clip(1 - along**2, 0, 1)
        # The highest point of the upper lid lies toward the nose, the lowest of the lower lid toward the temple.
        upper = self.eye_up * inside**0.75 * (1 - 0.18 * along)
        lower = -self.eye_down * inside**0.85 * (1 + 0.2 * along)
        base = self.eye_y + self.eye_tilt * np.clip(along, -1.4, 1.4)
        return base + upper, base + 0.75 * lower, base + lower

    def lip_borders(self, x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Returns y of the top of the upper lip, the closing line and the bottom of the lower lip at x."""
        along = np.clip(np.abs(x) / self.mouth_half_width, 0, 1)
        line = self.mouth_y + 0.040 * along**2 - 0.010 * np.exp(-((along / 0.28) ** 2)) + 0.006
        bow = 1 - 0.16 * np.exp(-((along / 0.13) ** 2))
        top = line + self.upper_lip * bow * (1 - along**1.8) ** 0.9
        bottom = line - self.lower_lip * (1 - along**2.4) ** 0.8
        return top, line, bottom


def face_features(identity: Identity) -> FaceFeatures:
    """Returns the features of a face shape and an age."""
    shape, child = identity.shape, identity.childlikeness
    eye_size = 1 + 0.10 * shape.eye_size + 0.13 * child
    return FaceFeatures(
        eye_x=0.315 * (1 + 0.06 * shape.eye_spacing + 0.05 * shape.width),
        eye_y=-0.005 + 0.02 * shape.eye_height - 0.05 * child,
        eye_half_width=0.158 * eye_size,
        eye_up=0.058 * eye_size * (1 + 0.14 * shape.eye_size),
        eye_down=0.047 * eye_size,
        eye_tilt=0.010 + 0.016 * shape.eye_tilt,
        eyeball=0.138 * (1 + 0.05 * shape.eye_size + 0.05 * child),
        brow_y=0.205 + 0.035 * shape.brow_height + 0.02 * child,
        nose_y=-0.455 - 0.05 * shape.nose_length + 0.08 * child,
        mouth_y=-0.700 - 0.02 * shape.nose_length + 0.03 * shape.mouth_height + 0.075 * child,
        mouth_half_width=0.262 * (1 + 0.11 * shape.mouth_width - 0.07 * child),
        upper_lip=0.078 * (1 + 0.32 * shape.upper_lip),
        lower_lip=0.104 * (1 + 0.28 * shape.lower_lip),
    )


@dataclass(frozen=True)
class HeadMesh:
    """Resting `points` (V, 3) in three patches that meet at the eye line and at the mouth line.

    `ring` and `angle` (V,) are every vertex's position on the loft, `head_weight` (V,) its weight of the head's motion
    (1 on the head, 0 on the shoulders).
    """

    features: FaceFeatures
    points: FloatArray
    ring: FloatArray
    angle: FloatArray
    head_weight: FloatArray
    grids: tuple[Grid, Grid, Grid]

    @cached_property
    def eye_centers(self) -> FloatArray:
        """Centers (2, 3) of the eyeballs on the left and the right of the image."""
        f = self.features
        depth = f.eyeball - 0.012
        sides = []
        for side in (-1, 1):
            sides.append((side * f.eye_x, f.eye_y, self.surface_depth(side * f.eye_x, f.eye_y) - depth))
        return np.array(sides, np.float32)

    def surface_depth(self, x: float, y: float) -> float:
        """Returns z of the resting front surface near (x, y)."""
        front = (np.abs(self.angle) < 1.3) & (self.ring < 11)
        distance = (self.points[:, 0] - x) ** 2 + (self.points[:, 1] - y) ** 2
        weight = np.exp(-distance / 0.02**2) * front + 1e-12 * front
        return float((weight * self.points[:, 2]).sum() / weight.sum())


def make_head_mesh(identity: Identity) -> HeadMesh:
    """Returns the resting head of an identity."""
    angles = column_angles()
    grids, points, rings = [], [], []
    start = 0
    for rows in PATCH_ROWS:
        grids.append(Grid(start, len(rows), len(angles)))
        points.append(_loft(identity, np.array(rows), angles).reshape(-1, 3))
        rings.append(np.repeat(np.array(rows, np.float32), len(angles)))
        start += grids[-1].size
    ring = np.concatenate(rings)
    angle = np.tile(angles.astype(np.float32), sum(grid.rows for grid in grids))
    features = face_features(identity)
    resting = _add_features(identity, features, np.concatenate(points), ring, angle)
    carried = smoothstep(CHEST_RING, 12.3, ring)
    return HeadMesh(
        features, resting.astype(np.float32), ring, angle, carried.astype(np.float32), (grids[0], grids[1], grids[2])
    )


def _loft(identity: Identity, rows: NDArray[np.float64], angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns points (rows, columns, 3) of the bare head without features."""
    table = np.array(RINGS)
    ring = table[:, 0]
    front_y, front_z, width, side_y, side_z, back_y, back_z = PchipInterpolator(
        ring, _scale_rings(identity, table)[:, 1:]
    )(rows).T
    sine, cosine = np.sin(angles)[None], np.cos(angles)[None]
    ahead = cosine > 0
    # Faces are flatter in front than an ellipse.
    flat = np.interp(rows, [0, 3, 5, 9, 11, 13, 19], [1, 0.92, 0.88, 0.92, 1.0, 1, 1])[:, None]
    x = width[:, None] * np.sign(sine) * np.abs(sine) ** np.interp(rows, [0, 12, 16, 19], [1, 1, 0.9, 0.8])[:, None]
    end_z = np.where(ahead, front_z[:, None], back_z[:, None])
    end_y = np.where(ahead, front_y[:, None], back_y[:, None])
    z = side_z[:, None] + (end_z - side_z[:, None]) * np.abs(cosine) ** np.where(ahead, flat, 1)
    bend = np.interp(rows, [0, 9, 10, 11.5, 13, 19], [2, 2, 2.0, 2.2, 2, 2])[:, None]
    y = side_y[:, None] + (end_y - side_y[:, None]) * np.abs(cosine) ** bend
    return np.stack([x, y, z], -1)


def _scale_rings(identity: Identity, table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the table of rings for the person's proportions."""
    shape, child = identity.shape, identity.childlikeness
    table = table.copy()
    ring = table[:, 0]

    def near(center: float, spread: float) -> NDArray[np.float64]:
        return np.exp(-(((ring - center) / spread) ** 2))

    head = ring < 12.5
    full = 0.055 * shape.fullness
    scale = 1 + 0.05 * shape.width * head
    scale += (0.10 * shape.jaw + full - 0.10 * child) * near(10, 1.3) + (0.05 * shape.cheekbones + 0.6 * full) * near(
        7.5, 1.5
    )
    scale += 0.04 * shape.forehead * near(3.5, 1.6) + 0.04 * child * near(3, 2.5) + 0.04 * child * near(8, 1.3)
    scale += (0.12 * shape.neck - 0.13 * child + 0.5 * full) * near(13.8, 1.4)
    scale += (0.10 * shape.shoulders - 0.22 * child) * smoothstep(15.0, 17.0, ring)
    table[:, 3] *= scale
    longer = 0.05 * shape.length * smoothstep(6.0, 11.0, ring) - 0.02 * shape.length * smoothstep(5, 2, ring)
    shorter_face = 0.14 * child * smoothstep(7.0, 11.0, ring)
    taller_skull = 0.03 * child * smoothstep(4, 1, ring)
    for column in (1, 4, 6):
        table[:, column] += -longer * 1.2 + shorter_face + taller_skull
    table[:, 1] -= (0.045 * shape.chin) * near(11, 1.0)
    table[:, 2] += (
        0.05 * shape.chin * near(10.5, 1.0) + 0.03 * shape.forehead * near(3.5, 1.2) - 0.02 * child * near(10.5, 1)
    )
    return table


def _add_features(
    identity: Identity, f: FaceFeatures, points: NDArray[np.float64], ring: FloatArray, angle: FloatArray
) -> NDArray[np.float64]:
    """Adds nose, eye sockets, lips and other features, and moves the seams to the closing lines of lids and lips."""
    points = points.copy()
    facing = (smoothstep(1.35, 0.9, np.abs(angle)) * smoothstep(12.5, 11.0, ring)).astype(np.float64)
    # Move the rings so that the seam rows lie on the closing lines.
    x = points[:, 0]
    _, closing, _ = f.lid_line(x)
    near_eyes = facing * np.exp(-(((ring - EYE_RING) / 0.75) ** 2))
    seam_y = _seam_height(points, ring, angle, EYE_RING)
    beside = smoothstep(2.6, 1.3, np.abs(np.abs(x) - f.eye_x) / f.eye_half_width)
    points[:, 1] += near_eyes * beside * (closing - seam_y)
    _, line, _ = f.lip_borders(x)
    near_mouth = facing * np.exp(-(((ring - MOUTH_RING) / 0.9) ** 2))
    seam_y = _seam_height(points, ring, angle, MOUTH_RING)
    beside = smoothstep(2.2, 1.0, np.abs(x) / f.mouth_half_width)
    points[:, 1] += near_mouth * beside * (line - seam_y)
    points[:, 2] += facing * feature_relief(identity, f, points[:, 0], points[:, 1])
    return points


def _seam_height(points: NDArray[np.float64], ring: FloatArray, angle: FloatArray, row: float) -> NDArray[np.float64]:
    """Returns y of the row `row` at every vertex's column."""
    on_row = np.flatnonzero(ring == row)
    order = on_row[np.argsort(angle[on_row], kind="stable")]
    return np.interp(angle, angle[order], points[order, 1])


def feature_relief(identity: Identity, f: FaceFeatures, x: FloatArray, y: FloatArray) -> FloatArray:
    """Returns the height of the features over the bare loft at frontal (x, y)."""
    shape, child = identity.shape, identity.childlikeness
    side = np.abs(x)
    z = _nose(identity, f, x, y)
    # Eye sockets, brow ridge, cheeks.
    z = z - 0.085 * gaussian_bump(side, y, (f.eye_x - 0.03, f.eye_y + 0.03), (0.19, 0.115))
    z = z - 0.055 * gaussian_bump(side, y, (f.eye_x - 0.19, f.eye_y + 0.01), (0.06, 0.09))
    z = z + (0.030 - 0.025 * identity.softness) * gaussian_bump(side, y, (0.26, f.brow_y - 0.02), (0.24, 0.07))
    z = z + (0.035 + 0.02 * shape.cheekbones + 0.02 * child) * gaussian_bump(side, y, (0.43, -0.26), (0.18, 0.15))
    z = z + 0.03 * max(shape.fullness + child, -0.5) * gaussian_bump(side, y, (0.38, -0.55), (0.2, 0.2))
    # Muzzle, philtrum, lips, chin.
    mouth = f.mouth_y
    z = z + 0.050 * gaussian_bump(x, y, (0.0, mouth + 0.03), (0.30, 0.22))
    z = z - 0.016 * gaussian_bump(x, y, (0.0, mouth + 0.15), (0.035, 0.06))
    z = z - 0.045 * gaussian_bump(x, y, (0.0, mouth - 0.185), (0.20, 0.055))
    z = z + (0.055 + 0.02 * shape.chin) * gaussian_bump(x, y, (0.0, mouth - 0.335), (0.20, 0.12))
    z = z + _lips(f, x, y)
    # Fold from the nose to the corner of the mouth.
    fold = np.abs(side - (0.185 + 0.62 * np.clip(f.nose_y + 0.06 - y, 0, 0.4)))
    depth = 0.008 + 0.026 * identity.wrinkles
    return z - depth * np.exp(-((fold / 0.035) ** 2) - ((y - f.nose_y + 0.1) / 0.16) ** 2)


def _nose(identity: Identity, f: FaceFeatures, x: FloatArray, y: FloatArray) -> FloatArray:
    shape = identity.shape
    base, bridge = f.nose_y, f.eye_y + 0.05
    length = bridge - base
    down = (bridge - y) / length  # 0 at the bridge, 1 at the base
    size = 1 + 0.22 * shape.nose_depth - 0.18 * identity.childlikeness
    stops = [-0.45, -0.1, 0.1, 0.4, 0.65, 0.75, 0.82, 0.89, 0.96, 1.03, 1.13]
    bridge_height = 0.045 + 0.02 * shape.nose_depth
    heights = [0, 0.5 * bridge_height, bridge_height, 0.105, 0.182, 0.205, 0.195, 0.165, 0.105, 0.045, 0]
    ridge = PchipInterpolator(stops, heights, extrapolate=False)(np.clip(down, -0.45, 1.13)) * size
    broad = 1 + 0.22 * shape.nose_width
    half_width = broad * np.interp(down, [-0.3, 0.1, 0.5, 0.85, 1.05], [0.10, 0.078, 0.088, 0.115, 0.11])
    z = ridge * (0.66 * np.exp(-(np.abs(x / half_width) ** 2.1)) + 0.34 * np.exp(-((x / (1.75 * half_width)) ** 2)))
    tip = (0.028 + 0.012 * shape.nose_tip) * gaussian_bump(x, y, (0.0, base + 0.085), (0.082 * broad, 0.072))
    wings = 0.088 * size * gaussian_bump(np.abs(x), y, (0.122 * broad, base + 0.070), (0.064, 0.060))
    return z + tip + wings


def _lips(f: FaceFeatures, x: FloatArray, y: FloatArray) -> FloatArray:
    top, line, bottom = f.lip_borders(x)
    full = np.clip(1 - (np.abs(x) / (1.08 * f.mouth_half_width)) ** 2.2, 0, 1)
    up = (y - line) / np.maximum(top - line, 0.02)
    down = (line - y) / np.maximum(line - bottom, 0.02)
    upper = np.where(y >= line, np.clip(up, 0, 1.35), 0)
    lower = np.where(y < line, np.clip(down, 0, 1.35), 0)
    # A rounded cushion over each lip, lowest at the seam and at the borders.
    upper_height = 0.045 * np.sin(np.pi * np.clip(0.22 + 0.72 * upper, 0, 1)) * (y >= line)
    lower_height = 0.055 * np.sin(np.pi * np.clip(0.20 + 0.72 * lower, 0, 1)) * (y < line)
    return full * (upper_height + lower_height) * smoothstep(1.35, 0.95, upper + lower)
