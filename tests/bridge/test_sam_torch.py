"""SAM bridge: records of a generator, hostile checkpoints, and a tiny SAM where it is installed."""

import functools
import json
import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from wsssjax.core.config import load
from wsssjax.refine import proposals, propose, rle

torch = pytest.importorskip("torch")

from wsssjax.bridge import sam_torch  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]


class Boxes:
    """Stands in for SAM's generator: two boxes and an empty mask, in its record format."""

    longest_side = 1024

    def generate(self, image):
        for left, width in ((2, 3), (7, 3), (0, 0)):
            mask = np.zeros(image.shape[:2], bool)
            mask[1:4, left:left + width] = True
            yield {"segmentation": {"size": list(mask.shape), "counts": rle.encode(mask).tolist()},
                   "area": 9, "bbox": [left, 1, 2, 2], "predicted_iou": 0.9,
                   "stability_score": 0.97 if width else float("nan"),
                   "point_coords": [[left + 1.0, 2.0]], "crop_box": [0, 0, 20, 10]}


def test_records_hold_masks_and_scores(tmp_path):
    image = np.zeros((10, 20, 3), np.uint8)
    records = sam_torch.to_records(Boxes(), image)
    assert records[1]["bbox"] == [7, 1, 3, 3] and records[1]["area"] == 9
    assert (records[0]["score"], records[0]["stability"]) == (0.9, 0.97)
    proposals.write(tmp_path / "a.json.gz", (10, 20), records, {})
    masks = proposals.read(tmp_path, "a", (10, 20))
    assert [np.argwhere(m).min(0).tolist() for m in masks] == [[1, 2], [1, 7]]


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", pickle.dumps(Evil(), 2)],
                         ids=["empty", "cut", "evil"])
def test_hostile_checkpoints_are_named_and_never_executed(tmp_path, content, capsys):
    path = tmp_path / "sam.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"sam\.pth: not a SAM checkpoint"):
        sam_torch.load_weights(str(path))
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("weights", [{}, [1], {"image_encoder.patch_embed.proj.weight": 3},
                                     {"image_encoder.patch_embed.proj.weight": torch.zeros(7, 3)}])
def test_other_checkpoints_are_named(tmp_path, weights):
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: not a SAM checkpoint"):
        sam_torch.load_weights(str(tmp_path / "other.pth"))
    with pytest.raises(FileNotFoundError, match="missing.pth: no such checkpoint"):
        sam_torch.load_weights(str(tmp_path / "missing.pth"))


def tiny_sam(modeling):
    """A SAM of two narrow blocks, one in windows, for 256 pixels: the registry's take minutes."""
    torch.manual_seed(0)
    return modeling.Sam(
        image_encoder=modeling.ImageEncoderViT(
            img_size=256, patch_size=16, embed_dim=16, depth=2, num_heads=2, out_chans=32,
            norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6), window_size=14,
            use_rel_pos=True, rel_pos_zero_init=False, global_attn_indexes=[1]),
        prompt_encoder=modeling.PromptEncoder(
            embed_dim=32, image_embedding_size=(16, 16), input_image_size=(256, 256),
            mask_in_chans=4),
        mask_decoder=modeling.MaskDecoder(
            transformer_dim=32, num_multimask_outputs=3, iou_head_hidden_dim=16,
            transformer=modeling.TwoWayTransformer(depth=1, embedding_dim=32, mlp_dim=16,
                                                   num_heads=8)))


@pytest.fixture(scope="session")
def modeling():
    pytest.importorskip("torchvision", exc_type=Exception)
    return pytest.importorskip("segment_anything.modeling")


@pytest.fixture
def work(tmp_path, modeling):
    """Options of `propose.run` for three photos and a tiny SAM that lets every mask through."""
    torch.save(tiny_sam(modeling).state_dict(), tmp_path / "tiny.pth")
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name in "abc":
        blocks = rng.integers(0, 255, (4, 6, 3)).astype(np.uint8)
        image = np.repeat(np.repeat(blocks, 10, 0), 10, 1)
        Image.fromarray(image).save(tmp_path / "photos" / f"{name}.png")
    return {"images": str(tmp_path / "photos"), "out": str(tmp_path / "out"), "backend": "sam",
            "checkpoint": str(tmp_path / "tiny.pth"), "device": "cpu", "points_per_side": 2,
            "pred_iou_thresh": -100.0, "stability_score_thresh": 0.0}


def files_of(folder):
    return {p.name: p.read_bytes() for p in sorted(pathlib.Path(folder).iterdir())}


def test_files_hold_what_the_released_generator_finds(work, tmp_path, modeling):
    """The registry's classes driven by hand, without our loader or generator."""
    import segment_anything

    made = propose.run(**work)
    assert (made["images"], made["already_there"], made["without_masks"]) == (3, 0, 0)
    model = tiny_sam(modeling).eval()
    plain = segment_anything.SamAutomaticMaskGenerator(
        model, points_per_side=2, pred_iou_thresh=-100.0, stability_score_thresh=0.0)
    for name in "abc":
        image = np.array(Image.open(tmp_path / "photos" / f"{name}.png"))
        want, kept = plain.generate(image), {}
        for found in want:
            kept.setdefault(found["segmentation"].tobytes(), found)
        value = proposals.read_file(tmp_path / "out" / f"{name}.json.gz")
        masks = proposals.read(tmp_path / "out", name, (40, 60))
        assert value["size"] == [40, 60] and 0 < len(masks) == len(kept)
        assert value["duplicates"] == len(want) - len(kept)
        for mask, entry, found in zip(masks, value["masks"], kept.values(), strict=True):
            np.testing.assert_array_equal(mask, found["segmentation"])
            assert entry["area"] == found["area"] == mask.sum()
            assert entry["score"] == found["predicted_iou"]
            assert entry["stability"] == found["stability_score"]
            assert entry["point"] == found["point_coords"]


def test_the_header_tells_everything_and_a_change_makes_the_masks_anew(work, tmp_path):
    propose.run(**work)
    by = proposals.read_file(tmp_path / "out" / "a.json.gz")["by"]
    assert by["model"] == "vit_16x2" and len(by["checkpoint"]) == 16 and by["device"] == "cpu"
    assert by["segment_anything"] and by["torch"] == torch.__version__
    settings = {k: work.get(k, v) for k, v in sam_torch.DEFAULTS.items()}
    assert {k: by[k] for k in settings} == settings | {"point_grids": []}
    assert propose.run(**work)["already_there"] == 3
    assert propose.run(**work | {"points_per_batch": 1})["already_there"] == 3  # as good as before
    assert propose.run(**work | {"box_nms_thresh": 0.6})["already_there"] == 0


def test_no_mask_good_enough_gives_empty_files(work, tmp_path):
    for changes in ({"pred_iou_thresh": 1e6}, {"stability_score_thresh": 2.0},
                    {"pred_iou_thresh": 1e6, "crop_n_layers": 1, "min_mask_region_area": 5}):
        made = propose.run(**work | changes)
        assert (made["without_masks"], made["masks"]) == (3, 0)
        assert proposals.read(tmp_path / "out", "a", (40, 60)).shape == (0, 40, 60)


def test_identical_masks_are_dropped_and_counted(work, tmp_path):
    """Two grids with the same points and no suppression of boxes: each mask comes twice."""
    twice = (((0.3, 0.4), (0.3, 0.4)),)
    made = propose.run(**work | {"point_grids": twice, "box_nms_thresh": 1.0})
    once = propose.run(**work | {"point_grids": (twice[0][:1],), "box_nms_thresh": 1.0})
    assert made["masks"] == once["masks"] > 0
    assert made["duplicates"] == once["duplicates"] + once["masks"] + once["duplicates"]


def test_shards_and_a_resumed_run_equal_one_run(work, tmp_path):
    propose.run(**work)
    for part in ("0/2", "1/2"):
        propose.run(**work | {"out": str(tmp_path / "parts"), "part": part})
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "out")
    (tmp_path / "parts" / "b.json.gz").write_bytes(b"cut")
    assert propose.run(**work | {"out": str(tmp_path / "parts")})["already_there"] == 2
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "out")


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2)])
def test_photos_of_a_few_pixels_with_crops(work, tmp_path, size):
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(tmp_path / "photos" / "a.png")
    propose.run(**work | {"crop_n_layers": 1, "part": "0/3"})
    assert proposals.read(tmp_path / "out", "a", size).shape[1:] == size


def test_a_photo_too_narrow_is_named_and_nothing_is_lost(work, tmp_path):
    Image.fromarray(np.zeros((1, 3000, 3), np.uint8)).save(tmp_path / "photos" / "c.png")
    with pytest.raises(ValueError, match=r"c\.png: 1 x 3000 pixels; SAM scales the longer side"):
        propose.run(**work)
    assert sorted(files_of(tmp_path / "out")) == ["a.json.gz", "b.json.gz"]


def test_out_of_memory_is_one_line(work, monkeypatch):
    from wsssjax.bridge import sam_generator

    def full(self, image):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(sam_generator.Generator, "generate", full)
    with pytest.raises(ValueError, match=r"a\.png: out of memory on cpu at 40 x 60 .*_batch=64"):
        propose.run(**work)


def test_a_checkpoint_of_another_kind_of_sam_is_named(work, tmp_path, modeling):
    weights = tiny_sam(modeling).state_dict()
    torch.save(weights | {"mask_decoder.hf_token.weight": torch.zeros(1, 32)},
               tmp_path / "hq.pth")
    with pytest.raises(ValueError, match=r"hq\.pth: does not fit SAM vit_16x2 .*hf_token"):
        propose.run(**work | {"checkpoint": str(tmp_path / "hq.pth")})


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_released_sizes_are_read_from_their_weights(modeling, name):
    """The model built from the shapes alone prints as the registry's does and has its weights."""
    import segment_anything

    with torch.device("meta"):
        want = segment_anything.sam_model_registry[name]()
        weights = want.state_dict()
        got = sam_torch.build_model(weights)
    assert sam_torch.model_name(weights) == name and str(got) == str(want)
    assert {k: v.shape for k, v in got.state_dict().items()} == {
        k: v.shape for k, v in weights.items()}
    for a, b in zip(got.modules(), want.modules(), strict=True):
        for key in ("window_size", "num_heads", "scale", "img_size", "num_multimask_outputs",
                    "input_image_size", "skip_first_layer_pe", "use_rel_pos"):
            assert getattr(a, key, None) == getattr(b, key, None), (type(a), key)


@pytest.mark.parametrize("changes, message", [
    ({"points": 3}, "'points' is no parameter of SAM's mask generator; did you mean 'point_grids'"),
    ({"points_per_side": 0}, "--config.points_per_side=0: want 1 or more"),
    ({"points_per_side": 2.5}, "--config.points_per_side=2.5: want a whole number"),
    ({"pred_iou_thresh": float("nan")}, "--config.pred_iou_thresh=nan: want a number"),
    ({"crop_n_layers": 9}, "--config.crop_n_layers=9: want at most 4"),
    ({"crop_n_layers": 2, "crop_n_points_downscale_factor": 2, "points_per_side": 3},
     "--config.points_per_side=3: want a point left in the last layer"),
    ({"point_grids": (((0.5, 1.5),),)}, "--config.point_grids=.*want a list of points"),
    ({"point_grids": (((0.5, 0.5),),) * 2}, r"for each of crop_n_layers \+ 1 = 1 layers"),
    ({"device": "tpu"}, "--device=tpu: want auto, cpu or cuda"),
])
def test_bad_settings_are_named_before_anything_is_written(work, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        propose.run(**work | changes)
    assert not (tmp_path / "out").exists()


def test_a_missing_gpu_is_named(work, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="--device=cuda: torch sees no GPU"):
        propose.run(**work | {"device": "cuda"})


@pytest.mark.parametrize("argument", ["default", "notebook", "dense64"])
def test_config_names_every_parameter(argument):
    fields = dict(load(f"{ROOT}/configs/propose_sam.py:{argument}"))
    settings = {k: v for k, v in fields.items() if k not in ("backend", "checkpoint", "device")}
    assert set(settings) == set(sam_torch.DEFAULTS)
    sam_torch.check(settings)
    changed = {k: v for k, v in settings.items() if v != sam_torch.DEFAULTS[k]}
    assert changed == {
        "default": {}, "dense64": {"points_per_side": 64},
        "notebook": {"pred_iou_thresh": 0.86, "stability_score_thresh": 0.92, "crop_n_layers": 1,
                     "crop_n_points_downscale_factor": 2, "min_mask_region_area": 100}}[argument]


def test_defaults_are_the_released_generators(modeling):
    import inspect

    import segment_anything

    taken = inspect.signature(segment_anything.SamAutomaticMaskGenerator).parameters
    ours = sam_torch.DEFAULTS | {"model": None, "output_mode": "binary_mask", "point_grids": None}
    assert set(taken) == set(ours)
    assert all(taken[k].default == v for k, v in ours.items() if k != "model")


def test_command_overrides_the_config(work, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "propose_masks.py", "--backend=sam", "--device=cpu",
         f"--checkpoint={work['checkpoint']}", f"--images={work['images']}",
         f"--out={work['out']}", "--config.points_per_side=2", "--config.pred_iou_thresh=-100",
         "--config.stability_score_thresh=0", f"--json={tmp_path}/r.json", "--shard=1/3"],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "r.json").read_text())
    assert made["images"] == 1 and made["by"]["points_per_side"] == 2
    assert sorted(files_of(tmp_path / "out")) == ["b.json.gz"]
    propose.run(**work)
    assert made["masks"] == len(proposals.read(tmp_path / "out", "b", (40, 60)))
