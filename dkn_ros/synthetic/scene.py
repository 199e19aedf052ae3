"""Procedural RGB-D scenes: furnished rooms seen by a camera that moves, with the true depth of every pixel.

Textures and shadows do not follow depth edges, and some objects have the colour of what is behind them: a network that
learns here must not believe the colour image alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from dkn_ros.synthetic.render import BOX, CYLINDER, ELLIPSOID, ROOM, Camera, World, render

Array = NDArray[np.float32]
Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Frame:
    """One view of a scene."""

    rgb: NDArray[np.uint8]
    """HxWx3."""
    depth: Array
    """HxW, metres, true and complete."""
    focal_length: float
    """Pixels, with the principal point in the image's centre."""


@dataclass(frozen=True)
class Material:
    """Texture, two colours and cycles a metre, see `render.World`."""

    texture: int
    colours: Array
    grain: float


@dataclass
class _Builder:
    """Collects primitives; lengths in metres, y points down, the floor is y = 0."""

    rng: np.random.Generator
    shapes: list[int] = field(default_factory=list)
    centres: list[Array] = field(default_factory=list)
    axes: list[Array] = field(default_factory=list)
    materials: list[Material] = field(default_factory=list)

    def material(self) -> Material:
        """A new one, or (often, so that edges hide) one that is in the scene already."""
        rng = self.rng
        if self.materials and rng.random() < 0.25:
            return self.materials[int(rng.integers(len(self.materials)))]
        # Rooms are mostly dull: walls, wood and cloth lie near grey, a third of the things are as bright as toys.
        base = rng.random(3) ** 1.5 if rng.random() < 0.35 else rng.random() ** 1.3 + 0.08 * rng.standard_normal(3)
        other = base * rng.uniform(0.3, 1.6) if rng.random() < 0.6 else rng.random(3)
        colours = np.clip(np.stack((base, other)), 0.02, 0.95).astype(np.float32)
        texture = int(rng.choice(9, p=[0.32, 0.18, 0.04, 0.08, 0.12, 0.05, 0.07, 0.1, 0.04]))
        return Material(texture, colours, float(np.exp(rng.uniform(np.log(1.5), np.log(30.0)))))

    def add(self, shape: int, centre: Vector, half: Vector, material: Material, turn: Array | None = None) -> None:
        axes = np.diag(np.asarray(half, np.float32))
        self.shapes.append(shape)
        self.centres.append(np.asarray(centre, np.float32))
        self.axes.append(axes if turn is None else (turn @ axes).astype(np.float32))
        self.materials.append(material)


class _Piece:
    """A place in the room that furniture is built at: a point on the floor or on a board, and a heading."""

    def __init__(self, builder: _Builder, x: float, y: float, z: float, heading: float) -> None:
        self.builder, self.origin = builder, np.array([x, y, z])
        c, s = np.cos(heading), np.sin(heading)
        self.turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], np.float32)

    def at(self, x: float, y: float, z: float) -> Vector:
        p = self.origin + self.turn @ np.array([x, y, z])
        return float(p[0]), float(p[1]), float(p[2])

    def box(self, x: float, y: float, z: float, half: Vector, material: Material) -> None:
        self.builder.add(BOX, self.at(x, y, z), half, material, self.turn)

    def ball(self, x: float, y: float, z: float, half: Vector, material: Material, turn: Array | None = None) -> None:
        self.builder.add(ELLIPSOID, self.at(x, y, z), half, material, self.turn if turn is None else turn)

    def pole(self, x: float, y: float, z: float, radius: float, half_height: float, material: Material) -> None:
        upright = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], np.float32)  # the cylinder's z along the world's y
        self.builder.add(CYLINDER, self.at(x, y, z), (radius, radius, half_height), material, upright)


def _table(p: _Piece, rng: np.random.Generator) -> None:
    w, d, h = rng.uniform(0.3, 0.9), rng.uniform(0.25, 0.5), rng.uniform(0.35, 0.8)
    top, leg = p.builder.material(), p.builder.material()
    p.box(0, -h, 0, (w, 0.02, d), top)
    thick = rng.uniform(0.012, 0.035)
    for x in (-0.92 * w, 0.92 * w):
        for z in (-0.9 * d, 0.9 * d):
            p.pole(x, -h / 2, z, thick, h / 2, leg)
    for _ in range(int(rng.integers(1, 6))):
        x, z = rng.uniform(-0.8, 0.8) * w, rng.uniform(-0.8, 0.8) * d
        _thing(_Piece(p.builder, *p.at(x, -h - 0.02, z), rng.uniform(0, 6.28)), rng)


def _chair(p: _Piece, rng: np.random.Generator) -> None:
    w, h, back = rng.uniform(0.18, 0.26), rng.uniform(0.38, 0.5), rng.uniform(0.3, 0.6)
    wood, seat = p.builder.material(), p.builder.material()
    p.box(0, -h, 0, (w, 0.025, w), seat)
    for x in (-w, w):
        for z in (-w, w):
            p.pole(x, -h / 2, z, 0.014, h / 2, wood)
        p.pole(x, -h - back / 2, w, 0.013, back / 2, wood)
    if rng.random() < 0.5:
        p.box(0, -h - 0.7 * back, w, (w, 0.25 * back, 0.012), seat)
    else:
        for x in np.linspace(-w, w, int(rng.integers(4, 8)))[1:-1]:
            p.pole(float(x), -h - back / 2, w, 0.008, back / 2, wood)
        p.box(0, -h - back, w, (w, 0.02, 0.014), wood)


def _shelf(p: _Piece, rng: np.random.Generator) -> None:
    w, d, boards = rng.uniform(0.3, 0.6), rng.uniform(0.12, 0.2), int(rng.integers(2, 6))
    gap = rng.uniform(0.25, 0.4)
    wood = p.builder.material()
    for x in (-w, w):
        p.box(x, -gap * boards / 2, 0, (0.015, gap * boards / 2, d), wood)
    for level in range(boards + 1):
        p.box(0, -gap * level, 0, (w, 0.012, d), wood)
        x = -w + 0.05
        while level < boards and x < w - 0.1 and rng.random() < 0.93:
            thick, tall = rng.uniform(0.012, 0.05), rng.uniform(0.4, 0.9) * gap / 2
            if rng.random() < 0.8:
                p.box(x + thick, -gap * level - 0.012 - tall, 0, (thick, tall, d * rng.uniform(0.5, 0.9)),
                      p.builder.material())  # fmt: skip
            x += 2 * thick + rng.choice([0.002, 0.1])


def _sofa(p: _Piece, rng: np.random.Generator) -> None:
    w, cloth = rng.uniform(0.5, 1.0), p.builder.material()
    p.box(0, -0.22, 0, (w, 0.2, 0.4), cloth)
    p.box(0, -0.6, 0.35, (w, 0.25, 0.1), cloth)
    for x in (-w, w):
        p.box(x, -0.45, 0, (0.1, 0.15, 0.4), cloth)
    for _ in range(int(rng.integers(0, 4))):
        turn = _any_turn(rng)
        p.ball(rng.uniform(-0.8, 0.8) * w, -0.55, rng.uniform(0.0, 0.25), (0.2, 0.2, 0.08), p.builder.material(), turn)


def _lamp(p: _Piece, rng: np.random.Generator) -> None:
    h, metal = rng.uniform(0.4, 1.7), p.builder.material()
    p.pole(0, -h / 2, 0, 0.012, h / 2, metal)
    p.pole(0, -0.01, 0, 0.12, 0.01, metal)
    if rng.random() < 0.5:
        p.pole(0, -h, 0, rng.uniform(0.1, 0.2), rng.uniform(0.07, 0.15), p.builder.material())
    else:
        p.ball(0, -h, 0, (0.13, 0.13, 0.13), p.builder.material())


def _plant(p: _Piece, rng: np.random.Generator) -> None:
    pot, leaf = p.builder.material(), p.builder.material()
    size = rng.uniform(0.4, 1.0)
    p.pole(0, -0.15 * size, 0, 0.13 * size, 0.15 * size, pot)
    for _ in range(int(rng.integers(8, 22))):
        a, lift, reach = rng.uniform(0, 6.28), rng.uniform(0.35, 1.3) * size, rng.uniform(0.05, 0.4) * size
        p.ball(reach * np.cos(a), -lift, reach * np.sin(a), (0.16 * size, 0.035 * size, 0.01), leaf, _any_turn(rng))


def _cabinet(p: _Piece, rng: np.random.Generator) -> None:
    w, h, d = rng.uniform(0.2, 0.6), rng.uniform(0.2, 1.0), rng.uniform(0.2, 0.35)
    front = p.builder.material()
    p.box(0, -h, 0, (w, h, d), front)
    for i in range(int(rng.integers(0, 4))):
        p.box(0, -h * (0.4 + 0.45 * i), -d - 0.01, (0.07, 0.01, 0.01), p.builder.material())
    if rng.random() < 0.6:
        _thing(_Piece(p.builder, *p.at(rng.uniform(-0.5, 0.5) * w, -2 * h, 0), rng.uniform(0, 6.28)), rng)


def _thing(p: _Piece, rng: np.random.Generator) -> None:
    """Something that stands on a table."""
    kind, material = int(rng.integers(5)), p.builder.material()
    size = rng.uniform(0.5, 1.5)
    if kind == 0:  # a bottle
        p.pole(0, -0.1 * size, 0, 0.035 * size, 0.1 * size, material)
        p.pole(0, -0.24 * size, 0, 0.012 * size, 0.05 * size, material)
    elif kind == 1:  # a screen
        p.box(0, -0.25 * size, 0, (0.26 * size, 0.16 * size, 0.012), material)
        p.box(0, -0.05 * size, 0, (0.03, 0.05 * size, 0.02), p.builder.material())
        p.box(0, -0.005, 0, (0.12 * size, 0.005, 0.08), material)
    elif kind == 2:  # a ball, a bowl
        p.ball(0, -0.08 * size, 0, (0.09 * size, rng.uniform(0.04, 0.09) * size, 0.09 * size), material)
    elif kind == 3:  # boxes, books
        y = 0.0
        for _ in range(int(rng.integers(1, 4))):
            half = (rng.uniform(0.05, 0.15) * size, rng.uniform(0.01, 0.08) * size, rng.uniform(0.05, 0.12) * size)
            p.box(0, y - half[1], 0, half, p.builder.material())
            y -= 2 * half[1]
    else:  # a desk lamp
        _lamp(p, rng)


def _clutter(p: _Piece, rng: np.random.Generator) -> None:
    """Anything, anywhere in the air: shapes at angles that no furniture has."""
    for _ in range(int(rng.integers(1, 4))):
        half = tuple(float(v) for v in np.exp(rng.uniform(np.log(0.01), np.log(0.35), 3)))
        height = -float(rng.uniform(0.1, 2.0))
        place = p.at(rng.uniform(-0.4, 0.4), height, rng.uniform(-0.4, 0.4))
        shape = int(rng.choice([BOX, ELLIPSOID, CYLINDER]))
        p.builder.add(shape, place, (half[0], half[1], half[2]), p.builder.material(), _any_turn(rng))


_FURNITURE = (_table, _table, _chair, _chair, _shelf, _sofa, _lamp, _plant, _cabinet, _clutter, _clutter)


def _any_turn(rng: np.random.Generator) -> Array:
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    return np.asarray(q * np.sign(np.diag(r)), np.float32)


class Scene:
    """A furnished room and a camera path through it, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        build = _Builder(rng)
        self._half = np.array([rng.uniform(1.3, 3.5), rng.uniform(1.2, 1.6), rng.uniform(1.3, 3.5)], np.float32)
        width, height, length = (float(v) for v in self._half)
        build.add(ROOM, (0, -height, 0), (width, height, length), build.material())
        floor = build.material()
        build.add(BOX, (0, 0.0, 0), (width, 0.004, length), floor)
        self._walls(build, rng)
        for _ in range(int(rng.integers(6, 16))):
            x, z = rng.uniform(-0.85, 0.85) * width, rng.uniform(-0.85, 0.85) * length
            piece = _FURNITURE[int(rng.integers(len(_FURNITURE)))]
            piece(_Piece(build, x, 0.0, z, rng.uniform(0, 6.28)), rng)
        lamp = np.array([rng.uniform(-0.7, 0.7) * width, -2 * height + 0.2, rng.uniform(-0.7, 0.7) * length])
        self.world = World(
            shape=np.array(build.shapes, np.int64),
            centre=np.stack(build.centres),
            axes=np.stack(build.axes),
            texture=np.array([m.texture for m in build.materials], np.int64),
            colours=np.stack([m.colours for m in build.materials]),
            grain=np.array([m.grain for m in build.materials], np.float32),
            lamp=lamp.astype(np.float32),
            ambient=float(rng.uniform(0.25, 0.7)),
        )
        self._place_camera(rng)
        self._finish = np.random.default_rng(seed + 1_000_003)
        self._focal = float(rng.uniform(0.75, 1.0))
        self._exposure = float(rng.uniform(0.7, 1.6))
        self._tint = rng.uniform(0.85, 1.15, 3).astype(np.float32)
        self._softness = float(rng.uniform(0.35, 0.9))
        self._sensor_noise = float(rng.uniform(0.5, 4.0))

    def _walls(self, build: _Builder, rng: np.random.Generator) -> None:
        """Pictures, curtains and bars on the walls."""
        width, height, length = (float(v) for v in self._half)
        for _ in range(int(rng.integers(1, 7))):
            side = int(rng.integers(4))
            wall, run = (length, width) if side % 2 == 0 else (width, length)
            p = _Piece(build, 0, 0, 0, side * np.pi / 2)
            x, y = rng.uniform(-0.8, 0.8) * run, -rng.uniform(0.5, 0.9) * height * 2 * 0.8
            kind = int(rng.integers(3))
            if kind == 0:
                p.box(x, y, wall - 0.02, (rng.uniform(0.1, 0.5), rng.uniform(0.1, 0.4), 0.02), build.material())
            elif kind == 1:
                cloth = build.material()
                for i in range(int(rng.integers(4, 14))):
                    p.pole(x + 0.09 * i, -height, wall - 0.06, 0.055, 0.95 * height, cloth)
            else:
                bar = build.material()
                for i in range(int(rng.integers(2, 6))):
                    p.box(x + 0.2 * i, y, wall - 0.05, (0.02, 0.4, 0.03), bar)

    def _place_camera(self, rng: np.random.Generator) -> None:
        """Stand where the view is free for a while ahead, and look across the room."""
        best = -1.0
        for _ in range(12):
            corner = rng.uniform(-0.85, 0.85, 2) * self._half[[0, 2]]
            position = np.array([corner[0], -rng.uniform(0.6, 1.8), corner[1]], np.float32)
            aim = rng.uniform(-0.4, 0.4, 2) * self._half[[0, 2]] - corner
            yaw, pitch = float(np.arctan2(aim[0], aim[1])), float(rng.uniform(-0.1, 0.5))
            camera = Camera(32, 24, 28.0, position, _look(yaw, pitch))
            depth = render(self.world, camera)[1]
            free = float(np.percentile(depth, 5)) + 0.3 * float(np.std(depth))
            if free > best:
                best, self._position, self._yaw, self._pitch = free, position, yaw, pitch
            if best > 0.9:
                break

    def camera(self, width: int = 640, height: int = 480, time: float = 0.0, focal_length: float = 0.0) -> Camera:
        """Where the camera is at `time` (seconds): it sways and turns slowly about its place.

        focal_length: over the width of the image; 0: the scene's own.
        """
        sway = np.array([0.12 * np.sin(0.9 * time), 0.05 * np.sin(0.7 * time), 0.08 * np.sin(0.5 * time)], np.float32)
        rotation = _look(self._yaw + 0.1 * np.sin(0.6 * time), self._pitch + 0.04 * np.sin(0.8 * time))
        return Camera(width, height, (focal_length or self._focal) * width, self._position + rotation @ sway, rotation)

    def frame(self, width: int = 640, height: int = 480, time: float = 0.0, focal_length: float = 0.0) -> Frame:
        """What `camera` sees."""
        camera = self.camera(width, height, time, focal_length)
        colour, depth = render(self.world, camera)
        return Frame(self._develop(colour), depth, camera.focal_length)

    def _develop(self, colour: Array) -> NDArray[np.uint8]:
        """What the colour camera makes of the light: exposure, tint, lens, gamma, noise."""
        light = cv2.GaussianBlur(colour * (self._exposure * self._tint), (0, 0), self._softness)
        image = 255.0 * np.clip(light, 0, 1) ** np.float32(1 / 2.2)
        noise = self._finish.standard_normal(image.shape, dtype=np.float32)
        return np.clip(image + np.float32(self._sensor_noise) * noise, 0, 255).astype(np.uint8)


def _look(yaw: float, pitch: float) -> Array:
    """Rotation of a camera that is turned right by `yaw`, then tilted down by `pitch` (radians)."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    tilt = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    return np.asarray(turn @ tilt, np.float32)
