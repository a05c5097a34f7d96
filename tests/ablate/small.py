"""A recipe that takes seconds: generated photos, two given label sets, two training steps."""

import pathlib

import numpy as np

from wsssjax.data import label_map, shapes
from wsssjax.data.classes import SHAPES_CLASSES

CONFIG = str(pathlib.Path(__file__).parents[2] / "configs/quickstart.py") + ":tiny"
TRAIN, TEST, SIZE = 16, 4, 64


def write_labels(folder: pathlib.Path) -> None:
    """The sets `a` and `b`: the truth with a part of each photo mistaken, another in each."""
    for name in "ab":
        rng = np.random.default_rng(ord(name))
        for id_, _, label_hw, _, _ in shapes.generate(TRAIN, SIZE, 0):
            found_hw = label_hw.copy()
            cut = rng.integers(0, max(1, label_hw.shape[0] // 2))
            found_hw[:cut] = 0
            label_map.write(folder / name / f"{id_}.png", found_hw)


def overrides(folder: pathlib.Path, **more) -> dict[str, str]:
    """Changes to CONFIG; `folder` holds the label sets.  more: `a__b=1` for `a.b`."""
    quota = "{" + ", ".join(f'"{name}": 1' for name in SHAPES_CLASSES[1:]) + "}"
    changes = {
        "data.train_count": TRAIN, "data.test_count": TEST, "data.size": SIZE,
        "given.a": folder / "a", "given.b": folder / "b", "given.seen.a": "I",
        "given.seen.b": "I+S", "pair": "A,B", "arms": "S",
        "select.quota_spec": quota, "segmenter_encoder": "weights",
        "segmenter.method": "supervised", "segmenter.total_steps": 2, "segmenter.log_steps": 1,
        "segmenter.save_steps": 1, "segmenter.device_batch": 2, "segmenter.data.crop": 32,
        "segmenter.model.head_width": 8}
    changes |= {name.replace("__", "."): value for name, value in more.items()}
    return {name: str(value) for name, value in changes.items()}


def flags(folder: pathlib.Path, **more) -> list[str]:
    """The same as flags of a command."""
    return [f"--config={CONFIG}",
            *(f"--config.{name}={value}" for name, value in overrides(folder, **more).items())]


def grid_overrides(folder: pathlib.Path, **more) -> dict[str, str]:
    """Changes to CONFIG for an ablation, whose arms are an axis and learn from all photos."""
    found = overrides(folder, **({"segmenter__method": "unimatch_v2"} | more))
    return {name: value for name, value in found.items() if name != "arms"}


def grid_flags(folder: pathlib.Path, **more) -> list[str]:
    """The same as flags of tools/ablate.py."""
    return [f"--config={CONFIG}", *(f"--config.{name}={value}" for name, value in
                                    grid_overrides(folder, **more).items())]
