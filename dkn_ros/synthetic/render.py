"""A small ray caster: boxes, ellipsoids and cylinders with procedural textures, a lamp and its shadows.

Every primitive is a unit shape seen through an affine map, so one ray test a shape serves stretched and turned ones.
Only the pixels inside a primitive's projected bounding box are tested, which makes a 640 x 480 frame of a furnished
room a matter of a tenth of a second.  World and camera axes: x right, y down, z forward (REP 103, optical frame).
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from dkn_ros.compiled import compiled

BOX, ELLIPSOID, CYLINDER, ROOM = range(4)
"""Shapes: [-1, 1]^3; the unit ball; radius 1 around z in [-1, 1]; a box seen from inside."""
PLAIN, CLOUDS, CHECKER, STRIPES, WOOD, PATCHES, GRAIN, PRINT, TILES = range(9)
"""Textures, all between a material's two colours except PATCHES and PRINT, which draw their own."""

NEAREST = 0.05
"""Metres; what is nearer to the camera is not drawn."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class World:
    """Arrays that the compiled loops read; N primitives."""

    shape: NDArray[np.int64]
    """N."""
    centre: Array
    """Nx3, metres."""
    axes: Array
    """Nx3x3, columns are the half-axes in metres: world = centre + axes @ local."""
    texture: NDArray[np.int64]
    """N."""
    colours: Array
    """Nx2x3, linear 0..1."""
    grain: Array
    """N, cycles of the texture a metre."""
    lamp: Array
    """3, position of the light."""
    ambient: float
    """Share of light that comes from everywhere, 0..1."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion."""

    width: int
    height: int
    focal_length: float
    """Pixels."""
    position: Array
    """3, metres."""
    rotation: Array
    """3x3, columns are the camera's axes in the world."""


def render(world: World, camera: Camera) -> tuple[Array, Array]:
    """Linear colour HxWx3 in 0..1 and depth HxW in metres (z, not the distance along the ray)."""
    as32 = np.float32
    depth, which, inverse = _seen(world, camera)
    colour = np.zeros((*depth.shape, 3), as32)
    _shade(
        world.shape, world.centre, inverse.astype(as32), np.linalg.norm(world.axes, axis=1).astype(as32),
        world.texture, world.colours, world.grain, world.lamp.astype(as32), as32(world.ambient),
        camera.position.astype(as32), camera.rotation.astype(as32), as32(camera.focal_length), depth, which, colour,
    )  # fmt: skip
    return colour, depth


def render_depth(world: World, camera: Camera) -> Array:
    """The depth of `render`, without the time that the light takes."""
    return _seen(world, camera)[0]


def _seen(world: World, camera: Camera) -> tuple[Array, NDArray[np.int32], NDArray[np.float64]]:
    """Depth, which primitive each pixel sees, and the inverse of the primitives' axes."""
    as32 = np.float32
    inverse = np.linalg.inv(world.axes.astype(np.float64))
    origin = np.einsum("nij,nj->ni", inverse, camera.position - world.centre)
    direction = inverse @ camera.rotation.astype(np.float64)
    depth = np.full((camera.height, camera.width), np.inf, np.float32)
    which = np.full(depth.shape, -1, np.int32)
    bounds, focal_length = _bounds(world, camera), as32(camera.focal_length)
    _cast(world.shape, origin.astype(as32), direction.astype(as32), bounds, focal_length, depth, which)
    return depth, which, inverse


def _bounds(world: World, camera: Camera) -> NDArray[np.int64]:
    """Nx4: first and last-plus-one column and row that each primitive may cover."""
    corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
    points = world.centre[:, None] + np.einsum("nij,cj->nci", world.axes, corners)
    seen = (points - camera.position) @ camera.rotation
    bounds = np.empty((len(points), 4), np.int64)
    z = seen[..., 2]
    behind = (z < NEAREST).all(axis=1)
    across = (z < NEAREST).any(axis=1)
    z = np.maximum(z, NEAREST)
    for axis, size in enumerate((camera.width, camera.height)):
        pixel = seen[..., axis] / z * camera.focal_length + size / 2
        bounds[:, 2 * axis] = np.clip(np.floor(pixel.min(axis=1)), 0, size)
        bounds[:, 2 * axis + 1] = np.clip(np.ceil(pixel.max(axis=1)) + 1, 0, size)
        bounds[across, 2 * axis] = 0
        bounds[across, 2 * axis + 1] = size
    bounds[behind] = 0
    return bounds


@compiled(nogil=True, inline="always")
def _hit(shape, ox, oy, oz, dx, dy, dz):  # type: ignore[no-untyped-def]
    """Ray parameter at which o + t d meets the unit shape (ROOM: leaves it), or -1."""
    if shape == ELLIPSOID:
        a = dx * dx + dy * dy + dz * dz
        b = ox * dx + oy * dy + oz * dz
        c = ox * ox + oy * oy + oz * oz - 1.0
        root = b * b - a * c
        return (-b - np.sqrt(root)) / a if root > 0.0 else -1.0
    near, far = -1e30, 1e30
    # Slab tests: of z for the cylinder, of all three axes for the boxes.
    for axis in range(3):
        if shape == CYLINDER and axis < 2:
            continue
        o = ox if axis == 0 else (oy if axis == 1 else oz)
        d = dx if axis == 0 else (dy if axis == 1 else dz)
        if abs(d) < 1e-9:
            if abs(o) > 1.0:
                return -1.0
            continue
        t0, t1 = (-1.0 - o) / d, (1.0 - o) / d
        near, far = max(near, min(t0, t1)), min(far, max(t0, t1))
    if shape == CYLINDER:
        a = dx * dx + dy * dy
        b = ox * dx + oy * dy
        c = ox * ox + oy * oy - 1.0
        root = b * b - a * c
        if root <= 0.0 or a < 1e-12:
            return -1.0 if (c > 0.0 or near > far) else near
        root = np.sqrt(root)
        near, far = max(near, (-b - root) / a), min(far, (-b + root) / a)
    if near > far:
        return -1.0
    return far if shape == ROOM else near


@compiled(nogil=True, parallel=True, error_model="numpy")
def _cast(shape, origin, direction, bounds, focal_length, depth, which):  # type: ignore[no-untyped-def]
    height, width = depth.shape
    for v in numba.prange(height):
        y = (v + 0.5 - height / 2) / focal_length
        for n in range(shape.shape[0]):
            if v < bounds[n, 2] or v >= bounds[n, 3]:
                continue
            o, d = origin[n], direction[n]
            for u in range(bounds[n, 0], bounds[n, 1]):
                x = (u + 0.5 - width / 2) / focal_length
                t = _hit(
                    shape[n], o[0], o[1], o[2],
                    d[0, 0] * x + d[0, 1] * y + d[0, 2],
                    d[1, 0] * x + d[1, 1] * y + d[1, 2],
                    d[2, 0] * x + d[2, 1] * y + d[2, 2],
                )  # fmt: skip
                if t > NEAREST and t < depth[v, u]:
                    depth[v, u] = t
                    which[v, u] = n


@compiled(nogil=True)
def _hash(x, y, z):  # type: ignore[no-untyped-def]
    """A number in 0..1 for a cell of the integer lattice."""
    h = np.uint32(x * 73856093) ^ np.uint32(y * 19349663) ^ np.uint32(z * 83492791)
    h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(1274126177))
    return np.float32((h ^ (h >> np.uint32(16))) & np.uint32(0xFFFF)) / np.float32(65535.0)


@compiled(nogil=True)
def _noise(x, y, z):  # type: ignore[no-untyped-def]
    """Value noise in 0..1 with features of size 1."""
    ix, iy, iz = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
    fx, fy, fz = x - ix, y - iy, z - iz
    fx, fy, fz = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy), fz * fz * (3 - 2 * fz)
    total = 0.0
    for k in range(8):
        a, b, c = k & 1, (k >> 1) & 1, k >> 2
        share = (fx if a else 1 - fx) * (fy if b else 1 - fy) * (fz if c else 1 - fz)
        total += share * _hash(ix + a, iy + b, iz + c)
    return total


@compiled(nogil=True)
def _mix(texture, x, y, z):  # type: ignore[no-untyped-def]
    """Where between its two colours a material is at a point, 0..1."""
    if texture == CLOUDS:
        return 0.55 * _noise(x, y, z) + 0.3 * _noise(2.7 * x, 2.7 * y, 2.7 * z) + 0.15 * _noise(7 * x, 7 * y, 7 * z)
    if texture == CHECKER:
        return float((int(np.floor(x)) + int(np.floor(y)) + int(np.floor(z))) & 1)
    if texture == STRIPES:
        wave = 0.5 + 0.5 * np.sin(6.28 * (x + 0.6 * y + 0.3 * z))
        return min(1.0, max(0.0, 4.0 * wave - 1.5))
    if texture == WOOD:
        wave = np.sin(9.0 * (x + 0.15 * z) + 5.0 * _noise(x, 0.3 * y, z) + 2.0 * _noise(6 * x, y, 6 * z))
        return 0.5 + 0.35 * wave + 0.15 * (_noise(20 * x, 3 * y, 20 * z) - 0.5)
    if texture == GRAIN:
        return 0.5 * _hash(int(np.floor(4 * x)), int(np.floor(4 * y)), int(np.floor(4 * z))) + 0.5 * _noise(x, y, z)
    if texture == PRINT:
        # Blots of all sizes with hard edges, as printed cloth, posters and book covers have them.
        blots = 0.6 * _noise(0.5 * x, 0.5 * y, 0.5 * z) + 0.4 * _noise(1.9 * x, 1.9 * y, 1.9 * z)
        return min(1.0, max(0.0, 14.0 * (blots - 0.5) + 0.5)) * (0.75 + 0.25 * _noise(9 * x, 9 * y, 9 * z))
    if texture == TILES:
        fx, fy, fz = x - np.floor(x), y - np.floor(y), z - np.floor(z)
        # Two coordinates in a joint: on a face between tiles that is a grid of lines, elsewhere dots at their corners.
        joint = (fx < 0.05) + (fy < 0.05) + (fz < 0.05)
        return 1.0 if joint >= 2 else 0.25 * _hash(int(np.floor(x)), int(np.floor(y)), int(np.floor(z)))
    return 0.15 * _noise(x, y, z)


@compiled(nogil=True)
def _lit(shape, centre, inverse, radius, skip, px, py, pz, qx, qy, qz):  # type: ignore[no-untyped-def]
    """Whether the segment from p to q meets no primitive (the room and `skip` not counted)."""
    dx, dy, dz = qx - px, qy - py, qz - pz
    length2 = dx * dx + dy * dy + dz * dz
    for n in range(shape.shape[0]):
        if shape[n] == ROOM or n == skip:
            continue
        cx, cy, cz = px - centre[n, 0], py - centre[n, 1], pz - centre[n, 2]
        # Distance of the segment from the bounding sphere's centre: most primitives end here.
        s = min(1.0, max(0.0, -(cx * dx + cy * dy + cz * dz) / length2))
        ex, ey, ez = cx + s * dx, cy + s * dy, cz + s * dz
        if ex * ex + ey * ey + ez * ez > radius[n] * radius[n]:
            continue
        m = inverse[n]
        t = _hit(
            shape[n],
            m[0, 0] * cx + m[0, 1] * cy + m[0, 2] * cz,
            m[1, 0] * cx + m[1, 1] * cy + m[1, 2] * cz,
            m[2, 0] * cx + m[2, 1] * cy + m[2, 2] * cz,
            m[0, 0] * dx + m[0, 1] * dy + m[0, 2] * dz,
            m[1, 0] * dx + m[1, 1] * dy + m[1, 2] * dz,
            m[2, 0] * dx + m[2, 1] * dy + m[2, 2] * dz,
        )  # fmt: skip
        if t > 0.002 and t < 1.0:
            return False
    return True


@compiled(nogil=True, parallel=True, error_model="numpy")
def _shade(  # type: ignore[no-untyped-def]
    shape, centre, inverse, half, texture, colours, grain, lamp, ambient,
    position, rotation, focal_length, depth, which, colour,
):  # fmt: skip
    height, width = depth.shape
    radius = np.empty(shape.shape[0], np.float32)
    for n in range(shape.shape[0]):
        # Of the bounding sphere: corners of a box are the farthest points of any shape.
        radius[n] = np.sqrt(half[n, 0] ** 2 + half[n, 1] ** 2 + half[n, 2] ** 2)
    for v in numba.prange(height):
        for u in range(width):
            n = which[v, u]
            if n < 0:
                continue
            z = depth[v, u]
            x, y = (u + 0.5 - width / 2) / focal_length * z, (v + 0.5 - height / 2) / focal_length * z
            px = position[0] + rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2] * z
            py = position[1] + rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2] * z
            pz = position[2] + rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2] * z
            rx, ry, rz = px - centre[n, 0], py - centre[n, 1], pz - centre[n, 2]
            m = inverse[n]
            lx = m[0, 0] * rx + m[0, 1] * ry + m[0, 2] * rz
            ly = m[1, 0] * rx + m[1, 1] * ry + m[1, 2] * rz
            lz = m[2, 0] * rx + m[2, 1] * ry + m[2, 2] * rz
            # Local normal, then to the world by the inverse transpose.
            if shape[n] == ELLIPSOID:
                a, b, c = lx, ly, lz
            elif shape[n] == CYLINDER and abs(lz) < 0.999:
                a, b, c = lx, ly, np.float32(0.0)
            elif shape[n] == CYLINDER or (abs(lz) >= abs(lx) and abs(lz) >= abs(ly)):
                a, b, c = np.float32(0.0), np.float32(0.0), lz
            elif abs(lx) >= abs(ly):
                a, b, c = lx, np.float32(0.0), np.float32(0.0)
            else:
                a, b, c = np.float32(0.0), ly, np.float32(0.0)
            nx = m[0, 0] * a + m[1, 0] * b + m[2, 0] * c
            ny = m[0, 1] * a + m[1, 1] * b + m[2, 1] * c
            nz = m[0, 2] * a + m[1, 2] * b + m[2, 2] * c
            norm = np.sqrt(nx * nx + ny * ny + nz * nz) * (-1.0 if shape[n] == ROOM else 1.0)
            tx, ty, tz = lamp[0] - px, lamp[1] - py, lamp[2] - pz
            distance = np.sqrt(tx * tx + ty * ty + tz * tz)
            facing = (nx * tx + ny * ty + nz * tz) / (norm * distance)
            light = ambient * (0.8 + 0.2 * ny / norm * -1.0)
            if facing > 0.0:
                # A lamp has a size: a different point of it for every pixel softens the shadow.
                j = 0.12 * (_hash(u, v, 7) - 0.5), 0.12 * (_hash(u, v, 8) - 0.5), 0.12 * (_hash(u, v, 9) - 0.5)
                if _lit(
                    shape, centre, inverse, radius, n if shape[n] != ROOM else -1, px, py, pz,
                    lamp[0] + j[0], lamp[1] + j[1], lamp[2] + j[2],
                ):  # fmt: skip
                    light += (1.0 - ambient) * facing * 5.0 / (1.0 + distance * distance)
            g = grain[n]
            sx, sy, sz = lx * half[n, 0] * g, ly * half[n, 1] * g, lz * half[n, 2] * g
            s = _mix(texture[n], sx, sy, sz)
            for k in range(3):
                first, second = colours[n, 0, k], colours[n, 1, k]
                if texture[n] == PATCHES:
                    ix, iy, iz = int(np.floor(sx)), int(np.floor(1.7 * sy)), int(np.floor(sz))
                    second = _hash(ix + 31 * k, iy, iz)
                    s = 0.8
                elif texture[n] == PRINT:
                    # The colour of the blots changes from place to place.
                    second = 0.3 * second + 0.7 * _noise(0.4 * sx + 17.0 * k, 0.4 * sy, 0.4 * sz)
                colour[v, u, k] = min(np.float32(1.0), (first + s * (second - first)) * light)
