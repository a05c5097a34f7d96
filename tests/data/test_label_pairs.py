"""Crops of photos with several label sets: everything moves together, and as torch resizes."""

import numpy as np
import pytest
from PIL import Image

from wsssjax.core import config as configs
from wsssjax.data import batch as batches
from wsssjax.data import cam_file, label_map, label_pairs

MEAN = (0.5, 0.25, 0.75)


def crop(**changes):
    fields = dict(low=32, high=48, crop=32, flip_p=0.5, square=True, keys=("knowledge", "advice"),
                  mean=MEAN, photo=True)
    return label_pairs.GridCrop(**(fields | changes))


def example(h, w, seed=0, classes=4):
    """A photo whose red says the knowledge and whose green the advice, in large patches."""
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, classes, (2, 3, 3)), np.ones((1, 40, 40)))[:, :h, :w]
    labels = labels.astype(np.uint8)
    image = np.stack([labels[0] * 60, labels[1] * 60, labels[0] * 0], -1)
    numbers = np.arange(classes, dtype=np.uint8)
    return {"name": "x", "image": image, "tags": np.ones(classes - 1, np.float32)} | {
        key: label_pairs.Scores(numbers, (x == numbers[:, None, None]).astype(np.float32))
        for key, x in zip(("knowledge", "advice"), labels, strict=True)}


@pytest.mark.parametrize("square", [True, False])
def test_photo_and_both_sets_move_together(square):
    flips = 0
    for seed in range(12):
        out = crop(square=square)(example(90, 110, seed), np.random.default_rng(seed))
        assert out["knowledge"].shape == out["advice"].shape == out["valid"].shape == (8, 8)
        assert out["image"].shape == (32, 32, 3) and out["photo"].shape == (8, 8, 3)
        for channel, key in enumerate(("knowledge", "advice")):
            shown = out["photo"][..., channel] / 60
            sure = np.abs(shown - np.round(shown)) < 0.02
            assert (sure & out["valid"]).sum() > 15
            same = np.round(shown) == out[key]
            # Not all: on an edge, colours of classes 1 and 3 make that of class 2.
            assert same[sure & out["valid"]].mean() > 0.93, (seed, key)
        flips += (out["image"] != crop(square=square, flip_p=0.0)(
            example(90, 110, seed), np.random.default_rng(seed))["image"]).any()
    assert 2 < flips < 10


def test_beyond_the_photo_is_the_mean_colour_and_ignored():
    out = crop(square=False, low=32, high=32, flip_p=0.0)(example(40, 80), np.random.default_rng(0))
    assert out["valid"].tolist() == [[True] * 8] * 4 + [[False] * 8] * 4
    np.testing.assert_array_equal(out["image"][16:], np.broadcast_to([128, 64, 191], (16, 32, 3)))
    for key in ("knowledge", "advice"):
        assert ((out[key] == 255) == ~out["valid"]).all()


def test_scores_are_resized_as_torch_does_it_and_decided_last():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    maps = rng.random((5, 37, 53)).astype(np.float32)
    classes = np.uint8([0, 2, 3, 7, 9])
    given = {"name": "x", "image": np.zeros((37, 53, 3), np.uint8), "tags": np.ones(1),
             "knowledge": label_pairs.Scores(classes, maps)}
    out = crop(keys=("knowledge",), low=32, high=32, flip_p=0.0)(given, rng)

    def bilinear(x, size):
        return torch.nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)

    small = bilinear(bilinear(torch.tensor(maps)[None], (32, 32)), (8, 8))[0].numpy()
    np.testing.assert_array_equal(out["knowledge"], classes[small.argmax(0)])
    scores = given["knowledge"]
    np.testing.assert_array_equal(label_pairs.grid_label(scores, (32, 32)), out["knowledge"])
    full = bilinear(torch.tensor(maps)[None], (99, 61))[0].numpy()
    np.testing.assert_array_equal(label_pairs.full_label(scores, (99, 61)),
                                  classes[full.argmax(0)])


def write(root, kind="png"):
    for name, (h, w) in {"a": (60, 50), "b": (40, 70), "c": (30, 30)}.items():
        one = example(h, w, ord(name))
        (root / "photos").mkdir(parents=True, exist_ok=True)
        Image.fromarray(one["image"]).save(root / f"photos/{name}.png")
        for key in ("knowledge", "advice"):
            if kind == "png":
                label_map.write(root / f"{key}/{name}.png", label_pairs.decide(one[key]))
            else:
                cam_file.write(root / f"{key}/{name}.npz", one[key].classes, one[key].maps, (h, w))


def source(root, **options):
    sets = {key: label_pairs.LabelSet(root / key, 4, f"--{key}") for key in ("knowledge", "advice")}
    return label_pairs.Source(root / "photos", sets, 4, **options)


@pytest.mark.parametrize("kind", ["png", "npz"])
def test_label_maps_and_their_scores_are_one(tmp_path, kind):
    write(tmp_path, kind)
    examples = source(tmp_path)
    assert examples.ids == ["a", "b", "c"]
    for index, name in enumerate(examples.ids):
        one = examples[index]
        want = example(*one["image"].shape[:2], ord(name))
        for key in ("knowledge", "advice"):
            np.testing.assert_array_equal(label_pairs.full_label(one[key], one["image"].shape[:2]),
                                          label_pairs.decide(want[key]))
        present = [(label_pairs.decide(want["knowledge"]) == c).any() for c in (1, 2, 3)]
        assert one["tags"].tolist() == present and one["tags"].dtype == np.float32


def test_scores_come_before_the_label_map_beside_them(tmp_path):
    """By photo; their class maps without a background are none, and the label map is read."""
    write(tmp_path)
    for name, classes in (("a", [0, 2]), ("c", [2])):
        maps = np.full((len(classes), 4, 4), 0.25)
        maps[-1] = 0.75
        cam_file.write(tmp_path / f"knowledge/{name}.npz", classes, maps,
                       {"a": (60, 50), "c": (30, 30)}[name])
    examples = source(tmp_path)
    assert examples.ids == ["a", "b", "c"]
    scores = examples[0]["knowledge"]
    assert scores.classes.tolist() == [0, 2] and scores.maps.shape == (2, 4, 4)
    assert (label_pairs.full_label(scores, (60, 50)) == 2).all()
    for index, name in ((1, "b"), (2, "c")):
        np.testing.assert_array_equal(
            label_pairs.decide(examples[index]["knowledge"]),
            label_map.read(tmp_path / f"knowledge/{name}.png", 4))
    made_from = examples.sets["knowledge"].made_from
    assert [p.name for p in made_from("c")] == ["c.npz", "c.png"]
    assert [p.name for p in made_from("b")] == ["b.png"]
    (tmp_path / "knowledge/c.png").unlink()
    with pytest.raises(ValueError, match="c.npz: no scores of the background"):
        source(tmp_path)[2]


def test_ids_and_tags_of_files(tmp_path):
    write(tmp_path)
    told = {"c": np.float32([0, 0, 1])}
    assert source(tmp_path, ids=["c"], image_tags=told)[0]["tags"].tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match=r"no tags of 'a' \(2 of 3 ids missing\)"):
        source(tmp_path, image_tags=told)
    with pytest.raises(FileNotFoundError, match="--x=nowhere: no such folder"):
        label_pairs.LabelSet("nowhere", 4, "--x")
    cam_file.write(tmp_path / "soft/a.npz", [0, 9], np.zeros((2, 60, 50)), (60, 50))
    cam_file.write(tmp_path / "soft/b.npz", [0, 1], np.zeros((2, 4, 4)), (60, 50))
    soft = label_pairs.LabelSet(tmp_path / "soft", 4, "--x")
    with pytest.raises(ValueError, match="scores of class 9; want 0..3"):
        soft.scores("a", (60, 50))
    with pytest.raises(ValueError, match="photo of 60 x 50; its image has 40 x 70"):
        soft.scores("b", (40, 70))


def test_batches_hold_to_the_table_and_repeat(tmp_path):
    write(tmp_path)
    (tmp_path / "classes.txt").write_text("background\nx\ny\nz\n")
    config = configs.load("configs/refine_voc_ssdd_static.py", {
        "data.images": str(tmp_path / "photos"), "data.knowledge": str(tmp_path / "knowledge"),
        "data.advice": str(tmp_path / "advice"), "classes": str(tmp_path / "classes.txt"),
        "data.side": "(32,40)", "data.crop": "32", "data.workers": "0", "device_batch": "1"})
    examples = label_pairs.source(config, ("knowledge", "advice"))
    assert label_pairs.lengths(config, examples) == (1, 11)
    found = []
    for _ in range(2):
        loader = label_pairs.batches(config, examples, photo=True)
        found.append([next(loader) for _ in range(3)])
        loader.close()
    for one, two in zip(*found, strict=True):
        assert set(batches.device_arrays(one)) == {"image", "photo", "tags", "valid", "knowledge",
                                                   "advice"}
        for key, x in batches.device_arrays(one).items():
            np.testing.assert_array_equal(x, two[key])


def test_stored_maps_as_released(tmp_path):
    """Exchanged, for half of the photos mirrored, and deaf to what happens to the photo."""
    rng, mirrored = np.random.default_rng(0), 0
    read = label_pairs.AsReleased(folder=str(tmp_path), grid=8)
    for name in map(str, range(20)):
        maps = np.float16(rng.random((2, 8, 8)))
        cam_file.write(tmp_path / f"{name}.npz", [0, 1], maps, (50, 60))
        got = [read({"name": name}, rng)["differences"] for _ in range(2)]
        np.testing.assert_array_equal(*got)
        same = (got[0] == maps[::-1]).all()
        assert same or (got[0] == maps[::-1, :, ::-1]).all()
        mirrored += not same
    assert 4 < mirrored < 16
    wide = label_pairs.AsReleased(folder=str(tmp_path), grid=12)
    assert wide({"name": "3"}, rng)["differences"].shape == (2, 12, 12)
    with pytest.raises(FileNotFoundError, match="x.npz: no such stored maps"):
        read({"name": "x"}, rng)
    cam_file.write(tmp_path / "x.npz", [0, 1, 2], np.zeros((3, 8, 8)), (50, 60))
    with pytest.raises(ValueError, match="x.npz: 3 maps; want two, of knowledge and advice"):
        read({"name": "x"}, rng)
