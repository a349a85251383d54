"""The thorax of `phantom`: organs as shapes in millimetres, painted from the outside to the bones."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from inference_server.imaging._anatomy import AIR_HU, Grid, Point, Scene, Thorax

FAT_HU, MUSCLE_HU, FLUID_HU = -100.0, 50.0, 10.0


def paint_thorax(grid: Grid, thorax: Thorax, rng: np.random.Generator, *, table: bool) -> Scene:
    """Paint one patient.

    Args:
        grid: where the voxels lie.
        thorax: the patient's build.
        rng: places what varies without changing the build: vessels, bowel, tissue texture.
        table: whether the couch is painted.

    Returns:
        Scene with arrays of the grid's shape; ``body`` contains ``lungs`` and ``bone``.
    """
    scene = Scene.empty(grid.shape)
    if table:
        _paint_table(scene, grid, thorax)
    _paint_body(scene, grid, thorax)
    cavity = _cavity(grid, thorax)
    _paint_abdomen(scene, grid, thorax, rng)
    _paint_lungs(scene, grid, thorax, cavity)
    _paint_lung_vessels(scene, grid, thorax, rng)
    _paint_mediastinum(scene, grid, thorax)
    _paint_airways(scene, grid, thorax)
    _paint_ribs(scene, grid, thorax)
    _paint_spine(scene, grid, thorax)
    _paint_shoulders(scene, grid, thorax)
    scene.hu += scene.body * _texture(grid, rng)
    scene.lungs &= scene.body
    scene.bone &= scene.body
    return scene


def _texture(grid: Grid, rng: np.random.Generator) -> np.ndarray:
    coarse = rng.standard_normal(
        [max(2, int(n * s / 12)) for n, s in zip(grid.shape, grid.spacing_mm[::-1], strict=True)]
    )
    zoomed = ndimage.zoom(coarse.astype(np.float32), np.divide(grid.shape, coarse.shape), order=1)
    texture: np.ndarray = 12 * zoomed
    return texture


def _paint_table(scene: Scene, grid: Grid, thorax: Thorax) -> None:
    _, depth = thorax.outline(np.zeros(1))
    sag = depth[0] + 6 - (grid.x / 220) ** 2 * 18
    below = grid.y - sag
    on_couch = np.abs(grid.x) < 215
    scene.fill(on_couch & (below > 0) & (below < 34), -960.0)
    scene.fill(on_couch & ((np.abs(below - 2) < 2) | (np.abs(below - 32) < 2)), -150.0)


def _paint_body(scene: Scene, grid: Grid, thorax: Thorax) -> None:
    half_width, half_depth = thorax.outline(grid.z)
    for inset, hu in ((0.0, -20.0), (2.0, FAT_HU), (2.0 + thorax.fat_mm, MUSCLE_HU)):
        inside = (np.abs(grid.x) / (half_width - inset)) ** 2.4 + (np.abs(grid.y) / (half_depth - inset)) ** 2.4 < 1
        scene.fill(inside, hu)
        scene.body |= inside
    for arm in _arms(grid, thorax):
        scene.fill(arm < 44, FAT_HU)
        scene.fill(arm < 40 - thorax.fat_mm / 3, MUSCLE_HU)
        scene.body |= arm < 44


def _arms(grid: Grid, thorax: Thorax) -> list[np.ndarray]:
    """Distance from the axis of each upper arm that is in the picture."""
    s, out = thorax.size, thorax.fat_mm
    ends = {"down": (215 * s + out, 25.0, -320 * s), "up": (120 * s, -15.0, 420 * s)}
    if thorax.arms not in ends:
        return []
    x, y, z = ends[thorax.arms]
    return [grid.segment((side * 160 * s, 5.0, 135 * s), (side * x, y, z)) for side in (-1, 1)]


def _cavity(grid: Grid, thorax: Thorax) -> np.ndarray:
    half_width, half_depth = thorax.cage(grid.z)
    wall = thorax.rib_radius_mm + 2
    inside = (grid.x / np.maximum(half_width - wall, 1)) ** 2 + (grid.y / np.maximum(half_depth - wall, 1)) ** 2 < 1
    return inside & (grid.z < 148 * thorax.size)


def _dome_z(grid: Grid, thorax: Thorax) -> np.ndarray:
    """Height of the diaphragm, the left side being the lower one."""
    s = thorax.size
    fall = ((np.abs(grid.x) - 62 * s) / (88 * s)) ** 2 + ((grid.y + 8) / (95 * s)) ** 2
    height: np.ndarray = thorax.lung_base_mm - 12 * (grid.x > 0) - 75 * s * fall
    return height


def _paint_lungs(scene: Scene, grid: Grid, thorax: Thorax, cavity: np.ndarray) -> None:
    s = thorax.size
    behind = np.clip((grid.y - thorax.spine_y(grid.z) + 30 * s) / (45 * s), 0, 1)
    hilum = np.exp(-(((grid.z - 35) / 35) ** 2)) * np.exp(-(((grid.y - 5) / 30) ** 2))
    half_mediastinum = s * (17 + 8 * behind + 22 * hilum)
    lungs = cavity & (grid.z > _dome_z(grid, thorax)) & (np.abs(grid.x) > half_mediastinum)
    scene.fill(cavity & (grid.z > _dome_z(grid, thorax)), -60.0)
    # Blood sinks to the back of a supine patient's lungs.
    hu = thorax.lung_hu + 0.5 * (grid.y + 60)
    np.copyto(scene.hu, hu + np.zeros_like(scene.hu), where=lungs)
    scene.lungs |= lungs


def _paint_lung_vessels(scene: Scene, grid: Grid, thorax: Thorax, rng: np.random.Generator) -> None:
    for side in (-1, 1):
        hilum = (side * 38 * thorax.size, 5.0, 30.0)
        for _ in range(9):
            tip = (side * rng.uniform(60, 125), rng.uniform(-75, 70), rng.uniform(-110, 125))
            reach = grid.segment(hilum, tip)
            from_hilum = grid.ellipsoid(hilum, (140.0, 140.0, 140.0))
            scene.fill(scene.lungs & (reach < rng.uniform(3, 5) * np.clip(1 - from_hilum, 0.2, 1)), thorax.blood_hu)


def _paint_mediastinum(scene: Scene, grid: Grid, thorax: Thorax) -> None:
    s, r = thorax.size, thorax.heart_mm
    heart = grid.ellipsoid((24 * s, -28 * s, -22 * s), (1.25 * r, 0.95 * r, 1.15 * r)) < 1
    descending = np.hypot(grid.x - 20 * s, grid.y - thorax.spine_y(grid.z) + 30 * s) < 12 * s
    ascending = (np.hypot(grid.x + 6 * s, grid.y + 20 * s) < 16 * s) & (grid.z > 0) & (grid.z < 90 * s)
    aorta = (descending & (grid.z < 85 * s)) | ascending
    blood = (heart & (grid.z > _dome_z(grid, thorax) - 20)) | aorta
    scene.lungs &= ~blood
    scene.fill(blood, thorax.blood_hu)
    wall = heart & (grid.ellipsoid((24 * s, -28 * s, -22 * s), (1.25 * r - 12, 0.95 * r - 12, 1.15 * r - 12)) > 1)
    scene.fill(wall & blood, MUSCLE_HU + 0.3 * (thorax.blood_hu - 45))


def _paint_airways(scene: Scene, grid: Grid, thorax: Thorax) -> None:
    s = thorax.size
    carina, larynx = (0.0, 2.0, 55 * s), (0.0, -12.0, 300 * s)
    tubes = [(grid.segment(carina, larynx), 9 * s)]
    tubes += [(grid.segment(carina, (side * 42 * s, 4.0, 25 * s)), 6.5 * s) for side in (-1, 1)]
    for tube, radius in tubes:
        scene.fill((tube < radius + 2) & ~scene.lungs & scene.body, 20.0)
        scene.lungs &= tube >= radius
    for tube, radius in tubes:
        scene.fill((tube < radius) & scene.body, AIR_HU + 10)


def _paint_abdomen(scene: Scene, grid: Grid, thorax: Thorax, rng: np.random.Generator) -> None:
    s = thorax.size
    half_width, half_depth = thorax.cage(np.minimum(grid.z, -150.0))
    inner = (grid.x / (half_width - 8)) ** 2 + (grid.y / (half_depth - 8)) ** 2 < 1
    scene.fill(inner & (grid.z < -60), FAT_HU + 10)
    bright = 0.4 * (thorax.blood_hu - 45)
    organs = [
        ((-58 * s, -5.0, -135 * s), (88 * s, 78 * s, 85 * s), 60 + bright),
        ((85 * s, 40.0, -140 * s), (28.0, 42.0, 50.0), 50 + bright),
    ]
    organs += [((side * 62 * s, 45 * s, -245 * s), (28.0, 26.0, 52.0), 35 + 2 * bright) for side in (-1, 1)]
    for centre, radii, hu in organs:
        scene.fill(inner & (grid.ellipsoid(centre, radii) < 1), hu)
    guts = [((55 * s, -35.0, -125 * s), (46.0, 34.0, 48.0))]
    guts += [
        (
            (rng.uniform(-105, 105), rng.uniform(-75, 25), rng.uniform(-420, -190)),
            tuple(rng.uniform(14, 38, 3)),
        )
        for _ in range(14)
    ]
    for centre, radii in guts:
        _paint_gut(scene, inner, grid, (centre, radii), rng)


def _paint_gut(
    scene: Scene, inner: np.ndarray, grid: Grid, shape: tuple[Point, Point], rng: np.random.Generator
) -> None:
    """A hollow organ: gas collects at the front of a supine patient, above fluid."""
    centre, radii = shape
    distance = grid.ellipsoid(centre, radii)
    level = centre[1] + rng.uniform(-1.3, 1.0) * radii[1]
    scene.fill(inner & (distance < 1), MUSCLE_HU - 10)
    scene.fill(inner & (distance < 0.9), FLUID_HU)
    scene.fill(inner & (distance < 0.9) & (grid.y < level), AIR_HU + rng.uniform(0, 250))


def _paint_ribs(scene: Scene, grid: Grid, thorax: Thorax) -> None:
    half_width, half_depth = thorax.cage(grid.z)
    rho = np.hypot(grid.x / half_width, grid.y / half_depth)
    off_wall = (1 - 1 / np.maximum(rho, 1e-3)) * np.hypot(grid.x, grid.y)
    from_back = np.arctan2(np.abs(grid.x) / half_width, grid.y / half_depth)
    height = grid.z + 55 * thorax.size * np.sin(np.minimum(from_back, 2.3) / 2.3 * np.pi / 2) - thorax.rib_phase_mm
    number = np.rint(height / thorax.rib_pitch_mm)
    off_axis = height - number * thorax.rib_pitch_mm
    r = thorax.rib_radius_mm
    distance = np.hypot(off_wall / r, off_axis / (1.45 * r))
    distance[(np.abs(number - 0.5) > 5.6) | (np.abs(grid.x) < 26 * thorax.size)] = np.inf
    bony = from_back < np.clip(2.45 + 0.12 * number, 1.6, 2.45)
    scene.fill((distance < 1) & ~bony, 110.0)
    scene.lungs &= distance >= 1
    scene.add_bone(np.where(bony, distance, np.inf), thorax, cortex=0.35)
    sternum = np.hypot(grid.x / (18 * thorax.size), (grid.y + half_depth + 4) / 6.5)
    in_reach = (grid.z > -55 * thorax.size) & (grid.z < 105 * thorax.size)
    scene.add_bone(np.where(in_reach, sternum, np.inf), thorax, cortex=0.22)


def _paint_spine(scene: Scene, grid: Grid, thorax: Thorax) -> None:
    s, y = thorax.size, grid.y - thorax.spine_y(grid.z)
    width = 1 - 0.3 * np.clip(grid.z / (200 * s), -0.6, 1)
    # Position within one vertebra and the disc on top of it: 0 in the middle of the body, +-0.5 in the disc.
    phase = (grid.z - thorax.rib_phase_mm) / thorax.rib_pitch_mm
    level = np.abs(phase - np.rint(phase))
    body = np.hypot(grid.x / (19 * s * width), y / (15 * s * width))
    scene.fill(body < 1, 90.0)
    scene.lungs &= body >= 1
    scene.add_bone(np.where(level < 0.4, np.maximum(body, 1 - (0.4 - level) * 1.6), np.inf), thorax, cortex=0.1)
    back = y - 26 * s * width
    canal = np.hypot(grid.x / (9 * s), back / (8 * s))
    arch = np.maximum(np.abs(canal - 1.3) / 0.3, level / 0.3)
    spinous = np.hypot(np.hypot(grid.x / 4.5, (back - 25 * s) / (15 * s)), level / 0.34)
    transverse = np.hypot(np.hypot((np.abs(grid.x) - 22 * s) / (15 * s), (back - 6 * s) / 6.5), level / 0.3)
    scene.lungs &= canal >= 1.8
    for process in (arch, spinous, transverse):
        scene.add_bone(process, thorax, cortex=0.3)
    scene.bone &= canal >= 1
    scene.fill(canal < 1, 30.0)


def _paint_shoulders(scene: Scene, grid: Grid, thorax: Thorax) -> None:
    s = thorax.size
    for side in (-1, 1):
        clavicle = grid.segment((side * 18 * s, -62 * s, 118 * s), (side * 150 * s, -12 * s, 150 * s)) / 6
        head = grid.ellipsoid((side * 160 * s, 5 * s, 135 * s), (23.0, 23.0, 23.0))
        # The blade lies against the back of the rib cage, turned towards the side.
        across = side * (grid.x - side * 88 * s) * 0.82 - (grid.y - 72 * s) * 0.57
        through = side * (grid.x - side * 88 * s) * 0.57 + (grid.y - 72 * s) * 0.82
        blade = np.hypot(np.hypot(across / (46 * s), through / 4.5), (grid.z - 65 * s) / (68 * s))
        for bone, cortex in ((clavicle, 0.35), (head, 0.1), (blade, 0.45)):
            scene.add_bone(np.where(scene.lungs, np.inf, bone), thorax, cortex=cortex)
    for arm in _arms(grid, thorax):
        scene.add_bone(arm / 12, thorax, cortex=0.35)
