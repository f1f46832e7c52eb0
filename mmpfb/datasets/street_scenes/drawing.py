"""Street scenes drawn from geometry: every image with exact labels, from a random generator."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from mmpfb.datasets.street_scenes.canvas import VOID, Camera, Canvas, Colour

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)

#: Share of each condition. Two are common, the others form the long tail.
CONDITION_SHARES = {
    'clear': 0.70,
    'overcast': 0.17,
    'dusk': 0.025,
    'night': 0.025,
    'fog': 0.02,
    'rain': 0.02,
    'snow': 0.015,
    'crowd': 0.015,
    'roadworks': 0.01,
}

_MIN_SIDE = 32
_RING = [(math.cos(angle), math.sin(angle)) for angle in np.linspace(0, 2 * math.pi, 15)[:-1]]
_GOLDEN_RATIO = 0.6180339887498949

# How strongly the surface of a class varies, as a multiple of its colour.
_FINE_TEXTURE = {SKY: 0.0, BUILDING: 0.05, ROAD: 0.07, PAVEMENT: 0.06, TREE: 0.26, FENCE: 0.06}
_COARSE_TEXTURE = {SKY: 0.0, BUILDING: 0.07, ROAD: 0.09, PAVEMENT: 0.08, TREE: 0.30, FENCE: 0.05}
_DEFAULT_TEXTURE = 0.03

_WALL_COLOURS = (
    (0.55, 0.33, 0.26),
    (0.62, 0.45, 0.34),
    (0.74, 0.66, 0.52),
    (0.80, 0.76, 0.68),
    (0.52, 0.52, 0.54),
    (0.45, 0.38, 0.33),
    (0.68, 0.58, 0.56),
)
_CAR_COLOURS = (
    (0.72, 0.08, 0.08),
    (0.10, 0.18, 0.50),
    (0.75, 0.76, 0.78),
    (0.12, 0.12, 0.14),
    (0.85, 0.86, 0.84),
    (0.10, 0.35, 0.20),
    (0.80, 0.62, 0.12),
    (0.40, 0.44, 0.50),
)
_CLOTHES_COLOURS = (
    (0.15, 0.16, 0.25),
    (0.60, 0.12, 0.14),
    (0.18, 0.35, 0.60),
    (0.80, 0.78, 0.72),
    (0.12, 0.12, 0.12),
    (0.70, 0.55, 0.15),
    (0.25, 0.45, 0.28),
    (0.65, 0.35, 0.55),
)
_SKIN_COLOURS = ((0.85, 0.66, 0.54), (0.72, 0.52, 0.38), (0.45, 0.30, 0.22))


def condition_of(offset: float, index: int) -> str:
    """Condition of one scene of a series, so that shares hold for any length of the series.

    Successive multiples of the golden ratio spread evenly over [0, 1), where independent draws
    would leave a rare condition out of a small set by chance.

    Args:
        offset: Start of the series in [0, 1).
        index: Place in the series.

    Returns:
        A key of :data:`CONDITION_SHARES`.
    """
    position = (offset + index * _GOLDEN_RATIO) % 1.0
    names = list(CONDITION_SHARES)
    bounds = np.cumsum(list(CONDITION_SHARES.values()))
    return names[min(int(np.searchsorted(bounds, position, side='right')), len(names) - 1)]


def draw_scene(
    generator: np.random.Generator,
    size: tuple[int, int] = (160, 160),
    condition: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one street scene.

    Args:
        generator: Source of everything random; the same state gives the same scene.
        size: Width and height in pixels, each at least 32. Defaults to ``(160, 160)``.
        condition: A key of :data:`CONDITION_SHARES`; None draws one by its share.

    Returns:
        The image as uint8 RGB of shape ``(H, W, 3)`` and the labels as uint8 of shape ``(H, W)``
        with class ids 0 to 10, and 255 for void.

    Raises:
        ValueError: If the size is too small or the condition is unknown.
    """
    check_size(size)
    if condition is None:
        condition = condition_of(float(generator.random()), 0)
    if condition not in CONDITION_SHARES:
        raise ValueError(
            f'Expected argument `condition` to be one of {list(CONDITION_SHARES)}, '
            f'but got {condition!r}.'
        )
    street = _Street(generator, size, condition)
    street.draw()
    return street.finish()


def check_size(size: tuple[int, int]) -> None:
    """Refuse a size of an image that no street fits in.

    Args:
        size: Width and height in pixels.

    Raises:
        ValueError: If it is not a pair of integers of at least 32.
    """
    try:
        valid = len(size) == 2 and all(int(side) == side and side >= _MIN_SIDE for side in size)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            'Expected argument `size` to be (width, height) with integers of at least '
            f'{_MIN_SIDE}, but got {size!r}.'
        )


@dataclass(frozen=True)
class _Look:
    """What a condition changes: light, sky, and how busy the street is."""

    ambient: Colour = (1.0, 1.0, 1.0)
    sky_top: Colour = (0.33, 0.55, 0.88)
    sky_bottom: Colour = (0.80, 0.89, 0.97)
    cloud: float = 0.5
    sun: float = 1.0
    lit_windows: float = 0.0
    lights: float = 0.0
    visibility: float = 400.0
    noise: float = 0.012


_LOOKS = {
    'clear': _Look(),
    'overcast': _Look((0.80, 0.82, 0.85), (0.66, 0.68, 0.71), (0.84, 0.85, 0.86), 0.25, 0.0),
    'dusk': _Look(
        (0.50, 0.36, 0.40), (0.24, 0.20, 0.42), (0.98, 0.56, 0.26), 0.6, 0.0, 0.35, 0.7, 300, 0.02
    ),
    'night': _Look(
        (0.13, 0.14, 0.22), (0.02, 0.02, 0.06), (0.09, 0.08, 0.13), 0.1, 0.0, 0.45, 1.0, 300, 0.03
    ),
    'fog': _Look(
        (0.84, 0.85, 0.86), (0.80, 0.81, 0.82), (0.80, 0.81, 0.82), 0.0, 0.0, 0.0, 0.3, 13, 0.012
    ),
    'rain': _Look(
        (0.52, 0.56, 0.62), (0.40, 0.43, 0.48), (0.60, 0.63, 0.66), 0.5, 0.0, 0.1, 0.6, 55, 0.015
    ),
    'snow': _Look(
        (0.88, 0.91, 0.96), (0.74, 0.77, 0.82), (0.86, 0.88, 0.91), 0.1, 0.0, 0.05, 0.2, 60, 0.012
    ),
    'crowd': _Look(),
    'roadworks': _Look((0.92, 0.92, 0.92), cloud=0.9, sun=0.5),
}


class _Street:
    """One scene: the layout drawn once from the generator, then painted from far to near."""

    def __init__(
        self, generator: np.random.Generator, size: tuple[int, int], condition: str
    ) -> None:
        self.random = generator
        self.condition = condition
        self.look = _LOOKS[condition]
        width, height = int(size[0]), int(size[1])
        self.canvas = Canvas(width, height, luminous=self.look.lights > 0)
        self.road_half = generator.uniform(2.9, 4.4)
        self.camera = Camera(
            focal=width * generator.uniform(0.70, 0.90),
            height=generator.uniform(1.35, 1.8),
            horizon=height * generator.uniform(0.44, 0.56),
            vanishing_x=width * generator.uniform(0.38, 0.62),
            side=generator.uniform(-0.45, 0.45) * self.road_half,
        )
        self.walls = {
            side: side * (self.road_half + generator.uniform(2.8, 6.5)) for side in (-1, 1)
        }
        self.street_end = generator.uniform(45.0, 80.0)
        self.sun_side = int(generator.choice([-1, 1]))
        self.snowy = condition == 'snow'
        self.ground_depth = self.camera.ground_depth(width, height)
        # How far away each object stands, and the call that paints it.
        self.objects: list[tuple[float, Callable[[], None]]] = []
        self.lamps: list[tuple[np.ndarray, float]] = []

    # ---- Helpers -----------------------------------------------------------------------------

    def _chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def _vary(self, colour: Colour, amount: float = 0.06) -> Colour:
        shared = self.random.uniform(1.0 - 2 * amount, 1.0 + 2 * amount)
        shifts = self.random.uniform(-amount, amount, 3).tolist()
        return tuple(
            min(max(channel * shared + 0.5 * shift, 0.0), 1.0)
            for channel, shift in zip(colour, shifts, strict=True)
        )

    def _pick(self, colours: tuple[Colour, ...]) -> Colour:
        return self._vary(colours[int(self.random.integers(len(colours)))])

    @staticmethod
    def _shade(colour: Colour, factor: float) -> Colour:
        return tuple(min(channel * factor, 1.0) for channel in colour)

    def _quad(
        self, points: list[tuple[float, float, float]], colour: Colour, label: int | None, **kwargs
    ) -> None:
        self.canvas.polygon(self.camera.project(points), colour, label, **kwargs)

    def _facing(
        self,
        left: float,
        right: float,
        low: float,
        high: float,
        ahead: float,
        colour: Colour,
        label: int | None,
        **kwargs,
    ) -> None:
        corners = [(left, low, ahead), (right, low, ahead), (right, high, ahead)]
        kwargs.setdefault('depth', ahead)
        self._quad([*corners, (left, high, ahead)], colour, label, **kwargs)

    def _pixels(self, metres: float, ahead: float) -> float:
        return self.camera.focal * metres / ahead

    def _point(self, right: float, up: float, ahead: float) -> np.ndarray:
        return self.camera.project([(right, up, ahead)])[0]

    def _shadow(self, right: float, ahead: float, radius: float, depth_radius: float) -> None:
        strength = 0.55 if self.look.sun > 0 else 0.28
        offset = -self.sun_side * radius * 0.8 * self.look.sun
        ring = [
            (right + offset + 1.2 * radius * x, 0.0, max(ahead + depth_radius * y, 1.0))
            for x, y in _RING
        ]
        self.canvas.polygon(self.camera.project(ring), (0.02, 0.02, 0.04), opacity=strength)

    # ---- Layout ------------------------------------------------------------------------------

    def draw(self) -> None:
        """Paint everything, far things first."""
        self._draw_sky()
        self._draw_ground()
        self._draw_street_end()
        for side in (-1, 1):
            self._draw_buildings(side)
        self._draw_cast_shadow()
        self._draw_markings()
        self._place_furniture()
        self._place_traffic()
        self._place_people()
        if self.condition == 'roadworks':
            self._place_roadworks()
        for _, paint in sorted(self.objects, key=lambda entry: -entry[0]):
            paint()
        self._draw_unlabelled()

    def _add(self, ahead: float, paint: Callable[..., None], *args, **kwargs) -> None:
        self.objects.append((ahead, lambda: paint(*args, **kwargs)))

    def _draw_sky(self) -> None:
        canvas, look = self.canvas, self.look
        rows = np.arange(canvas.height) / max(self.camera.horizon, 1.0)
        blend = np.clip(rows, 0.0, 1.0)[:, None, None] ** self.random.uniform(0.8, 1.4)
        top = np.asarray(self._vary(look.sky_top, 0.05))
        bottom = np.asarray(self._vary(look.sky_bottom, 0.03))
        sky = np.broadcast_to((1 - blend) * top + blend * bottom, canvas.image.shape)
        clouds = self._noise(5) + 0.5 * self._noise(10) + 0.25 * self._noise(20)
        cover = np.clip(clouds * 1.2 + self.random.uniform(-0.5, 0.5), 0, 1)[..., None]
        if self.condition == 'dusk':
            cloud_colour = np.array([0.95, 0.55, 0.45])
        else:
            cloud_colour = np.clip(bottom * 1.1, 0, 1)
        weight = look.cloud * cover
        canvas.image[:] = (1 - weight) * sky + weight * cloud_colour
        canvas.labels[:] = SKY

    def _draw_ground(self) -> None:
        horizon, far, near = self.camera.horizon, 400.0, 0.8
        half = self.road_half
        grey = self.random.uniform(0.27, 0.42)
        road = (grey, grey, grey * self.random.uniform(1.0, 1.08))
        pavement = self._vary((0.60, 0.57, 0.53), 0.08)
        if self.condition == 'rain':
            road, pavement = self._shade(road, 0.75), self._shade(pavement, 0.75)
        if self.snowy:
            road = self._vary((0.66, 0.67, 0.70), 0.05)
            pavement = self._vary((0.93, 0.94, 0.97), 0.02)
        height, width = self.canvas.height, self.canvas.width
        below = np.array([[0, horizon], [width, horizon], [width, height], [0, height]])
        self.canvas.polygon(below, pavement, PAVEMENT, self.ground_depth)
        corners = [(-half, 0, far), (half, 0, far), (half, 0, near), (-half, 0, near)]
        self._quad(corners, road, ROAD, depth=self.ground_depth)
        for side in (-1, 1):
            kerb = side * half
            corners = [
                (kerb, 0, far),
                (kerb + side * 0.22, 0, far),
                (kerb + side * 0.22, 0, near),
                (kerb, 0, near),
            ]
            self._quad(corners, self._shade(pavement, 1.15), PAVEMENT, depth=self.ground_depth)
            if self.snowy:
                continue
            for ahead in np.arange(2.0, 22.0, 1.6):
                wall = self.walls[side] * 1.3
                start, end = self._point(kerb, 0, ahead), self._point(wall, 0, ahead)
                self.canvas.line(start, end, 1, self._shade(pavement, 0.86), opacity=0.6)

    def _draw_markings(self) -> None:
        if self.snowy:
            return
        white = self._vary((0.86, 0.86, 0.83), 0.04)
        opacity = self.random.uniform(0.6, 0.95)
        for ahead in np.arange(2.0 + self.random.uniform(0, 3), 45.0, 5.0):
            corners = [
                (-0.07, 0, ahead),
                (0.07, 0, ahead),
                (0.07, 0, ahead + 2.2),
                (-0.07, 0, ahead + 2.2),
            ]
            self._quad(corners, white, None, opacity=opacity)
        if self._chance(0.5):
            line_colour = (0.85, 0.72, 0.15) if self._chance(0.6) else white
            for side in (-1, 1):
                x = side * (self.road_half - 0.35)
                corners = [(x, 0, 1.2), (x + 0.12, 0, 1.2), (x + 0.12, 0, 60), (x, 0, 60)]
                self._quad(corners, line_colour, None, opacity=opacity)
        if self.condition == 'crowd' or self._chance(0.10):
            start = 5.5 if self.condition == 'crowd' else self.random.uniform(6, 14)
            for x in np.arange(-self.road_half + 0.2, self.road_half - 0.3, 1.0):
                corners = [
                    (x, 0, start),
                    (x + 0.55, 0, start),
                    (x + 0.55, 0, start + 3.4),
                    (x, 0, start + 3.4),
                ]
                self._quad(corners, white, None, opacity=opacity)
        for _ in range(int(self.random.integers(0, 4))):
            x, ahead = self.random.uniform(-1, 1) * self.road_half * 0.8, self.random.uniform(3, 16)
            spread, length = self.random.uniform(0.3, 1.0), self.random.uniform(0.5, 2.5)
            corners = [
                (x, 0, ahead),
                (x + spread, 0, ahead),
                (x + spread, 0, ahead + length),
                (x, 0, ahead + length),
            ]
            self._quad(corners, (0.12, 0.12, 0.13), None, opacity=self.random.uniform(0.2, 0.5))

    def _draw_cast_shadow(self) -> None:
        if self.look.sun <= 0:
            return
        reach = self.random.uniform(0.0, 1.2) * self.road_half
        wall = self.sun_side * (abs(self.walls[self.sun_side]) - 0.1)
        edge = self.sun_side * (self.road_half + 1.0 - reach)
        corners = [(wall, 0, 1.0), (edge, 0, 1.0), (edge, 0, 70.0), (wall, 0, 70.0)]
        ground = np.isin(self.canvas.labels, (ROAD, PAVEMENT))
        before = self.canvas.image.copy()
        self._quad(corners, (0.05, 0.06, 0.12), None, opacity=0.45 * self.look.sun)
        self.canvas.image[~ground] = before[~ground]

    def _draw_street_end(self) -> None:
        end = self.street_end
        kind = self.random.random()
        if kind < 0.45:
            x = -16.0
            while x < 16.0:
                span, top = self.random.uniform(5, 9), self.random.uniform(6, 13)
                colour = self._shade(self._pick(_WALL_COLOURS), 0.9)
                self._facing(x, x + span, 0, top, end, colour, BUILDING)
                for floor in np.arange(1.5, top - 1.5, 2.8):
                    for place in np.arange(x + 0.8, x + span - 1.0, 2.0):
                        self._facing(
                            place,
                            place + 1.0,
                            floor,
                            floor + 1.4,
                            end,
                            self._shade(colour, 0.45),
                            BUILDING,
                            emission=self._window_light(),
                        )
                x += span
        elif kind < 0.85:
            for x in np.arange(-17.0, 18.0, 2.6):
                self._paint_crown(
                    x + self.random.uniform(-1, 1),
                    self.random.uniform(2.0, 4.0),
                    end,
                    self.random.uniform(2.2, 4.0),
                    self._leaf_colour(),
                )
        else:
            haze = self._vary((0.55, 0.60, 0.62), 0.05)
            self._facing(-60, 60, 0, self.random.uniform(3, 7), end * 2.5, haze, VOID)

    def _window_light(self) -> Colour | None:
        if self._chance(self.look.lit_windows):
            return self._vary((1.0, 0.82, 0.45), 0.1)
        return None

    def _draw_buildings(self, side: int) -> None:
        wall = self.walls[side]
        near, houses = 2.0, []
        tall = self.random.uniform(6.0, 15.0)
        while near < self.street_end:
            length = self.random.uniform(6.0, 15.0)
            houses.append((near, length, self._chance(0.16), max(4.5, self.random.normal(tall, 2))))
            near += length
        for start, length, gap, top in reversed(houses):
            if gap:
                self._draw_garden(side, wall, start, start + length)
            else:
                self._draw_building(side, wall, start, start + length, top)

    def _draw_garden(self, side: int, wall: float, start: float, stop: float) -> None:
        for ahead in np.arange(stop, start, -3.0):
            for offset in (7.0, 3.0):
                radius = self.random.uniform(1.3, 2.6)
                self._paint_crown(
                    wall + side * offset,
                    self.random.uniform(1.0, 3.0),
                    ahead,
                    radius,
                    self._leaf_colour(),
                )
        self._draw_boundary(wall, start, stop, self.random.uniform(1.0, 1.8))

    def _draw_boundary(self, x: float, start: float, stop: float, height: float) -> None:
        colour = self._pick(((0.42, 0.30, 0.20), (0.22, 0.25, 0.28), (0.75, 0.75, 0.72)))
        depth = self.camera.wall_depth(self.canvas.width, self.canvas.height, x)
        corners = [(x, 0, start), (x, 0, stop), (x, height, stop), (x, height, start)]
        self._quad(corners, colour, FENCE, depth=depth)
        for ahead in np.arange(start, min(stop, 40.0), 0.45):
            bottom, top = self._point(x, 0, ahead), self._point(x, height, ahead)
            thickness = self._pixels(0.06, ahead)
            self.canvas.line(bottom, top, thickness, self._shade(colour, 0.6), FENCE)

    def _draw_building(self, side: int, wall: float, start: float, stop: float, top: float) -> None:
        colour = self._pick(_WALL_COLOURS)
        sunny = 1.12 if side != self.sun_side else 0.78
        lit = self._shade(colour, 1.0 + (sunny - 1.0) * self.look.sun)
        gable = self._shade(colour, 0.85)
        depth = self.camera.wall_depth(self.canvas.width, self.canvas.height, wall)
        outer = wall + side * 9.0
        front = [(wall, 0, start), (outer, 0, start), (outer, top, start), (wall, top, start)]
        ridge, rise = wall + side * 4.5, 2.8
        # From farther below, the slope is hidden behind the edge of the wall.
        slope = (top - self.camera.height) / abs(wall - self.camera.side)
        if slope < 0.9 * rise / 4.5 or self._chance(0.3):
            front.insert(3, (ridge, top + rise, start))
            roof = (0.92, 0.93, 0.96) if self.snowy else self._vary((0.34, 0.24, 0.21), 0.08)
            corners = [
                (wall, top, start),
                (wall, top, stop),
                (ridge, top + rise, stop),
                (ridge, top + rise, start),
            ]
            self._quad(corners, roof, BUILDING, depth=depth)
        self._quad(front, gable, BUILDING, depth=start)
        corners = [(wall, 0, start), (wall, 0, stop), (wall, top, stop), (wall, top, start)]
        self._quad(corners, lit, BUILDING, depth=depth)
        self._draw_windows(wall, start, stop, top, lit)

    def _draw_windows(
        self, wall: float, start: float, stop: float, top: float, colour: Colour
    ) -> None:
        step, width = self.random.uniform(1.7, 2.8), self.random.uniform(0.8, 1.3)
        glass = self._vary((0.20, 0.25, 0.31), 0.06)
        frame = self._shade(colour, 1.25)

        def panel(near: float, far: float, low: float, high: float, paint: Colour, light=None):
            corners = [(wall, low, near), (wall, low, far), (wall, high, far), (wall, high, near)]
            self._quad(corners, paint, BUILDING, emission=light)

        visible = self.camera.focal * abs(wall - self.camera.side) / self.canvas.width
        shop = self._chance(0.35)
        if shop:
            panel(start, stop, 2.5, 3.2, self._pick(_CAR_COLOURS), self._window_light())
            panel(start + 0.4, stop - 0.4, 0.5, 2.4, self._shade(glass, 1.2), self._window_light())
        for near in np.arange(start + 0.6, stop - width, step):
            foreshortened = self._pixels(width, near) * abs(wall - self.camera.side) / near
            if near + width < visible or foreshortened < 1.2:
                continue
            for floor in np.arange(3.9 if shop else 1.0, top - 1.5, 2.9):
                panel(near - 0.1, near + width + 0.1, floor - 0.1, floor + 1.6, frame)
                light = self._window_light()
                reflection = self.random.uniform(0.7, 1.5)
                panel(near, near + width, floor, floor + 1.5, self._shade(glass, reflection), light)
            if not shop and self._chance(0.15):
                panel(near, near + 1.0, 0.0, 2.1, self._pick(_CAR_COLOURS))

    # ---- Street furniture --------------------------------------------------------------------

    def _along(self, first: float, last: float, spacing: float) -> np.ndarray:
        """Irregular distances between first and last metres."""
        steps = self.random.uniform(0.6, 1.6, size=64) * spacing
        places = first + np.cumsum(steps) - steps[0] * self.random.random()
        return places[places < last]

    def _place_furniture(self) -> None:
        for side in (-1, 1):
            kerb = side * (self.road_half + 0.55)
            wall = self.walls[side]
            if self._chance(0.62):
                for ahead in self._along(6.0, 60.0, self.random.uniform(6, 13)):
                    x = kerb + side * self.random.uniform(0.3, 1.2)
                    self._add(ahead, self._paint_tree, x, ahead)
            for ahead in self._along(5.0, 60.0, 14.0):
                self._add(ahead, self._paint_lamp, kerb, side, ahead)
            for ahead in self._along(5.0, 45.0, 12.0):
                self._add(ahead, self._paint_sign, kerb + side * 0.2, ahead)
            if self._chance(0.22):
                ahead = self.random.uniform(7.0, 14.0)
                self._add(ahead, self._paint_traffic_light, kerb, ahead)
            if self._chance(0.45):
                start = self.random.uniform(5.0, 16.0)
                stop = start + self.random.uniform(4.0, 16.0)
                self._add(start, self._paint_railing, kerb - side * 0.2, start, stop)
            if self._chance(0.4):
                ahead = self.random.uniform(5.0, 20.0)
                self._add(ahead, self._paint_bin, 0.5 * (kerb + wall), ahead)

    def _leaf_colour(self) -> Colour:
        if self.snowy:
            return self._vary((0.66, 0.70, 0.70), 0.10)
        return self._vary(
            ((0.20, 0.36, 0.13), (0.28, 0.40, 0.14), (0.15, 0.28, 0.12), (0.42, 0.36, 0.14))[
                int(self.random.integers(4))
            ],
            0.08,
        )

    def _paint_crown(
        self, x: float, up: float, ahead: float, radius: float, colour: Colour
    ) -> None:
        centre = self._point(x, up, ahead)
        angles = np.linspace(0, 2 * np.pi, 26, endpoint=False)
        wobble = 1.0 + self.random.uniform(-0.18, 0.18, size=angles.size)
        size = self._pixels(radius, ahead)
        outline = np.stack([np.cos(angles), 0.9 * np.sin(angles)], 1) * wobble[:, None] * size
        self.canvas.polygon(outline + centre, self._shade(colour, 0.72), TREE, ahead)
        # Clumps that catch the light, inside the outline.
        clumps = 7 if size > 6 else 2
        directions = self.random.uniform(0, 2 * np.pi, clumps)
        places = np.stack([np.cos(directions), np.sin(directions)], axis=1) * 0.42
        places += (-0.15 * self.sun_side * self.look.sun, -0.1)
        lumps = self.random.uniform(0.18, 0.36, clumps) * size
        shades = self.random.uniform(0.75, 1.3, clumps).tolist()
        for place, lump, shade in zip(places * size + centre, lumps, shades, strict=True):
            self.canvas.ellipse(place, (lump, lump), self._shade(colour, shade), TREE, ahead)

    def _paint_tree(self, x: float, ahead: float) -> None:
        radius = self.random.uniform(1.2, 2.4)
        crown = self.random.uniform(3.4, 5.2)
        bark = self._vary((0.30, 0.23, 0.17), 0.05)
        self._shadow(x, ahead, radius * 0.7, 0.7)
        bottom, top = self._point(x, 0, ahead), self._point(x, crown, ahead)
        self.canvas.line(bottom, top, self._pixels(0.32, ahead), bark, TREE, ahead)
        self._paint_crown(x, crown, ahead, radius, self._leaf_colour())

    def _paint_lamp(self, x: float, side: int, ahead: float) -> None:
        top = self.random.uniform(5.0, 7.5)
        colour = self._vary((0.32, 0.34, 0.35), 0.08)
        thickness = max(self._pixels(0.17, ahead), 1.0)
        foot, head = self._point(x, 0, ahead), self._point(x, top, ahead)
        self.canvas.line(foot, head, thickness, colour, POLE, ahead)
        tip = self._point(x - side * 1.4, top + 0.25, ahead)
        self.canvas.line(head, tip, thickness * 0.8, colour, POLE, ahead)
        light = (1.0, 0.78, 0.42) if self.look.lights > 0.3 else None
        lamp = self._point(x - side * 1.6, top + 0.2, ahead)
        size = self._pixels(0.32, ahead)
        self.canvas.ellipse(lamp, (size, size * 0.5), (0.85, 0.85, 0.8), POLE, ahead, 1.0, light)
        if light is not None:
            self.lamps.append((self._point(x - side * 1.6, 0, ahead), ahead))

    def _paint_post(self, x: float, ahead: float, top: float) -> None:
        thickness = max(self._pixels(0.11, ahead), 1.0)
        foot, head = self._point(x, 0, ahead), self._point(x, top, ahead)
        self.canvas.line(foot, head, thickness, (0.48, 0.49, 0.50), POLE, ahead)

    def _paint_sign(self, x: float, ahead: float, works: bool = False) -> None:
        up = self.random.uniform(2.0, 2.9)
        self._paint_post(x, ahead, up)
        half = self.random.uniform(0.36, 0.55)
        centre, size = self._point(x, up, ahead), self._pixels(half, ahead)
        red, white = self._vary((0.80, 0.10, 0.10), 0.04), (0.93, 0.93, 0.92)
        kind = int(self.random.integers(4))
        angles = np.deg2rad([-90, 30, 150])
        triangle = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 1.25
        square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (0.95, 1.1)
        if works:
            self.canvas.polygon(centre + square * size * 1.4, (0.95, 0.55, 0.08), SIGN, ahead)
            self.canvas.polygon(centre + triangle * size * 0.7, (0.1, 0.1, 0.1), SIGN, ahead)
        elif kind == 0:
            self.canvas.ellipse(centre, (size, size), red, SIGN, ahead)
            self.canvas.ellipse(centre, (size * 0.62, size * 0.62), white, SIGN, ahead)
        elif kind == 1:
            self.canvas.polygon(centre + triangle * size, red, SIGN, ahead)
            self.canvas.polygon(centre + triangle * size * 0.5, white, SIGN, ahead)
        elif kind == 2:
            self.canvas.ellipse(centre, (size, size), self._vary((0.08, 0.25, 0.70)), SIGN, ahead)
            start, end = centre - (size * 0.5, 0), centre + (size * 0.5, 0)
            self.canvas.line(start, end, size * 0.4, white, SIGN, ahead)
        else:
            board = self._vary((0.10, 0.38, 0.24) if self._chance(0.5) else (0.08, 0.25, 0.65))
            self.canvas.polygon(centre + square * size * 1.2, board, SIGN, ahead)
            for row in (-0.5, 0.1, 0.6):
                start, end = centre + (-size * 0.8, row * size), centre + (size * 0.8, row * size)
                self.canvas.line(start, end, size * 0.2, white, SIGN, ahead)

    def _paint_traffic_light(self, x: float, ahead: float) -> None:
        self._paint_post(x, ahead, 2.6)
        self._facing(x - 0.24, x + 0.24, 2.3, 3.4, ahead, (0.07, 0.07, 0.08), SIGN)
        active = int(self.random.integers(3))
        colours = ((0.95, 0.12, 0.10), (0.98, 0.70, 0.10), (0.15, 0.90, 0.40))
        for place, (up, colour) in enumerate(zip((3.2, 2.85, 2.5), colours, strict=True)):
            radius = self._pixels(0.13, ahead)
            shown = colour if place == active else self._shade(colour, 0.25)
            light = colour if place == active and self.look.lights > 0 else None
            centre = self._point(x, up, ahead)
            self.canvas.ellipse(centre, (radius, radius), shown, SIGN, ahead, 1.0, light)

    def _paint_railing(self, x: float, start: float, stop: float) -> None:
        height = 1.1
        colour = self._pick(((0.62, 0.64, 0.66), (0.16, 0.17, 0.20), (0.30, 0.42, 0.35)))
        depth = self.camera.wall_depth(self.canvas.width, self.canvas.height, x)
        corners = [(x, 0, start), (x, 0, stop), (x, height, stop), (x, height, start)]
        # The bars are too thin for these pixels, so the gaps show through as a tint.
        self._quad(corners, self._shade(colour, 0.75), FENCE, depth=depth, opacity=0.6)
        for ahead in np.arange(start, min(stop, 40.0), 0.5):
            bottom, top = self._point(x, 0, ahead), self._point(x, height, ahead)
            self.canvas.line(bottom, top, self._pixels(0.05, ahead), colour, FENCE)
        for up in (height, 0.15):
            first, last = self._point(x, up, start), self._point(x, up, stop)
            self.canvas.line(first, last, 1.0, colour, FENCE)

    def _paint_bin(self, x: float, ahead: float) -> None:
        self._shadow(x, ahead, 0.35, 0.2)
        colour = self._vary((0.16, 0.20, 0.18), 0.06)
        self._facing(x - 0.3, x + 0.3, 0, 0.95, ahead, colour, VOID)
        self._facing(x - 0.34, x + 0.34, 0.95, 1.1, ahead, self._shade(colour, 0.6), VOID)

    # ---- Traffic -----------------------------------------------------------------------------

    def _place_traffic(self) -> None:
        crowd = self.condition == 'crowd'
        for side in (-1, 1):
            if self._chance(0.6) and not crowd:
                x = side * (self.road_half - 1.0)
                first = self.random.uniform(5.0, 18.0)
                for ahead in np.arange(first, self.random.uniform(14, 50), 5.3):
                    if self._chance(0.8):
                        self._add(ahead, self._paint_car, x, ahead, rear=side > 0)
        lane = self.road_half * 0.38
        for side, density in ((1, 0.6), (-1, 0.55)):
            if self._chance(density):
                ahead = self.random.uniform(11.0 if crowd else 6.5, 35.0)
                x = side * lane * self.random.uniform(0.8, 1.2)
                self._add(ahead, self._paint_car, x, ahead, rear=side > 0)
        if self._chance(0.10):
            ahead = self.random.uniform(14, 26)
            x = self.random.uniform(-3, 3)
            self._add(ahead, self._paint_side_car, x, ahead)

    def _paint_car(self, x: float, ahead: float, rear: bool) -> None:
        width, length = self.random.uniform(1.6, 1.85), self.random.uniform(3.6, 4.4)
        van = self._chance(0.18)
        roof = self.random.uniform(1.9, 2.5) if van else self.random.uniform(1.35, 1.6)
        belt = roof * self.random.uniform(0.58, 0.66)
        colour = self._pick(_CAR_COLOURS)
        glass, tyre = self._vary((0.14, 0.18, 0.22), 0.04), (0.05, 0.05, 0.06)
        left, right, half = x - width / 2, x + width / 2, width / 2
        self._shadow(x, ahead + length / 2, half, length * 0.55)
        back = ahead + length
        # The side that is turned to the camera, then the end, which is nearer.
        inner = None
        if left > self.camera.side:
            inner = left
        elif right < self.camera.side:
            inner = right
        if inner is not None:
            shade = self._shade(colour, 0.72)
            body = [
                (inner, 0.22, ahead),
                (inner, 0.22, back),
                (inner, belt, back),
                (inner, belt, ahead),
            ]
            self._quad(body, shade, CAR, depth=ahead + 1)
            lean = 0.15 * half * (1 if inner == left else -1)
            slope = 0.15 if van else 0.22
            cabin = [
                (inner, belt, ahead + 0.1),
                (inner, belt, back - length * slope),
                (inner + lean, roof, back - length * (slope + 0.12)),
                (inner + lean, roof, ahead + 0.45),
            ]
            self._quad(cabin, shade, CAR, depth=ahead + 1)
            window = [
                (inner, belt + 0.05, ahead + 0.5),
                (inner, belt + 0.05, back - length * (slope + 0.06)),
                (inner + lean, roof - 0.12, back - length * (slope + 0.14)),
                (inner + lean, roof - 0.12, ahead + 0.7),
            ]
            self._quad(window, glass, CAR, depth=ahead + 1)
            for wheel in (ahead + 0.75, back - 0.8):
                for radius, paint in ((0.33, tyre), (0.18, (0.5, 0.5, 0.52))):
                    rim = [(inner, 0.33 + radius * y, wheel + radius * x) for x, y in _RING]
                    self._quad(rim, paint, CAR, depth=ahead + 1)
        for start, stop in ((left + 0.08, left + 0.32), (right - 0.32, right - 0.08)):
            self._facing(start, stop, 0.0, 0.4, ahead, tyre, CAR)
        self._facing(left, right, 0.25, belt, ahead, colour, CAR)
        trim = self._shade(colour, 0.55)
        self._facing(left, right, 0.25, 0.42, ahead, trim, CAR)
        inset = 0.04 * width if van else 0.13 * width
        cabin = [
            (left, belt, ahead),
            (right, belt, ahead),
            (right - inset, roof, ahead),
            (left + inset, roof, ahead),
        ]
        self._quad(cabin, self._shade(colour, 1.05), CAR, depth=ahead)
        window = [
            (left + 0.13, belt + 0.04, ahead),
            (right - 0.13, belt + 0.04, ahead),
            (right - inset - 0.10, roof - 0.12, ahead),
            (left + inset + 0.10, roof - 0.12, ahead),
        ]
        self._quad(window, glass, CAR, depth=ahead)
        self._facing(
            x - 0.26,
            x + 0.26,
            0.45,
            0.57,
            ahead,
            (0.9, 0.8, 0.2) if rear else (0.92, 0.92, 0.9),
            CAR,
        )
        lamp = (0.80, 0.07, 0.06) if rear else (0.96, 0.95, 0.86)
        on = self.look.lights > 0.3
        light = ((0.9, 0.06, 0.04) if rear else (1.3, 1.25, 1.05)) if on else None
        low = belt - 0.28
        for start, stop in ((left + 0.04, left + 0.30), (right - 0.30, right - 0.04)):
            self._facing(start, stop, low, low + 0.2, ahead, lamp, CAR, emission=light)

    def _paint_side_car(self, x: float, ahead: float) -> None:
        length, colour = self.random.uniform(3.7, 4.5), self._pick(_CAR_COLOURS)
        self._shadow(x, ahead, length * 0.42, 0.5)
        left, right = x - length / 2, x + length / 2
        self._facing(left, right, 0.25, 0.85, ahead, colour, CAR)
        cabin = [
            (left + 0.5, 0.85, ahead),
            (right - 0.9, 0.85, ahead),
            (right - 1.4, 1.42, ahead),
            (left + 0.9, 1.42, ahead),
        ]
        self._quad(cabin, colour, CAR, depth=ahead)
        window = [
            (left + 0.75, 0.88, ahead),
            (right - 1.1, 0.88, ahead),
            (right - 1.5, 1.33, ahead),
            (left + 1.0, 1.33, ahead),
        ]
        self._quad(window, (0.15, 0.19, 0.23), CAR, depth=ahead)
        for wheel in (left + 0.75, right - 0.75):
            for radius, paint in ((0.34, (0.05, 0.05, 0.06)), (0.17, (0.5, 0.5, 0.52))):
                size = self._pixels(radius, ahead)
                centre = self._point(wheel, 0.34, ahead)
                self.canvas.ellipse(centre, (size, size), paint, CAR, ahead)

    # ---- People ------------------------------------------------------------------------------

    def _place_people(self) -> None:
        if self.condition == 'crowd':
            for _ in range(int(self.random.integers(11, 19))):
                ahead = self.random.uniform(5.4, 9.0)
                x = self.random.uniform(-1.0, 1.0) * (self.road_half + 0.5)
                self._add(ahead, self._paint_pedestrian, x, ahead)
            for _ in range(int(self.random.integers(1, 4))):
                ahead = self.random.uniform(6.0, 9.0)
                x = self.random.uniform(-1.0, 1.0) * self.road_half * 0.8
                self._add(ahead, self._paint_bicyclist, x, ahead, from_side=True)
        quiet = 0.5 if self.condition in ('night', 'rain', 'snow') else 1.0
        for side in (-1, 1):
            low, high = self.road_half + 0.9, abs(self.walls[side]) - 0.4
            for _ in range(int(self.random.poisson(1.7 * quiet))):
                ahead = self.random.uniform(5.0, 24.0)
                x = side * self.random.uniform(low, max(high, low + 0.1))
                self._add(ahead, self._paint_pedestrian, x, ahead)
                if self._chance(0.3):
                    self._add(ahead + 0.3, self._paint_pedestrian, x + 0.6, ahead + 0.3)
        if self._chance(0.12):
            ahead = self.random.uniform(6.0, 15.0)
            x = self.random.uniform(-0.8, 0.8) * self.road_half
            self._add(ahead, self._paint_pedestrian, x, ahead)
        for side in (-1, 1):
            if self._chance(0.36 * quiet):
                ahead = self.random.uniform(4.5, 15.0)
                x = side * self.road_half * self.random.uniform(0.3, 0.7)
                self._add(ahead, self._paint_bicyclist, x, ahead, from_side=self._chance(0.35))

    def _paint_pedestrian(self, x: float, ahead: float) -> None:
        adult = self._chance(0.88)
        tall = self.random.uniform(1.5, 1.9) if adult else self.random.uniform(1.0, 1.3)
        coat, trousers = self._pick(_CLOTHES_COLOURS), self._pick(_CLOTHES_COLOURS)
        skin = self._pick(_SKIN_COLOURS)
        hair = self._vary((0.20, 0.14, 0.09), 0.05)
        self._shadow(x, ahead, 0.25, 0.2)
        stride = self.random.uniform(0.04, 0.26)
        hip, shoulder = tall * 0.48, tall * 0.83
        limb = self._pixels(0.17, ahead)
        for direction in (-1, 1):
            start, end = self._point(x, hip, ahead), self._point(x + direction * stride, 0, ahead)
            shade = self._shade(trousers, 0.8 if direction < 0 else 1.0)
            self.canvas.line(start, end, limb, shade, PEDESTRIAN, ahead)
        torso = [
            (x - 0.17, hip - 0.05, ahead),
            (x + 0.17, hip - 0.05, ahead),
            (x + 0.24, shoulder, ahead),
            (x - 0.24, shoulder, ahead),
        ]
        self._quad(torso, coat, PEDESTRIAN, depth=ahead)
        for direction in (-1, 1):
            start = self._point(x + direction * 0.24, shoulder - 0.04, ahead)
            end = self._point(x + direction * (0.27 + 0.6 * stride), hip, ahead)
            self.canvas.line(start, end, limb * 0.7, self._shade(coat, 0.8), PEDESTRIAN, ahead)
        radius = self._pixels(0.125, ahead)
        head = self._point(x, tall - 0.12, ahead)
        self.canvas.ellipse(head, (radius, radius * 1.15), skin, PEDESTRIAN, ahead)
        top = head - (0, radius * 0.55)
        self.canvas.ellipse(top, (radius, radius * 0.6), hair, PEDESTRIAN, ahead)

    def _paint_bicyclist(self, x: float, ahead: float, from_side: bool) -> None:
        coat, trousers = self._pick(_CLOTHES_COLOURS), self._pick(_CLOTHES_COLOURS)
        if self._chance(0.4):
            coat = self._vary((0.85, 0.92, 0.15), 0.04)
        frame, skin = self._pick(_CAR_COLOURS), self._pick(_SKIN_COLOURS)
        helmet = self._pick(_CAR_COLOURS)
        self._shadow(x, ahead, 0.6 if from_side else 0.25, 0.3)
        pixel = self._pixels(1.0, ahead)

        def bar(start, end, thickness, colour):
            first = self._point(x + start[0], start[1], ahead)
            last = self._point(x + end[0], end[1], ahead)
            self.canvas.line(first, last, thickness * pixel, colour, BICYCLIST, ahead)

        if from_side:
            heading = 1 if self._chance(0.5) else -1
            for wheel in (-0.52, 0.52):
                centre = self._point(x + wheel, 0.34, ahead)
                self.canvas.ellipse(
                    centre, (0.36 * pixel,) * 2, (0.08, 0.08, 0.09), BICYCLIST, ahead, 0.45
                )
                rim = [(wheel + 0.34 * x, 0.34 + 0.34 * y) for x, y in _RING]
                for first, last in zip(rim, [*rim[1:], rim[0]], strict=True):
                    bar(first, last, 0.07, (0.06, 0.06, 0.07))
            for start, end in (
                ((-0.52, 0.34), (-0.15, 0.85)),
                ((-0.15, 0.85), (0.35, 0.85)),
                ((-0.02, 0.34), (0.35, 0.85)),
                ((0.35, 0.95), (0.52, 0.34)),
                ((-0.52, 0.34), (-0.02, 0.34)),
            ):
                bar((start[0] * heading, start[1]), (end[0] * heading, end[1]), 0.06, frame)
            bar((-0.12 * heading, 0.95), (0.12 * heading, 0.60), 0.18, trousers)
            bar((0.12 * heading, 0.60), (-0.02 * heading, 0.25), 0.15, trousers)
            bar((-0.15 * heading, 0.92), (0.12 * heading, 1.42), 0.30, coat)
            bar((0.12 * heading, 1.36), (0.38 * heading, 1.00), 0.11, self._shade(coat, 0.8))
            head = self._point(x + 0.20 * heading, 1.62, ahead)
        else:
            bar((0, 0.0), (0, 0.68), 0.10, (0.06, 0.06, 0.07))
            bar((-0.26, 1.02), (0.26, 1.02), 0.06, frame)
            for direction, foot in ((-1, 0.30), (1, 0.12)):
                bar((direction * 0.10, 0.92), (direction * 0.16, foot), 0.15, trousers)
            torso = [
                (x - 0.17, 0.88, ahead),
                (x + 0.17, 0.88, ahead),
                (x + 0.23, 1.42, ahead),
                (x - 0.23, 1.42, ahead),
            ]
            self._quad(torso, coat, BICYCLIST, depth=ahead)
            for direction in (-1, 1):
                bar(
                    (direction * 0.22, 1.38), (direction * 0.27, 1.03), 0.11, self._shade(coat, 0.8)
                )
            head = self._point(x, 1.60, ahead)
            if self.look.lights > 0.3:
                spot = self._point(x, 0.75, ahead)
                red = (0.9, 0.06, 0.05)
                self.canvas.ellipse(spot, (1.2, 1.2), red, BICYCLIST, ahead, 1.0, red)
        self.canvas.ellipse(head, (0.12 * pixel, 0.14 * pixel), skin, BICYCLIST, ahead)
        top = head - (0, 0.07 * pixel)
        self.canvas.ellipse(top, (0.13 * pixel, 0.09 * pixel), helmet, BICYCLIST, ahead)

    # ---- Roadworks ---------------------------------------------------------------------------

    def _place_roadworks(self) -> None:
        side = int(self.random.choice([-1, 1]))
        start = self.random.uniform(5.0, 7.0)
        inner, outer = side * 0.4, side * (self.road_half - 0.2)
        left, right = min(inner, outer), max(inner, outer)
        self._add(start + 8.0, self._paint_excavator, 0.5 * (inner + outer), start + 8.0)
        self._add(start + 6.0, self._paint_trench, inner, outer, start + 1.0, start + 6.0)
        for ahead in np.arange(start, start + 9.0, 1.3):
            self._add(ahead, self._paint_cone, inner, ahead)
        self._add(start + 0.5, self._paint_barrier, left, right, start + 0.5)
        self._add(start + 0.2, self._paint_sign, outer + side * 0.5, start + 0.2, works=True)
        for _ in range(2):
            ahead = start + self.random.uniform(1.5, 6.0)
            self._add(ahead, self._paint_pedestrian, self.random.uniform(left, right), ahead)

    def _paint_trench(self, inner: float, outer: float, start: float, stop: float) -> None:
        corners = [(inner, 0, start), (outer, 0, start), (outer, 0, stop), (inner, 0, stop)]
        self._quad(corners, self._vary((0.42, 0.31, 0.20), 0.05), ROAD, depth=self.ground_depth)

    def _paint_cone(self, x: float, ahead: float) -> None:
        orange, white = (0.95, 0.38, 0.08), (0.95, 0.95, 0.93)
        corners = [
            (x - 0.22, 0, ahead),
            (x + 0.22, 0, ahead),
            (x + 0.04, 0.75, ahead),
            (x - 0.04, 0.75, ahead),
        ]
        self._quad(corners, orange, POLE, depth=ahead)
        self._facing(x - 0.10, x + 0.10, 0.32, 0.46, ahead, white, POLE)

    def _paint_barrier(self, left: float, right: float, ahead: float) -> None:
        for low in (0.25, 0.75):
            for place, start in enumerate(np.arange(left, right, 0.4)):
                paint = (0.86, 0.10, 0.09) if place % 2 else (0.95, 0.95, 0.93)
                self._facing(start, min(start + 0.4, right), low, low + 0.32, ahead, paint, FENCE)
        for post in (left, right):
            self._facing(post - 0.05, post + 0.05, 0, 1.1, ahead, (0.5, 0.5, 0.5), FENCE)

    def _paint_excavator(self, x: float, ahead: float) -> None:
        yellow = self._vary((0.93, 0.70, 0.08), 0.03)
        self._facing(x - 1.2, x + 1.2, 0.0, 0.7, ahead, (0.10, 0.10, 0.10), CAR)
        self._facing(x - 1.1, x + 1.1, 0.7, 1.7, ahead, yellow, CAR)
        self._facing(x - 0.9, x + 0.3, 1.7, 2.8, ahead, yellow, CAR)
        self._facing(x - 0.7, x + 0.1, 1.8, 2.6, ahead, (0.2, 0.25, 0.3), CAR)
        thickness = self._pixels(0.35, ahead)
        joints = [
            self._point(x + 0.6, 1.6, ahead),
            self._point(x + 1.7, 3.8, ahead),
            self._point(x + 2.5, 1.6, ahead),
        ]
        for start, end in zip(joints[:-1], joints[1:], strict=True):
            self.canvas.line(start, end, thickness, yellow, CAR, ahead)

    # ---- Pixels without a class, and the finished picture ------------------------------------

    def _draw_unlabelled(self) -> None:
        canvas = self.canvas
        if self._chance(0.3):
            tall, width = canvas.height * self.random.uniform(0.03, 0.07), canvas.width
            centre = (width * self.random.uniform(0.4, 0.6), float(canvas.height))
            colour = self._vary((0.06, 0.06, 0.08), 0.03)
            canvas.ellipse(centre, (width * 0.62, tall), colour, VOID, 1.0)
        if self._chance(0.5):
            far = canvas.depth > 40
            rows = np.abs(np.arange(canvas.height) - self.camera.horizon)[:, None]
            columns = np.abs(np.arange(canvas.width) - self.camera.vanishing_x)[None, :]
            tiny = (rows < 0.012 * canvas.height + 1) & (columns < 0.03 * canvas.width + 1)
            canvas.labels[far & tiny & (canvas.labels != SKY)] = VOID

    def _noise(self, cells: int) -> np.ndarray:
        """Smooth noise in about [-1, 1] with ``cells`` bumps across, shape ``(H, W)``."""
        grid = self.random.uniform(-1.0, 1.0, size=(cells, cells)).astype(np.float32)
        size = (self.canvas.width, self.canvas.height)
        return cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)

    def _add_texture(self) -> None:
        canvas = self.canvas
        fine_of = np.full(256, _DEFAULT_TEXTURE, dtype=np.float32)
        coarse_of = np.full(256, _DEFAULT_TEXTURE, dtype=np.float32)
        fine_of[list(_FINE_TEXTURE)] = list(_FINE_TEXTURE.values())
        coarse_of[list(_COARSE_TEXTURE)] = list(_COARSE_TEXTURE.values())
        grain = self.random.normal(size=canvas.labels.shape).astype(np.float32)
        patches = self._noise(max(canvas.width // 12, 4)) + self._noise(max(canvas.width // 4, 4))
        gain = 1.0 + fine_of[canvas.labels] * grain + 0.7 * coarse_of[canvas.labels] * patches
        canvas.image *= np.clip(gain, 0.2, 1.9)[..., None]

    def _light_up(self) -> None:
        canvas, look = self.canvas, self.look
        sky = canvas.labels == SKY
        light = np.ones_like(canvas.image) * np.asarray(look.ambient, dtype=np.float32)
        if self.condition == 'night':
            columns = np.arange(canvas.width)[None, :]
            spread = (columns - self.camera.vanishing_x) / (0.33 * canvas.width)
            beam = np.exp(-(spread**2)) * np.exp(-canvas.depth / 16.0)
            rows = (np.arange(canvas.height) - self.camera.horizon)[:, None] / canvas.height
            beam = beam * (1 / (1 + np.exp(-(rows + 0.03) * 40)))
            light += 1.05 * beam[..., None] * np.array([1.0, 0.95, 0.80])
        if look.lights > 0.3:
            for foot, ahead in self.lamps:
                reach = self._pixels(3.2, ahead)
                rows, columns = np.ogrid[: canvas.height, : canvas.width]
                across, along = (columns - foot[0]) / reach, (rows - foot[1]) / reach * 1.6
                distance = across**2 + along**2
                close = np.abs(canvas.depth - ahead) < 5.0
                pool = 0.55 * look.lights * np.exp(-distance) * close
                light += pool[..., None] * np.array([1.0, 0.76, 0.42])
        light[sky] = 1.0
        canvas.image *= light
        if look.lights > 0:
            glow = canvas.emission * look.lights
            sigma = canvas.width / 45.0
            bloom = cv2.GaussianBlur(glow, (0, 0), sigma) + 0.5 * cv2.GaussianBlur(
                glow, (0, 0), 3 * sigma
            )
            canvas.image += 0.9 * glow + 0.9 * bloom

    def _add_weather(self) -> None:
        canvas = self.canvas
        if self.condition == 'rain':
            self._reflect_on_road()
        if self.snowy:
            lying = np.clip(self._noise(14) + self._noise(30) - 0.2, 0, 1)[..., None]
            top = np.isin(canvas.labels, (TREE, CAR, FENCE))[..., None]
            canvas.image += top * lying * 0.5 * (0.93 - canvas.image)
        visibility = self.look.visibility * self.random.uniform(0.8, 1.2)
        through = np.exp(-np.minimum(canvas.depth, 200.0) / visibility)
        haze = np.asarray(self.look.sky_bottom, dtype=np.float32)
        if self.condition != 'night':
            ground = (canvas.labels != SKY)[..., None]
            hazy = through[..., None] * canvas.image + (1 - through[..., None]) * haze
            canvas.image = np.where(ground, hazy, canvas.image).astype(np.float32)
        if self.condition in ('rain', 'snow'):
            self._draw_falling()

    def _reflect_on_road(self) -> None:
        canvas = self.canvas
        road = np.isin(canvas.labels, (ROAD, PAVEMENT))
        rows = np.clip(2 * self.camera.horizon - np.arange(canvas.height), 0, canvas.height - 1)
        smooth = cv2.GaussianBlur(canvas.image, (0, 0), 1.0, sigmaY=4.0)
        mirror = smooth[rows.astype(int)]
        wet = (0.38 + 0.18 * np.clip(self._noise(9), -1, 1))[..., None]
        canvas.image = np.where(
            road[..., None], (1 - wet) * canvas.image + wet * mirror, canvas.image
        ).astype(np.float32)

    def _draw_falling(self) -> None:
        canvas = self.canvas
        count = int(0.010 * canvas.width * canvas.height)
        slant = self.random.uniform(-0.15, 0.15)
        for _ in range(count if self.snowy else count // 2):
            x, y = self.random.uniform(0, canvas.width), self.random.uniform(0, canvas.height)
            if self.snowy:
                size = self.random.uniform(0.3, 0.9) * canvas.width / 160
                canvas.ellipse((x, y), (size, size), (0.97, 0.97, 0.98), opacity=0.75)
            else:
                length = self.random.uniform(4, 9) * canvas.height / 160
                canvas.line(
                    (x, y), (x + slant * length, y + length), 1, (0.8, 0.83, 0.86), opacity=0.28
                )

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Apply texture, light, weather and the camera's noise.

        Returns:
            Image as uint8 RGB of shape ``(H, W, 3)`` and labels of shape ``(H, W)``.
        """
        canvas = self.canvas
        self._add_texture()
        self._light_up()
        self._add_weather()
        exposure = self.random.uniform(0.88, 1.12)
        tint = 1.0 + self.random.uniform(-0.04, 0.04, size=3)
        # Small enough to soften stair-steps without moving an edge.
        image = cv2.GaussianBlur(canvas.image, (3, 3), 0.5) * (exposure * tint)
        image += self.random.normal(0.0, self.look.noise, size=image.shape)
        return (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8), canvas.labels
