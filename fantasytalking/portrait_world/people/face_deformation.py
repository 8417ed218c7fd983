"""Deformation of the resting face by an expression: lids, brows, lips, jaw and cheeks, in head coordinates."""

import numpy as np

from fantasytalking.portrait_world.graphics.mesh import gaussian_bump, smoothstep
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray
from fantasytalking.portrait_world.motion.frame_state import FaceState
from fantasytalking.portrait_world.people.head_mesh import EYE_RING, MOUTH_RING, HeadMesh

# The gap between the inner lips at mouth_open = 1, in distances between the eyes.
MAX_LIP_GAP = 0.50
UPPER_LIP_FRACTION = 0.20
JAW_FRACTION = 0.66
LID_THICKNESS = 0.014


class FaceRig:
    """Deformation weights per vertex of a head, computed once for all expressions."""

    def __init__(self, head: HeadMesh) -> None:
        self.head = head
        f = head.features
        x, y = head.points[:, 0], head.points[:, 1]
        facing = smoothstep(1.5, 1.0, np.abs(head.angle)) * smoothstep(12.6, 11.4, head.ring)
        _, middle_sheet, lower_sheet = head.grids
        index = np.arange(len(x))
        self.above_eyes = index < middle_sheet.start
        self.between_eyes_and_mouth = (index >= middle_sheet.start) & (index < lower_sheet.start)
        below = index >= lower_sheet.start

        # Lids: the shift from closed to open, fading over the skin above and below.
        upper, closing, lower = f.lid_line(x)
        near_eye = facing * (np.abs(head.ring - EYE_RING) < 0.98)
        above, under = np.maximum(y - closing, 0), np.maximum(closing - y, 0)
        self.lid_up = (upper - closing) * smoothstep(0.185, 0.012, above) * self.above_eyes * near_eye
        self.lid_down = (lower - closing) * smoothstep(0.13, 0.0, under) * self.between_eyes_and_mouth * near_eye
        self.lower_lid = (closing - lower) * smoothstep(0.16, 0.0, under) * self.between_eyes_and_mouth * near_eye
        self.lid_region = near_eye * smoothstep(0.9, 0.55, np.abs(head.ring - EYE_RING))

        # Lips and jaw, per unit of the gap.
        along = np.clip(np.abs(x) / f.mouth_half_width, 0, 1)
        self.slit = (1 - along**2) ** 0.72
        _, line, _ = f.lip_borders(x)
        over, beneath = np.maximum(y - line, 0), np.maximum(line - y, 0)
        near_mouth = facing * (np.abs(head.ring - MOUTH_RING) < 3)
        self.lip_up = (
            UPPER_LIP_FRACTION * self.slit * smoothstep(0.20, 0.04, over) * self.between_eyes_and_mouth * near_mouth
        )
        lip = smoothstep(0.30, 0.08, beneath)
        jaw = JAW_FRACTION * np.exp(-((x / 0.52) ** 4)) * smoothstep(1.45, 0.7, np.abs(head.angle))
        neck_fade = smoothstep(13.2, 11.2, head.ring)
        self.jaw = below * (1 - smoothstep(0.22, 0.0, beneath)) * jaw * neck_fade
        self.lip_down = (
            below
            * near_mouth
            * (1 - UPPER_LIP_FRACTION - JAW_FRACTION * (1 - smoothstep(0.22, 0.0, beneath)))
            * (self.slit * lip)
        )
        self.around_mouth = facing * np.exp(-((np.abs(x) / 0.42) ** 4) - ((y - f.mouth_y) / 0.24) ** 2)
        self.lips = facing * np.exp(-((x / (1.05 * f.mouth_half_width)) ** 4) - ((y - f.mouth_y) / 0.11) ** 2)
        self.lower_lip = self.lips * below
        self.corners = facing * gaussian_bump(np.abs(x), y, (f.mouth_half_width + 0.01, f.mouth_y), (0.13, 0.13))
        self.cheeks = facing * gaussian_bump(np.abs(x), y, (0.39, -0.34), (0.19, 0.17))
        # The skin at the eyes' line belongs to both sheets and must stay where it is.
        clear_of_lids = self.above_eyes * smoothstep(0.0, 0.10, above)
        self.brows = facing * gaussian_bump(np.abs(x), y, (0.28, f.brow_y + 0.02), (0.32, 0.15)) * clear_of_lids
        self.inner_brows = facing * gaussian_bump(np.abs(x), y, (0.09, f.brow_y), (0.13, 0.11)) * clear_of_lids
        self.outward = np.tanh(x / 0.1)
        upper_seam = middle_sheet.start + (middle_sheet.rows - 1) * middle_sheet.columns
        self.middle_upper = self._nearest_on_seam(upper_seam, 0.0)
        self.middle_lower = self._nearest_on_seam(lower_sheet.start, 0.0)
        self.left_corner = self._nearest_on_seam(upper_seam, -f.mouth_half_width)
        self.right_corner = self._nearest_on_seam(upper_seam, f.mouth_half_width)

    def _nearest_on_seam(self, start: int, x: float) -> int:
        row = slice(start, start + self.head.grids[0].columns)
        distance = np.abs(self.head.points[row, 0] - x) + 9 * (np.abs(self.head.angle[row]) > 1.3)
        return start + int(np.argmin(distance))

    def lip_gap(self, mouth_open: float) -> float:
        """Returns the gap between the inner lips in units for `mouth_open`."""
        return mouth_open * MAX_LIP_GAP * self.head.features.interocular

    def deform(self, state: FaceState) -> FloatArray:
        """Returns the vertices (V, 3) of the head with this expression, head and shoulders at rest."""
        points = self.head.points.copy()
        x, y, z = points[:, 0], points[:, 1], points[:, 2]
        gap = self.lip_gap(state.mouth_open)
        spread, rounded = max(state.mouth_width, 0.0), max(-state.mouth_width, 0.0)

        lids = (1 - state.blink) * (1 + 0.10 * max(state.brow, 0) - 0.45 * state.squint - 0.12 * state.smile)
        gaze = 0.16 * state.gaze_y * (1 - state.blink)
        y += self.lid_up * (lids + gaze) + self.lid_down * lids
        y += self.lower_lid * (1 - state.blink) * (0.35 * state.smile + 0.5 * state.squint)

        drop = self.jaw * gap
        y += self.lip_up * gap - self.lip_down * gap - drop
        z -= 0.30 * drop
        x += self.around_mouth * x * (0.22 * spread - 0.30 * rounded)
        z += self.lips * (0.060 * rounded - 0.018 * spread - 0.016 * state.lip_press)
        y += self.lower_lip * (0.010 * state.lip_press + 0.014 * state.lip_tuck)
        z -= self.lower_lip * 0.035 * state.lip_tuck

        x += self.corners * self.outward * 0.062 * state.smile
        y += self.corners * 0.078 * state.smile + self.cheeks * 0.036 * state.smile
        z += self.cheeks * 0.034 * state.smile - self.corners * 0.014 * state.smile

        y += self.brows * 0.115 * state.brow - self.inner_brows * 0.050 * state.frown
        x -= self.inner_brows * self.outward * 0.028 * state.frown
        z += self.inner_brows * 0.012 * state.frown
        self._lift_lids_over_eyeballs(points)
        return points

    def mouth_width(self, points: FloatArray) -> float:
        """Returns the distance between the mouth's corners relative to that between the eyes."""
        return float((points[self.right_corner, 0] - points[self.left_corner, 0]) / self.head.features.interocular)

    def mouth_opening(self, points: FloatArray) -> float:
        """Returns `mouth_open` as measured on vertices."""
        gap = points[self.middle_upper, 1] - points[self.middle_lower, 1]
        return float(gap / (MAX_LIP_GAP * self.head.features.interocular))

    def _lift_lids_over_eyeballs(self, points: FloatArray) -> None:
        """Moves lids that would intersect the eyeball onto its surface."""
        for center in self.head.eye_centers:
            radius = self.head.features.eyeball + LID_THICKNESS
            near = np.flatnonzero((self.lid_region > 0) & (points[:, 0] * center[0] > 0))
            distance = (points[near, 0] - center[0]) ** 2 + (points[near, 1] - center[1]) ** 2
            ball = center[2] + np.sqrt(np.maximum(radius**2 - distance, 0))
            z = points[near, 2]
            lifted = 0.5 * (z + ball + np.sqrt((z - ball) ** 2 + 0.022**2))
            points[near, 2] = z + (lifted - z) * self.lid_region[near] * (distance < radius**2)
