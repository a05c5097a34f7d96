"""EPS losses against a loop over images, classes and pixels, and what follows from the formulas;
its photos and saliency maps against the published steps, one Pillow call at a time."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from wsssjax.cam import eps
from wsssjax.core import config as configs
from wsssjax.data import prepare, records

OPTIONS = {"selection": "adaptive", "overlap_min": 0.4, "mix": 0.5, "banned": (1,)}


def slow_loss(logits, saliency, tags, *, selection, overlap_min, mix, banned):
    """The loss written as the paper's sums, in float64, without any array arithmetic on maps."""
    total, count = 0.0, 0
    b, p, q, k = logits.shape
    for n in range(b):
        thin = np.array([[saliency[n, i * saliency.shape[1] // p, j * saliency.shape[2] // q]
                          for j in range(q)] for i in range(p)])
        raw = np.exp(logits[n].astype(np.float64))
        maps = raw / raw.sum(-1, keepdims=True)
        foreground, background = np.zeros((p, q)), maps[..., k - 1].copy()
        for c in range(k - 1):
            on = maps[..., c] > 0.5
            share = (on & (thin > 0.5)).sum() / (on.sum() + 1e-4 * p * q)
            taken = {"adaptive": share > overlap_min, "naive": True,
                     "predefined": c not in banned}[selection]
            if tags[n, c] and taken:
                foreground += maps[..., c]
            elif tags[n, c]:
                background += maps[..., c]
        estimate = mix * foreground + (1 - mix) * (1 - background)
        total += ((estimate - thin) ** 2).sum()
        count += p * q
    return total, count


def random_case(seed, spread=4.0):
    rng = np.random.default_rng(seed)
    logits = (spread * rng.standard_normal((3, 7, 9, 5))).astype(np.float32)
    saliency = rng.random((3, 56, 71)).astype(np.float32)
    tags = (rng.random((3, 4)) < 0.6).astype(np.float32)
    tags[2] = 0  # an image without any tag
    return logits, saliency, tags


@pytest.mark.parametrize("selection", ["adaptive", "naive", "predefined"])
@pytest.mark.parametrize("mix", [0.5, 0.9])
def test_loss_equals_slow_one(selection, mix):
    for seed in range(4):
        case = random_case(seed)
        options = {**OPTIONS, "selection": selection, "mix": mix}
        total, count = jax.jit(lambda *a, o=options: eps.saliency_loss(*a, **o))(*case)
        want, want_count = slow_loss(*case, **options)
        assert count == want_count
        np.testing.assert_allclose(total, want, rtol=2e-6)


def test_overlap_counts_epsilon_per_pixel_and_excludes_one_half():
    maps = np.zeros((1, 4, 4, 3), np.float32)
    maps[0, :2, :, 0] = 0.9  # 8 pixels, 4 of them salient
    maps[0, :, :, 1] = 0.5  # exactly one half: no pixel
    saliency = np.zeros((1, 4, 4), np.float32)
    saliency[0, 0] = 0.51
    saliency[0, 3] = 0.5  # not salient
    share = eps.overlap(jnp.array(maps), jnp.array(saliency))
    np.testing.assert_allclose(share, [[4 / (8 + 16e-4), 0, 0]], rtol=1e-6)


def test_uniform_maps_put_every_tagged_class_on_the_background_side():
    """Early in training no map is above 0.5: adaptive selection equals choosing none of them."""
    _, saliency, tags = random_case(0)
    logits = np.zeros((3, 7, 9, 5), np.float32)
    got = eps.saliency_loss(logits, saliency, tags, **OPTIONS)[0]
    banned = {**OPTIONS, "selection": "predefined", "banned": (0, 1, 2, 3)}
    assert got == eps.saliency_loss(logits, saliency, tags, **banned)[0]


def test_without_a_chosen_class_the_estimate_stays_at_or_below_one_half():
    logits, saliency, tags = random_case(1, spread=6.0)
    maps = jax.nn.softmax(logits)
    thin = saliency[:, ::8, ::8][:, :7, :9]
    estimate = eps.estimated_saliency(maps, thin, tags, **{**OPTIONS, "overlap_min": 1.0})
    assert estimate.max() <= 0.5 and estimate.max() > 0.4


def test_one_minus_background_is_foreground_plus_absent_classes():
    logits, _, tags = random_case(2)
    maps = jax.nn.softmax(logits)
    thin = jnp.zeros((3, 7, 9))
    naive = {**OPTIONS, "selection": "naive"}
    foreground = eps.estimated_saliency(maps, thin, tags, **{**naive, "mix": 1.0})
    rest = eps.estimated_saliency(maps, thin, tags, **{**naive, "mix": 0.0})
    absent = jnp.einsum("bpqk,bk->bpq", maps[..., :-1], 1 - tags)
    np.testing.assert_allclose(rest, foreground + absent, atol=1e-6)


def test_absent_classes_receive_gradient_through_the_softmax():
    logits, saliency, tags = random_case(3)
    tags = np.tile(np.float32([1, 0, 1, 0]), (3, 1))
    grads = jax.grad(lambda x: eps.saliency_loss(x, saliency, tags, **OPTIONS)[0])(logits)
    assert (np.abs(grads).max((0, 1, 2)) > 1e-3).all()


def test_selection_is_one_decision_per_class_and_image_without_gradient():
    """A class whose map is salient in one image and not in another is split between the sides."""
    logits = np.full((2, 4, 4, 3), -6.0, np.float32)
    logits[:, :2, :, 0] = 6.0  # class 0 covers the upper half of both images
    logits[:, 2:, :, 2] = 6.0  # the background the lower half
    saliency = np.zeros((2, 4, 4), np.float32)
    saliency[0, :2] = 1.0  # image 0: the map is salient; image 1: it is not
    tags = np.tile(np.float32([1, 0]), (2, 1))
    estimate = eps.estimated_saliency(jax.nn.softmax(logits), saliency, tags, **OPTIONS)
    np.testing.assert_allclose(estimate, saliency, atol=1e-4)


def test_zero_padding_is_supervised_as_background():
    logits, saliency, tags = random_case(4)
    saliency[:, 28:] = 0.0
    options = {**OPTIONS, "selection": "naive"}
    grads = jax.grad(lambda x: eps.saliency_loss(x, saliency, tags, **options)[0])(logits)
    # Descent raises the background's logit wherever the crop is padding.
    assert (np.asarray(grads)[:, 4:, :, -1] < 0).all()


def test_none_compares_saliency_with_what_the_background_leaves():
    logits, _, tags = random_case(5)
    maps = jax.nn.softmax(logits)
    options = {**OPTIONS, "selection": "none"}
    estimate = eps.estimated_saliency(maps, jnp.zeros((3, 7, 9)), tags, **options)
    np.testing.assert_allclose(estimate, maps[..., :-1].sum(-1), atol=1e-6)


def test_saliency_is_thinned_to_every_eighth_pixel():
    """Changing pixels that legacy nearest skips changes nothing; centres are skipped."""
    logits, saliency, tags = random_case(6)
    saliency = saliency[:, :56, :56]
    logits = np.ascontiguousarray(np.concatenate([logits, logits], 2)[:, :, :7])
    loud = 1.0 - saliency
    loud[:, ::8, ::8] = saliency[:, ::8, ::8]
    options = {**OPTIONS, "selection": "naive"}
    assert (eps.saliency_loss(logits, saliency, tags, **options)[0]
            == eps.saliency_loss(logits, loud, tags, **options)[0])


# ---- photos and saliency -----------------------------------------------------------------------

SIZES = {"a": (40, 60), "b": (33, 30), "c": (44, 52), "d.e": (20, 24)}
SIDE = 48


@pytest.fixture
def folders(tmp_path):
    """(photos, saliency maps): two grey maps, one in colours and one with a palette."""
    rng = np.random.default_rng(0)
    for folder in ("images", "saliency_maps"):
        (tmp_path / folder).mkdir()
    for (name, (h, w)), mode in zip(SIZES.items(), ("L", "RGB", "P", "L"), strict=True):
        for folder in ("images", "saliency_maps"):
            image = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
            image = image.resize((w, h), Image.Resampling.BICUBIC)
            image = image.convert(mode) if folder == "saliency_maps" else image
            image.save(tmp_path / folder / f"{name}.png")
    (tmp_path / "classes.txt").write_text("background\nfox\nowl\nelk\n")
    (tmp_path / "tags.csv").write_text("id,tags\n" + "".join(f"{n},fox\n" for n in SIZES))
    return tmp_path / "images", tmp_path / "saliency_maps"


@pytest.fixture
def packed_config(folders, make_config, tmp_path):
    """{field: value} → EPS's config on the packed photos beside their saliency maps."""
    def make(**changes):
        (tmp_path / "train.txt").write_text("\n".join(SIZES))
        data = records.collect("folder", tmp_path, splits=("train",))
        fields = {"data.packed": str(prepare.pack(data, "folder", tmp_path / "packed")),
                  "data.saliency": str(folders[1]), "data.crop": str(SIDE),
                  "data.jitter": "(0.,0.,0.,0.)"}
        return make_config("eps", fields | changes)

    return make


def first_batches(config, count=1):
    loader = eps.build(config).loader()
    try:
        return [next(loader) for _ in range(count)]
    finally:
        loader.close()


def published(path, size, flip):
    """One file the published way, in 0..1: as RGB whatever it holds, bicubic, mirrored."""
    image = Image.open(path).convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC)
    pixels = np.asarray(image, np.float32) / 255
    return pixels[:, ::-1] if flip else pixels


def test_photo_and_saliency_go_through_the_published_steps(folders, packed_config):
    """With zero jitter a photo is what Pillow gives, to the bit. Here the longer side just fits, so
    the window is known but for the offset of the shorter one, which the canvas shows."""
    config = packed_config(**{"data.long_side": f"({SIDE},{SIDE})"})
    mean, std = np.float32(config.data.mean), np.float32(config.data.std)
    seen = set()
    for batch in first_batches(config, 4):
        for name, image, saliency in zip(batch["name"], batch["image"], batch["saliency"],
                                         strict=True):
            h, w = SIZES[name]
            size = round(h * SIDE / max(h, w)), round(w * SIDE / max(h, w))
            inside = (image != 0).any(-1)
            top, left = (int(np.argmax(inside.any(axis))) for axis in (1, 0))
            window = np.s_[top : top + size[0], left : left + size[1]]
            photos = [(published(folders[0] / f"{name}.png", size, flip) - mean) / std
                      for flip in (False, True)]
            flip = np.array_equal(image[window], photos[1])
            np.testing.assert_array_equal(image[window], photos[flip])
            want = np.zeros((SIDE, SIDE, 3), np.float32)
            want[window] = published(folders[1] / f"{name}.png", size, flip)
            np.testing.assert_allclose(saliency, want.mean(-1), atol=1e-6)
            assert inside.sum() == size[0] * size[1]
            seen.add((name, flip, (top, left) == (0, 0)))
    assert {name for name, _, _ in seen} == set(SIZES)
    assert {flip for _, flip, _ in seen} == {False, True} and len({x for *_, x in seen}) == 2


def test_a_map_in_colours_is_averaged_after_resizing(folders, packed_config):
    """8-bit rounding of each channel comes before the mean, as published."""
    batches = first_batches(packed_config(**{"data.long_side": "(40,40)", "data.flip": "0"}), 2)
    found = [s for batch in batches for n, s in zip(batch["name"], batch["saliency"], strict=True)
             if n == "b"]
    thirds = np.asarray(found, np.float64) * 255 * 3
    np.testing.assert_allclose(thirds, thirds.round(), atol=1e-3)
    assert (np.abs(thirds % 3 - 1.5) < 1.4).any()  # not whole grey levels


def test_missing_maps_are_told_before_the_first_step(folders, packed_config):
    for name in ("b", "d.e"):
        (folders[1] / f"{name}.png").unlink()
    method = eps.build(packed_config())
    with pytest.raises(ValueError, match=r"saliency_maps: no saliency map for 2 of 4 photos "
                                         r"\(b, d\.e\); make them"):
        method.loader()
    (folders[1] / "b.jpeg").write_bytes(b"there")
    with pytest.raises(ValueError, match=r"1 of 4 photos \(d\.e\)"):
        method.loader()
    with pytest.raises(FileNotFoundError, match="none: no such folder of saliency maps"):
        eps.build(packed_config(**{"data.saliency": "none"})).loader()


def test_many_missing_maps_are_counted(folders, packed_config, monkeypatch):
    for path in folders[1].iterdir():
        path.unlink()
    monkeypatch.setattr(eps.learner, "_SHOWN", 2)
    with pytest.raises(ValueError, match=r"4 of 4 photos \(a, b, \.\.\.\)"):
        eps.build(packed_config()).loader()


def test_photos_without_saliency_in_the_pack_are_told(folders, packed_config, tmp_path):
    folders[1].rename(tmp_path / "saliency")  # where packing looks
    for name in ("b", "c"):  # the two that are no 8-bit grey images
        (tmp_path / "saliency" / f"{name}.png").unlink()
    with pytest.raises(ValueError, match=r"split 'train': 2 of 4 photos \(b, c\) without saliency"):
        eps.build(packed_config(**{"data.saliency": ""})).loader()


@pytest.mark.parametrize("damage, complaint", [
    (lambda path: Image.new("L", (7, 9)).save(path),
     r"a\.png, of the photo 'a': saliency has 9x7 pixels but the photo has 40x60"),
    (lambda path: Image.new("I;16", (60, 40)).save(path), r"a\.png: saliency of mode I;16"),
    (lambda path: path.write_bytes(b""), r"a\.png: empty"),
    (lambda path: path.write_bytes(path.read_bytes()[:90]), r"a\.png: broken PNG"),
    (lambda path: path.write_bytes(b"GIF89a"), r"a\.png: not a JPEG or PNG"),
])
def test_a_broken_map_is_named(folders, packed_config, damage, complaint):
    damage(folders[1] / "a.png")
    with pytest.raises(ValueError, match=complaint) as error:
        first_batches(packed_config())
    assert "\n" not in str(error.value)


def test_the_config_for_coco_builds_each_selection():
    path = pathlib.Path(__file__).parents[2] / "configs" / "cam_coco_eps.py"
    config = configs.load(f"{path}:efficientnet_lite0", {"eps.selection": "predefined"})
    assert config.eps.mix == 0.9 and config.classes == "coco"
    shapes = jax.eval_shape(eps.build(config).init, jax.random.key(0))
    assert shapes.params["head"]["kernel"].shape == (1280, 81)
