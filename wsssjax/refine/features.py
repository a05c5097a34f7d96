"""Dense features of photos: from any encoder of ours, or from files that another program wrote.

An encoder sees each photo at several scales and mirrored; its maps are averaged on the grid of the
first scale and kept as half floats. (The public code of MARS's authors does so with STEGO.) The
sides of a network input are taken up to a multiple, so that whole cells cover the whole photo: cell
i of p begins at i / p of the photo's height.

The fields of `config.features`:

source    encoder: the network of config.model.  files: `<id>.npy` in `folder`, float16 or float32
          [p,q,d], rows first, of whatever made them.
folder    files: where they lie.  encoder: where they are kept for the next pass or run; "" computes
          them again.
layer     which of the encoder's maps: features (the last), or tap0 to tap3.
scales    factors on a photo's sides.  flip: the mirror image of each, too.
grid      pixels: photos are first taken to the nearest multiples of it, so that few programs serve
          all sizes; 1 keeps each photo's own size.  multiple: of a network input's sides.
batch     photos per call.
"""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wsssjax.core import config as configs
from wsssjax.core import files, parallel, resize, threads, weights
from wsssjax.data import canvas as canvases
from wsssjax.data import photos
from wsssjax.models import registry

NO_MATTER = ("folder", "batch", "untrained")  # fields of config.features that change none
SETTINGS = "features.json"  # beside features that are kept: what they were made with
SOURCES = ("encoder", "files")
SIDE = 112  # pixels of the image that tells the shapes of parameters; a multiple of 14 and of 8
BENT = 2.0  # a grid whose sides are in another ratio than the photo's by more is another photo's
MAX_VALUES = 2**28  # of one file


def open_source(config: Any, paths: dict[str, pathlib.Path]) -> Computed | Stored:
    """The features of the photos `paths`, by id, as `config.features` says."""
    settings = config.features
    configs.choose(dict.fromkeys(SOURCES), settings.source, "config.features.source")
    if settings.source == "files":
        return Stored(settings.folder, paths)
    return Computed(config, paths)


# ---- from files --------------------------------------------------------------------------------


class Stored:
    """Features in the files of a folder; `batches` gives them, `made_with` names them."""

    def __init__(self, folder: str | os.PathLike, paths: dict[str, pathlib.Path]):
        if not folder or not os.path.isdir(folder):
            raise FileNotFoundError(f"config.features.folder={folder}: no such folder of features "
                                    "<id>.npy")
        self.folder, self.paths = pathlib.Path(folder), paths
        files.need_ids(paths, {name for name in paths if self.path(name).is_file()},
                       f"config.features.folder={folder}",
                       "add its <id>.npy, or name others with --ids")
        first = next(iter(paths))
        self.width = read(self.path(first)).shape[-1]

    def path(self, name: str) -> pathlib.Path:
        return self.folder / f"{name}.npy"

    def made_from(self, name: str) -> list[pathlib.Path]:
        """The files that a photo's features depend on."""
        return [self.path(name)]

    def made_with(self) -> dict:
        """What they depend on beside those files."""
        return {"source": "files", "folder": str(self.folder.resolve())}

    def batches(self, todo: Sequence[str]) -> Iterator[list[tuple[str, np.ndarray]]]:
        """Yields lists of (id, features float16 or float32 [p,q,d])."""
        size = threads.usable_cores()
        for first in range(0, len(todo), size):
            names = todo[first : first + size]
            yield list(zip(names, threads.each(self._checked, names, chunk=1), strict=True))

    def _checked(self, name: str) -> np.ndarray:
        """The features of one photo; ValueError where their grid cannot be the photo's."""
        found_pqd, (h, w) = read(self.path(name)), photos.photo_size(self.paths[name])
        p, q, d = found_pqd.shape
        if d != self.width:
            raise ValueError(f"{self.path(name)}: {d} channels, those of {next(iter(self.paths))} "
                             f"have {self.width}; want [p,q,d], the same d for all")
        if not 1 / BENT <= (p * w) / (q * h) <= BENT:
            raise ValueError(f"{self.path(name)}: a grid of {p} x {q} on a photo of {h} x {w} "
                             "(h x w); want [p,q,d], rows first")
        return found_pqd


def read(path: str | os.PathLike) -> np.ndarray:
    """Features float16 or float32 [p,q,d] of a .npy file, checked."""
    cure = "want a .npy of finite float16 or float32 [p,q,d]"
    try:
        # Mapped, a header that promises more than the file holds is an error before memory is
        # taken for it.
        found_pqd = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: no features ({error}); {cure}") from None
    shape = getattr(found_pqd, "shape", ())
    if len(shape) != 3 or 0 in shape or found_pqd.dtype not in (np.float16, np.float32):
        raise ValueError(f"{path}: {getattr(found_pqd, 'dtype', 'no array')} of shape "
                         f"{list(shape)}; {cure}")
    if found_pqd.size > MAX_VALUES:
        raise ValueError(f"{path}: {found_pqd.size} values, the limit is {MAX_VALUES}; {cure}")
    found_pqd = np.array(found_pqd)
    if not np.isfinite(found_pqd).all():
        raise ValueError(f"{path}: NaN or infinity; {cure}")
    return found_pqd


# ---- from an encoder ---------------------------------------------------------------------------


class Computed:
    """Features of an encoder; `batches` gives them, `made_with` says how they come about."""

    def __init__(self, config: Any, paths: dict[str, pathlib.Path]):
        self.config, self.settings, self.paths = config, config.features, paths
        self.forward, multiples = encoder(config)
        check(self.settings, multiples)
        found = threads.each(lambda name: photos.photo_size(paths[name]), list(paths))
        self.plan = plan(dict(zip(paths, found, strict=True)), self.settings)
        self.folder = pathlib.Path(self.settings.folder) if self.settings.folder else None
        if self.folder:
            files.claim(self.folder / SETTINGS, self.made_with(), "--config.features.folder")

    def made_from(self, name: str) -> list[pathlib.Path]:
        """The files that a photo's features depend on."""
        return [self.paths[name]]

    def made_with(self) -> dict:
        """What they depend on beside those files' contents."""
        plain, file = configs.to_dict(self.config), self.config.model.encoder_weights
        return {
            **{k: v for k, v in plain["features"].items() if k not in NO_MATTER},
            "model": {k: v for k, v in plain["model"].items() if k != "encoder_weights"},
            "weights": weights.fingerprint(file) if file else "drawn",
            "precision": plain["precision"],
            # An id alone does not tell a photo: other folders have the same names.
            "photos": sorted({str(path.resolve().parent) for path in self.paths.values()}),
            "colours": [plain["data"]["mean"], plain["data"]["std"]]}

    def batches(self, todo: Sequence[str]) -> Iterator[list[tuple[str, np.ndarray]]]:
        """Yields lists of (id, features float16 [p,q,d]).

        Photos are batched as if all were to do, so that a resumed run computes the same bits.
        """
        wanted = set(todo)
        for names in self.plan:
            own = [name for name in names if name in wanted]
            if own and self.folder and all(self._kept(name) for name in own):
                yield [(name, read(self._path(name))) for name in own]
            elif own:
                found = dict(zip(names, self._compute(names), strict=True))
                if self.folder:
                    for name, one_pqd in found.items():
                        with files.atomic(self._path(name)) as file:
                            np.save(file, one_pqd)
                yield [(name, found[name]) for name in own]

    def _path(self, name):
        return self.folder / f"{name}.npy"

    def _kept(self, name):
        return files.newer([self._path(name)], [self.paths[name]])

    def _compute(self, names):
        """The features of photos of one canvas."""
        images = list(threads.each(lambda name: photos.read_photo(self.paths[name]), names,
                                   chunk=1))
        return compute(self.forward, images, self.settings, self.config.data)


def check(settings: Any, strides: Sequence[int]) -> None:
    """ValueError for a field of `config.features` of no meaning. strides: of the encoder's maps."""
    for name in ("grid", "multiple", "batch"):
        if settings[name] < 1:
            raise ValueError(f"config.features.{name}={settings[name]}: want 1 or more")
    if len(set(strides)) == 1 and settings.multiple % strides[0]:  # patches, which must be whole
        raise ValueError(f"config.features.multiple={settings.multiple}: want a multiple of "
                         f"{strides[0]}, the encoder's patch")
    if not settings.scales or min(settings.scales) <= 0:
        raise ValueError(f"config.features.scales={settings.scales}: want factors above 0")


def encoder(config: Any) -> tuple[Callable, tuple[int, ...]]:
    """(float32 [b,h,w,3] → features [b,p,q,d], strides of the maps) of config.model's encoder.

    The rows of a call are spread over the devices of this host.
    """
    if not config.model.encoder_weights and not config.features.untrained:
        raise ValueError("config.model.encoder_weights is empty; give --weights=FILE, those of "
                         f"{config.model.encoder}")
    parallel.set_precision(config.precision)
    module, layer = registry.build_encoder(config.model), config.features.layer
    image_bhwc = jnp.zeros((1, SIDE, SIDE, 3), jnp.float32)
    first = functools.partial(module.init, train=False)
    variables = jax.jit(first)(jax.random.key(0), image_bhwc)
    maps = jax.eval_shape(functools.partial(module.apply, train=False), variables, image_bhwc)[1]
    configs.choose({name: 0 for name, x in maps.items() if len(x.shape) == 4}, layer,
                   "config.features.layer")
    variables = registry.load_encoder({k: {"backbone": v} for k, v in variables.items()},
                                      config.model)
    variables = parallel.replicate({k: v["backbone"] for k, v in variables.items()})

    def forward(variables, image_bhwc):
        return module.apply(variables, image_bhwc, train=False)[1][layer].astype(jnp.float32)

    return functools.partial(parallel.compile_forward(forward), variables), module.tap_strides


def compute(forward: Callable, images: Sequence[np.ndarray], settings: Any,
            data: Any) -> list[np.ndarray]:
    """Features float16 [p,q,d] of photos uint8 [h,w,3] whose canvas is the same.

    forward: see `encoder`; it gets the mirror images behind the others.  settings:
    config.features.  data: config.data, for mean and std.  A short batch is filled up with its last
    photo, so that there is one program per size.
    """
    rows = [*images, *images[-1:] * (settings.batch - len(images))]
    total_bpqd, grid = 0.0, None
    for scale in settings.scales:
        size = input_size(images[0].shape[:2], scale, settings)
        image_bhwc = np.stack([_network_input(image, size, data) for image in rows])
        if settings.flip:
            image_bhwc = np.concatenate([image_bhwc, image_bhwc[:, :, ::-1]])
        found_bpqd = forward(image_bhwc)
        grid = grid or found_bpqd.shape[1:3]
        total_bpqd = total_bpqd + _merge(found_bpqd, grid, settings.flip)
    mean_bpqd = np.asarray(total_bpqd, np.float32)[: len(images)] / len(settings.scales)
    with np.errstate(over="ignore"):
        half_bpqd = mean_bpqd.astype(np.float16)
    if not np.isfinite(half_bpqd).all():
        raise ValueError("config.features: values that half floats cannot hold; take another "
                         "layer or other weights")
    return list(half_bpqd)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _merge(found_bpqd, grid, flip):
    """The maps of photos and, behind them, of their mirror images, averaged on the grid."""
    if flip:
        plain_bpqd, mirrored_bpqd = jnp.split(found_bpqd, 2)
        found_bpqd = (plain_bpqd + mirrored_bpqd[:, :, ::-1]) / 2
    return resize.resize_half_pixel(found_bpqd, grid)


def _network_input(photo_hw3, size, data):
    """float32 [h,w,3]: the photo at `size` by Pillow bicubic, normalised."""
    return canvases.normalise(canvases.scaled(photo_hw3, size), data.mean, data.std)


def canvas(size: tuple[int, int], settings: Any) -> tuple[int, int]:
    """(h, w) that counts as scale 1 for a photo of `size`; photos that share it share batches."""
    return canvases.nearest(size, settings.grid)


def input_size(size: tuple[int, int], scale: float, settings: Any) -> tuple[int, int]:
    """(h, w) of the network's input for a photo of `size`."""
    scaled = [max(1, round(side * scale)) for side in canvas(size, settings)]
    return canvases.up(scaled, settings.multiple)


def plan(sizes: dict[str, tuple[int, int]], settings: Any) -> list[list[str]]:
    """Batches of ids whose canvas is the same, see `data.canvas.plan`."""
    return canvases.plan(sizes, functools.partial(canvas, settings=settings), settings.batch)
