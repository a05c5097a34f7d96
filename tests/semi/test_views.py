"""The two streams of photos that the trainings see."""

import shutil

import numpy as np
import pytest
from PIL import Image

from wsssjax.data import label_map
from wsssjax.data.batch import device_arrays
from wsssjax.data.classes import VOC_CLASSES
from wsssjax.semi import views

SIZES = [(30, 44), (44, 30), (25, 25), (60, 50), (18, 70), (32, 32)]


@pytest.fixture
def photos(tmp_path):
    """Six photos whose grey value is ten times the class of the pixel, and the two lists."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i, size in enumerate(SIZES):
        label = rng.integers(0, 21, size, dtype=np.uint8)
        label[0] = 255
        grey = np.where(label == 255, 255, label * 10).astype(np.uint8)
        Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / f"photos/p{i}.png")
        label_map.write(tmp_path / f"labels/p{i}.png", label)
    labelled = [f"photos/p{i}.png labels/p{i}.png" for i in range(3)]
    (tmp_path / "labeled.txt").write_text("\n".join(labelled))
    # As in UniMatch's lists: a label is named, and never looked at.
    unlabelled = [f"photos/p{i}.png none/p{i}.png" for i in range(3, 6)]
    (tmp_path / "unlabeled.txt").write_text("\n".join(unlabelled))
    return tmp_path


def settings(kit, folder, **changes):
    """Views without resizing, so that every pixel of a batch can be told apart."""
    config = kit.config(data__root=str(folder), data__labeled=str(folder / "labeled.txt"),
                        data__unlabeled=str(folder / "unlabeled.txt"), data__crop=40,
                        data__scale=(1.0, 1.0), data__workers=0, device_batch=3)
    for name, value in changes.items():
        node = config.data.strong if name in config.data.strong else config.data
        node[name] = value
    return config


def grey(image_bhwc, config):
    """Grey values 0..255 of normalised images."""
    grey_bhw = image_bhwc[..., 0] * config.data.std[0] + config.data.mean[0]
    return np.rint(grey_bhw * 255).astype(int)


def test_labels_stay_on_their_pixels_and_padding_is_ignored(kit, photos):
    config = settings(kit, photos)
    loader = views.semi_loader(config)
    for _ in range(4):
        batch = device_arrays(next(loader))
        label, shade = batch["label"], grey(batch["image"], config)
        real = label != 255
        np.testing.assert_array_equal(shade[real], 10 * label[real])
        assert set(np.unique(shade[~real])) <= {0, 255}  # black padding, the white ignored row
        assert real.any() and (shade[~real] == 0).any()
    loader.close()


def test_views_share_their_window_and_valid_is_where_the_photo_is(kit, photos):
    config = settings(kit, photos, jitter_p=0.0, gray_p=0.0, blur_p=0.0, cut_p=1.0)
    loader = views.semi_loader(config)
    for _ in range(4):
        batch = device_arrays(next(loader))
        np.testing.assert_array_equal(batch["weak"], batch["strong1"])
        np.testing.assert_array_equal(batch["weak"], batch["strong2"])
        padding = ~batch["valid"]
        black = -np.array(config.data.mean) / config.data.std
        want = np.tile(black, (padding.sum(), 1))
        np.testing.assert_allclose(batch["weak"][padding], want, rtol=1e-5)
        assert padding.any() and batch["valid"].any(axis=(1, 2)).all()
        for key in ("cut1", "cut2"):
            share = batch[key].mean(axis=(1, 2))
            assert ((0.01 < share) & (share <= 0.4)).all()
        assert (batch["cut1"] != batch["cut2"]).any()
    loader.close()


def test_strong_views_differ_from_the_weak_one_and_from_each_other(kit, photos):
    config = settings(kit, photos, jitter_p=1.0, flip_p=0.0)
    loader = views.semi_loader(config)
    batch = next(loader)
    for one, two in (("weak", "strong1"), ("weak", "strong2"), ("strong1", "strong2")):
        assert (batch[one] != batch[two]).any(axis=(1, 2, 3)).all()
    loader.close()


def test_streams_are_of_their_lists_and_go_on_from_a_saved_position(kit, photos):
    config = settings(kit, photos)
    loader = views.semi_loader(config)
    next(loader)
    position = loader.get_state()
    want = [next(loader) for _ in range(3)]
    loader.close()
    again = views.semi_loader(config)
    again.set_state(position)
    for batch in want:
        found = next(again)
        assert set(found) == set(batch)
        assert len(batch["image"]) == len(batch["weak"]) == 3 * kit.devices
        for key, array in batch.items():
            np.testing.assert_array_equal(found[key], array)
    again.close()


def test_streams_of_one_seed_and_of_neighbouring_seeds_draw_differently(kit, photos):
    """With the same photos in both streams, equal draws would show as equal windows."""
    shutil.copytree(photos / "photos", photos / "copies")
    (photos / "copies.txt").write_text("".join(f"copies/p{i}.png\n" for i in range(3)))
    first = []
    for seed in (0, 1):
        config = settings(kit, photos, unlabeled=str(photos / "copies.txt"), flip_p=0.5)
        config.seed = seed
        loader = views.semi_loader(config)
        batches = [next(loader) for _ in range(3)]
        loader.close()
        first += [np.concatenate([b[key] for b in batches]) for key in ("image", "weak")]
    for i in range(4):
        for j in range(i):
            assert (first[i] != first[j]).any(), (i, j)


def test_tags_go_with_the_unlabelled_photos(kit, photos):
    names = VOC_CLASSES[1:]
    rows = ["id,tags", "p3,dog;person", f"p4,{names[7]}", "p5,"]
    (photos / "tags.csv").write_text("\n".join(rows) + "\n")
    config = settings(kit, photos, tags=str(photos / "tags.csv"), jitter_p=0.0, gray_p=0.0,
                      blur_p=0.0)
    known = {"p3": {"dog", "person"}, "p4": {names[7]}, "p5": set()}
    shades = {}  # of a photo alone, by pack order: its grey values tell it from the others
    for name in known:
        shades[name] = np.array(Image.open(photos / f"photos/{name}.png"))[..., 0]
    loader = views.semi_loader(config)
    seen = set()
    for _ in range(4):
        batch = next(loader)
        assert batch["tags"].dtype == np.float32 and batch["tags"].shape[1:] == (20,)
        weak = grey(device_arrays(batch)["weak"], config)
        for r, tags in enumerate(batch["tags"]):
            valid = batch["valid"][r]
            owner = [name for name, shade in shades.items()
                     if any(_holds(shade[:, ::side], weak[r][valid.any(1)][:, valid.any(0)])
                            for side in (1, -1))]
            assert len(owner) == 1
            assert {names[c] for c in np.flatnonzero(tags)} == known[owner[0]]
            seen.add(owner[0])
    loader.close()
    assert seen == set(known)


def _holds(shade_hw, part_hw):
    """Whether the part is a window of the photo."""
    windows = np.lib.stride_tricks.sliding_window_view
    h, w = part_hw.shape
    fits = h <= shade_hw.shape[0] and w <= shade_hw.shape[1]
    return fits and bool((windows(shade_hw, (h, w)) == part_hw).all((2, 3)).any())


def test_tags_that_cannot_serve_are_named(kit, photos):
    path = photos / "tags.csv"
    config = settings(kit, photos, tags=str(path))
    path.write_text("id,tags\np3,dog\n")
    with pytest.raises(ValueError, match=r"tags\.csv: has nothing for 'p4' \(2 of 3 ids"):
        views.semi_loader(config)
    with pytest.raises(ValueError, match=r"config\.data\.tags=.*: method .* reads no tags"):
        views.supervised_loader(config)
    config.classes = "cityscapes"
    with pytest.raises(ValueError, match=r"config\.data\.tags: class 0 .* not 'background'"):
        views.unlabelled_tags(config)


def test_supervised_batches_hold_nothing_else(kit, photos):
    config = settings(kit, photos)
    loader = views.supervised_loader(config)
    assert set(next(loader)) == {"image", "label"}
    loader.close()


def test_a_labelled_list_without_a_label_is_named(kit, photos):
    (photos / "labeled.txt").write_text("photos/p0.png labels/p0.png\nphotos/p1.png\n")
    with pytest.raises(ValueError, match=r"labeled\.txt: photos/p1\.png has no label; want '<ph"):
        views.semi_loader(settings(kit, photos))


def test_a_label_beyond_the_classes_is_named(kit, photos):
    label_map.write(photos / "labels/p1.png", np.full(SIZES[1], 21, np.uint8))
    with pytest.raises(ValueError, match=r"p1\.png: value 21"):
        views.supervised_loader(settings(kit, photos))


def test_lists_are_checked_before_anything_is_trained(kit, photos):
    (photos / "unlabeled.txt").write_text("photos/p3.png\nphotos/none.png\n")
    with pytest.raises(FileNotFoundError, match=r"unlabeled\.txt, line 2: .*none\.png"):
        views.semi_loader(settings(kit, photos))
    (photos / "unlabeled.txt").write_text("photos/p3.png\nphotos/p1.png\n")
    with pytest.raises(ValueError, match=r"unlabeled\.txt, line 2: .*p1\.png is also in"):
        views.semi_loader(settings(kit, photos))
    (photos / "unlabeled.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"unlabeled\.txt: names no photo"):
        views.semi_loader(settings(kit, photos))


def test_an_epoch_has_the_published_steps(kit, tmp_path):
    """Published: 4 devices of 4 (VOC) or 2 (Cityscapes) unlabelled photos, or of 8 labelled."""
    def config(photos, rows, accumulate, **more):
        for name in ("labeled", "unlabeled"):
            (tmp_path / f"{name}.txt").write_text("".join(f"{i}.jpg {i}.png\n"
                                                          for i in range(photos)))
        return kit.config(device_batch=rows, accumulate=accumulate, total_steps=0,
                          data__labeled=str(tmp_path / "labeled.txt"),
                          data__unlabeled=str(tmp_path / "unlabeled.txt"), **more)

    groups = 4 // kit.devices
    for photos, rows, want in ((10490, 4, 655), (10399, 4, 650), (9118, 4, 570), (2789, 2, 349),
                               (1487, 2, 186), (19894, 2, 2487)):
        assert views.epoch_steps(config(photos, rows, groups), unlabelled=True) == want
    whole = views.with_total_steps(config(10490, 4, groups, total_epochs=60), unlabelled=True)
    assert whole.total_steps == 39_300
    assert views.epoch_steps(config(92, 8, groups, data__epoch_photos=3000), unlabelled=False) == 93
    assert views.epoch_steps(config(2, 4, groups), unlabelled=True) == 1
