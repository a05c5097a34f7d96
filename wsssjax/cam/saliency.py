"""Training-free saliency: what stands out against the image border, 0..255 per pixel.

Method: J. Zhang, S. Sclaroff, Z. Lin, X. Shen, B. Price, R. Mech, "Minimum Barrier Salient Object
Detection at 80 FPS", ICCV 2015 (the MB+ variant with its post-processing). The barrier of a path
is the highest minus the lowest value on it; a pixel is salient if every path to the border has a
high barrier. Raster scans approximate the minimum over paths.

    python -m wsssjax.cam.saliency --images=photos --out=saliency
"""

from __future__ import annotations

import pathlib

import cv2
import numpy as np
from skimage.morphology import reconstruction

from wsssjax.core import cli, files, threads
from wsssjax.core.compiled import jit
from wsssjax.data import photos

WORK_SIDE = 300  # pixels; the paper measures every length on an image of this size
SCANS = 3  # raster, inverse, raster
BORDER = 0.1  # of a side: the strips whose colours stand for the background
KERNEL = 50.0  # width of the smoothing kernel at mean saliency 1, pixels of the 300 px image
CONTRAST = 10.0  # steepness of the final sigmoid


def saliency(image_hw3: np.ndarray) -> np.ndarray:
    """Saliency of one photo: uint8 [h,w], 255 = most salient.

    image_hw3: uint8 [h,w,3], RGB. Work happens at 300 px; smaller photos are not enlarged.
    """
    assert image_hw3.dtype == np.uint8 and image_hw3.ndim == 3, (image_hw3.dtype, image_hw3.shape)
    h, w = image_hw3.shape[:2]
    scale = min(1.0, WORK_SIDE / max(h, w))
    small = (max(1, round(w * scale)), max(1, round(h * scale)))
    work_hw3 = cv2.resize(image_hw3, small, interpolation=cv2.INTER_AREA)
    lab_hw3 = cv2.cvtColor(work_hw3, cv2.COLOR_RGB2LAB).astype(np.float32)
    barrier_hw = sum(barrier_distance(lab_hw3[..., i]) for i in range(3))
    map_hw = _unit(barrier_hw) + _unit(border_contrast(lab_hw3))
    map_hw = _enhance(_centre(_smooth(_unit(map_hw))))
    map_hw = cv2.resize(map_hw, (w, h), interpolation=cv2.INTER_LINEAR)
    return np.rint(map_hw.clip(0.0, 1.0) * 255.0).astype(np.uint8)


def barrier_distance(values_hw: np.ndarray, scans: int = SCANS) -> np.ndarray:
    """Minimum barrier from every pixel to the border: float32 [h,w], never below the exact one.

    values_hw: float32 [h,w].  scans: how often the image is swept, in turns from either corner.
    """
    return _sweep(np.ascontiguousarray(values_hw, np.float32), scans)


def border_contrast(lab_hw3: np.ndarray) -> np.ndarray:
    """Colour distance to the border strips: float32 [h,w], the least of it counted out.

    Mahalanobis distance to each of the four strips, each map scaled to a maximum of 1; the map
    with the largest value at a pixel is left out there, since one side may cut the object.
    """
    h, w = lab_hw3.shape[:2]
    rows, columns = max(1, round(h * BORDER)), max(1, round(w * BORDER))
    strips = (lab_hw3[:rows], lab_hw3[-rows:], lab_hw3[:, :columns], lab_hw3[:, -columns:])
    maps = []
    for strip in strips:
        colours_n3 = strip.reshape(-1, 3).astype(np.float64)
        mean_3 = colours_n3.mean(0)
        centred_n3 = colours_n3 - mean_3
        # One grey level of variance keeps the matrix invertible where a strip has a single colour.
        covariance_33 = centred_n3.T @ centred_n3 / len(centred_n3) + np.eye(3)
        offset_hw3 = lab_hw3 - mean_3
        square_hw = ((offset_hw3 @ np.linalg.inv(covariance_33)) * offset_hw3).sum(-1)
        maps.append(_unit(np.sqrt(square_hw)))
    maps_shw = np.stack(maps)
    return (maps_shw.sum(0) - maps_shw.max(0)).astype(np.float32)


def saliency_folder(images: str | pathlib.Path, out: str | pathlib.Path) -> list[str]:
    """Ids written now; `<out>/<id>.png` holds the saliency of every photo, finished ones are kept.

    images: folder of photos, or a list file.  out: folder, made if absent.
    """
    out = pathlib.Path(out)
    paths = files.photo_paths(images)
    out.mkdir(parents=True, exist_ok=True)
    files.sweep(out)
    todo = [name for name in paths if not (out / f"{name}.png").exists()]

    def make(name):
        map_hw = saliency(photos.read_photo(paths[name]))
        with files.atomic(out / f"{name}.png") as file:
            file.write(photos.encode_png(map_hw))

    # Compiled and cached once, before threads ask for it at the same time.
    barrier_distance(np.zeros((3, 3), np.float32))
    for _ in threads.each(make, todo, "saliency"):
        pass
    return todo


def main(arguments: list[str]) -> None:
    """Nothing; writes the saliency maps that the flags ask for."""
    parser = cli.parser("python -m wsssjax.cam.saliency", __doc__.split("\n")[0],
                        "python -m wsssjax.cam.saliency --images=photos --out=saliency")
    parser.add_argument("--images", required=True, help="folder of JPEG or PNG photos, or a list")
    parser.add_argument("--out", required=True, help="folder for <id>.png, 0..255")
    flags = parser.parse_args(arguments)
    saliency_folder(flags.images, flags.out)


@jit
def _sweep(values_hw, scans):
    """Distance map after `scans` sweeps; each pixel takes over the path of a visited neighbour."""
    h, w = values_hw.shape
    distance_hw = np.full((h, w), np.inf, np.float32)
    high_hw, low_hw = values_hw.copy(), values_hw.copy()
    distance_hw[0], distance_hw[-1] = 0.0, 0.0
    distance_hw[:, 0], distance_hw[:, -1] = 0.0, 0.0
    for scan in range(scans):
        forward = scan % 2 == 0
        step = -1 if forward else 1  # towards the neighbours this sweep has already visited
        for row in range(1, h - 1):
            i = row if forward else h - 1 - row
            for column in range(1, w - 1):
                j = column if forward else w - 1 - column
                value = values_hw[i, j]
                for side in range(2):
                    u, v = (i + step, j) if side == 0 else (i, j + step)
                    high = max(high_hw[u, v], value)
                    low = min(low_hw[u, v], value)
                    if high - low < distance_hw[i, j]:
                        distance_hw[i, j] = high - low
                        high_hw[i, j], low_hw[i, j] = high, low
    return distance_hw


def _unit(map_hw):
    """The map with its maximum scaled to 1; a map of zeros stays."""
    return map_hw / max(float(map_hw.max()), 1e-12)


def _smooth(map_hw):
    """Small bright and dark spots gone, contours kept: opening, then closing, by reconstruction."""
    # The more is salient, the larger the objects, the larger what may be smoothed away.
    width = max(1, round(KERNEL * np.sqrt(map_hw.mean()) * max(map_hw.shape) / WORK_SIDE))
    kernel = np.ones((width, width), np.uint8)
    map_hw = reconstruction(np.minimum(cv2.erode(map_hw, kernel), map_hw), map_hw, "dilation")
    map_hw = map_hw.astype(np.float32)
    return reconstruction(np.maximum(cv2.dilate(map_hw, kernel), map_hw), map_hw, "erosion")


def _centre(map_hw):
    """The map weighted by 1 in the middle, falling in a straight line to 0 in the corners."""
    h, w = map_hw.shape
    rows_h, columns_w = np.arange(h) - (h - 1) / 2, np.arange(w) - (w - 1) / 2
    radius_hw = np.hypot(rows_h[:, None], columns_w[None, :])
    return map_hw * (1.0 - _unit(radius_hw))


def _enhance(map_hw):
    """The map stretched to 0..1 and pushed to both ends by a sigmoid around 0.5."""
    map_hw = _unit(map_hw - map_hw.min())
    return (1.0 / (1.0 + np.exp(-CONTRAST * (map_hw - 0.5)))).astype(np.float32)


if __name__ == "__main__":
    cli.run(main)
