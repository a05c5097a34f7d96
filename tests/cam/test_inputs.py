"""Training batches of CAM and EPS: geometry moves photo and saliency together, tags stay."""

import numpy as np
import pytest
from PIL import Image

from wsssjax.cam import cam, eps
from wsssjax.cam.read_saliency import ReadSaliency
from wsssjax.data import prepare, records

TAGS = {"a": "fox", "b": "owl;elk", "c": "elk", "d.e": "fox;elk"}
SIZES = {"a": (40, 60), "b": (33, 30), "c": (44, 52), "d.e": (20, 24)}


@pytest.fixture
def packed(tmp_path):
    """(packed set without saliency, folder of saliency): saliency is the photo's red channel."""
    root = tmp_path / "set"
    for folder in ("images", "beside"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, (h, w) in SIZES.items():
        noise = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
        photo = noise.resize((w, h), Image.Resampling.BICUBIC)
        photo.save(root / "images" / f"{name}.png")
        photo.getchannel(0).save(root / "beside" / f"{name}.png")
    (root / "classes.txt").write_text("background\nfox\nowl\nelk\n")
    (root / "tags.csv").write_text("id,tags\n" + "".join(f"{n},{t}\n" for n, t in TAGS.items()))
    (root / "train.txt").write_text("\n".join(SIZES) + "\n")
    data = records.collect("folder", root)
    return prepare.pack(data, "folder", tmp_path / "packed"), root / "beside"


def settings(make_config, method, packed, **changes):
    folder, beside = packed
    fields = {"data.packed": str(folder), "data.jitter": "(0.,0.,0.,0.)"} | changes
    if method == "eps":
        fields["data.saliency"] = str(beside)
    return make_config(method, fields)


def test_photo_and_saliency_move_together(make_config, packed):
    config = settings(make_config, "eps", packed)
    loader = eps.build(config).loader()
    tagged = {name: [t in tags.split(";") for t in ("fox", "owl", "elk")]
              for name, tags in TAGS.items()}
    canvas = 0
    for _ in range(6):
        batch = next(loader)
        names = batch.pop("name")
        assert {k: (v.dtype, v.shape[1:]) for k, v in batch.items()} == {
            "image": (np.float32, (32, 32, 3)), "tags": (np.float32, (3,)),
            "saliency": (np.float32, (32, 32))}
        np.testing.assert_array_equal(batch["tags"], [tagged[name] for name in names])
        # 0..1 again: red = saliency on the photo; the canvas is the mean colour and not salient.
        red = batch["image"][..., 0] * config.data.std[0] + config.data.mean[0]
        outside = (batch["image"] == 0).all(-1)
        canvas += outside.sum()
        np.testing.assert_allclose(red[~outside], batch["saliency"][~outside], atol=1e-5)
        assert (batch["saliency"][outside] == 0).all()
    loader.close()
    assert canvas > 0


def test_cam_reads_no_saliency_and_rows_fill_all_devices(make_config, packed):
    loader = cam.build(settings(make_config, "cam", packed)).loader()
    batch = next(loader)
    loader.close()
    assert sorted(batch) == ["image", "name", "tags"]
    assert len(batch["image"]) == 4 * 2  # device_batch times the two devices of the tests


def test_jitter_changes_the_photo_and_not_the_saliency(make_config, packed):
    def first(**changes):
        loader = eps.build(settings(make_config, "eps", packed, **changes)).loader()
        batch = next(loader)
        loader.close()
        return batch

    still, loud = (first(**{"data.flip": "0", "data.long_side": "(32,32)", "data.jitter": jitter})
                   for jitter in ("(0.,0.,0.,0.)", "(0.9,0.9,0.9,0.)"))
    assert still["name"] == loud["name"]
    seen = {name: still["saliency"][i] for i, name in enumerate(still["name"])}
    for i, name in enumerate(loud["name"]):
        np.testing.assert_allclose(np.sort(seen[name].ravel()),
                                   np.sort(loud["saliency"][i].ravel()), atol=1e-6)
    assert np.abs(np.sort(still["image"].ravel()) - np.sort(loud["image"].ravel())).max() > 0.1


def test_pack_without_saliency_is_named(make_config, packed):
    config = settings(make_config, "eps", packed)
    config.data.saliency = ""
    with pytest.raises(ValueError, match="packed without saliency"):
        next(eps.build(config).loader())


def test_saliency_folder_by_name(packed):
    _, beside = packed
    read = ReadSaliency(folder=str(beside))
    rng = np.random.default_rng(0)
    example = {"name": "d.e", "image": np.zeros((20, 24, 3), np.uint8)}
    found = read(example, rng)
    np.testing.assert_array_equal(found["saliency"], Image.open(beside / "d.e.png"))
    assert "saliency" not in example
    with pytest.raises(ValueError, match="no saliency map for the photo 'f'"):
        read({**example, "name": "f"}, rng)


def test_saliency_of_another_size_is_named(make_config, packed):
    Image.new("L", (7, 9)).save(packed[1] / "b.png")
    with pytest.raises(ValueError, match="'b': saliency has 9x7 pixels"):
        loader = eps.build(settings(make_config, "eps", packed)).loader()
        for _ in range(2):
            next(loader)
