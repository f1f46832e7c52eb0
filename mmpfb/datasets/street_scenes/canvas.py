"""A picture under construction, its labels and its depths, and the camera that looks at it."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

VOID = 255
_SUBPIXEL_BITS = 4
_SKY_DEPTH = 1e4
_ANGLES = np.linspace(0.0, 2.0 * np.pi, 20, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Camera:
    """A level pinhole camera above the ground plane.

    Attributes:
        focal: Focal length in pixels.
        height: Height above the ground in metres.
        horizon: Row of the horizon in pixels.
        vanishing_x: Column of the vanishing point of the street in pixels.
        side: Sideways position in metres, positive to the right of the road's middle.
    """

    focal: float
    height: float
    horizon: float
    vanishing_x: float
    side: float

    def project(self, points: list[tuple[float, float, float]]) -> np.ndarray:
        """Project points of the street to the image.

        Args:
            points: Triples (right, up, ahead) in metres; ahead must be positive.

        Returns:
            Array of shape ``(N, 2)`` with column and row in pixels.
        """
        projected = []
        for right, up, ahead in points:
            scale = self.focal / ahead
            projected.append(
                (
                    self.vanishing_x + (right - self.side) * scale,
                    self.horizon + (self.height - up) * scale,
                )
            )
        return np.array(projected, dtype=np.float64)

    def ground_depth(self, width: int, height: int) -> np.ndarray:
        """Distance of the ground seen in each pixel, shape ``(H, W)``, in metres."""
        below = np.maximum(np.arange(height) - self.horizon, 1e-2)
        return np.repeat((self.focal * self.height / below)[:, None], width, axis=1)

    def wall_depth(self, width: int, height: int, right: float) -> np.ndarray:
        """Distance of a wall along the street at ``right`` metres, shape ``(H, W)``, in metres."""
        beside = np.maximum(np.abs(np.arange(width) - self.vanishing_x), 1e-2)
        return np.repeat((self.focal * abs(right - self.side) / beside)[None, :], height, axis=0)


class Canvas:
    """Colours, labels, depths and emitted light of one scene, painted from far to near.

    Every opaque stroke sets all four for the same pixels, hence labels can never be off by a
    pixel. Strokes without a label (shadows, reflections) change colours alone.

    Args:
        width: Width in pixels.
        height: Height in pixels.
        luminous: Whether to record emitted light; False saves time in daylight.

    Attributes:
        image: Colours in [0, 1], shape ``(H, W, 3)``.
        emission: Light that objects send out themselves, shape ``(H, W, 3)``.
        labels: Class ids, shape ``(H, W)``.
        depth: Distance in metres, shape ``(H, W)``.
    """

    def __init__(self, width: int, height: int, luminous: bool = True) -> None:
        self.luminous = luminous
        self.width = width
        self.height = height
        self.image = np.zeros((height, width, 3), dtype=np.float32)
        self.emission = np.zeros((height, width, 3), dtype=np.float32)
        self.labels = np.full((height, width), VOID, dtype=np.uint8)
        self.depth = np.full((height, width), _SKY_DEPTH, dtype=np.float32)

    def polygon(
        self,
        points: np.ndarray,
        colour: Colour,
        label: int | None = None,
        depth: float | np.ndarray | None = None,
        opacity: float = 1.0,
        emission: Colour | None = None,
    ) -> None:
        """Fill a polygon.

        Args:
            points: Corners as column and row, shape ``(N, 2)``.
            colour: Red, green and blue in [0, 1].
            label: Class id of the pixels; None leaves labels, depths and emission as they are.
            depth: Distance in metres, one number or an array of shape ``(H, W)``; None leaves it
                as it is, for details on a surface that is already there.
            opacity: 1 covers what was there, 0 leaves it.
            emission: Light sent out by the pixels; None for none.
        """
        columns, rows = points.T.tolist()
        left, right, top, bottom = min(columns), max(columns), min(rows), max(rows)
        if right < -1 or bottom < -1 or left > self.width or top > self.height:
            return
        corners = [np.rint(points * (1 << _SUBPIXEL_BITS)).astype(np.int32)]
        self._fill(self.image, corners, colour, opacity)
        if label is None:
            return
        self._fill(self.labels, corners, label)
        if self.luminous:
            light = (0.0, 0.0, 0.0) if emission is None else emission
            self._fill(self.emission, corners, light)
        if depth is not None:
            self._fill(self.depth, corners, depth)

    @staticmethod
    def _fill(
        target: np.ndarray,
        corners: list[np.ndarray],
        value: Colour | float | np.ndarray,
        opacity: float = 1.0,
    ) -> None:
        # The same rasteriser for every array and every kind of value: the same pixels.
        if opacity == 1.0 and not isinstance(value, np.ndarray):
            cv2.fillPoly(target, corners, value, lineType=cv2.LINE_8, shift=_SUBPIXEL_BITS)
            return
        # One pixel more on each side, since the outline belongs to the polygon.
        first = np.maximum((corners[0].min(axis=0) >> _SUBPIXEL_BITS) - 1, 0)
        last = np.maximum((corners[0].max(axis=0) >> _SUBPIXEL_BITS) + 3, 0)
        window = (slice(first[1], last[1]), slice(first[0], last[0]))
        region = target[window]
        if region.size == 0:
            return
        mask = np.zeros(region.shape[:2], dtype=np.uint8)
        moved = [corners[0] - (first << _SUBPIXEL_BITS).astype(np.int32)]
        cv2.fillPoly(mask, moved, 1, lineType=cv2.LINE_8, shift=_SUBPIXEL_BITS)
        selected = mask.astype(bool)
        if isinstance(value, np.ndarray):
            region[selected] = value[window][selected]
        else:
            blend = opacity * np.asarray(value, dtype=np.float32)
            region[selected] = blend + (1.0 - opacity) * region[selected]

    def ellipse(
        self,
        centre: tuple[float, float] | np.ndarray,
        radii: tuple[float, float],
        colour: Colour,
        *args,
        **kwargs,
    ) -> None:
        """Fill an ellipse with upright axes; further arguments as in :meth:`polygon`."""
        self.polygon(_CIRCLE * radii + centre, colour, *args, **kwargs)

    def line(
        self,
        start: tuple[float, float] | np.ndarray,
        end: tuple[float, float] | np.ndarray,
        thickness: float,
        colour: Colour,
        *args,
        **kwargs,
    ) -> None:
        """Draw a straight bar; further arguments as in :meth:`polygon`."""
        (x1, y1), (x2, y2) = start, end
        length = max(math.hypot(x2 - x1, y2 - y1), 1e-6)
        # A polygon covers its outline too, which is one pixel more than its width.
        half = max(thickness - 1.0, 0.0) / 2 / length
        dx, dy = (y1 - y2) * half, (x2 - x1) * half
        points = np.array(
            [(x1 + dx, y1 + dy), (x2 + dx, y2 + dy), (x2 - dx, y2 - dy), (x1 - dx, y1 - dy)]
        )
        self.polygon(points, colour, *args, **kwargs)
