"""COCO as it is published, made small: tags, masks, lists, and the whole way to a selection."""

import contextlib
import io
import json
import pathlib
import runpy
import types

import numpy as np
import pytest
from PIL import Image

from wsssjax import train
from wsssjax.cam import __main__ as cam_command
from wsssjax.cam import infer
from wsssjax.core import config as configs
from wsssjax.core import files, metrics
from wsssjax.data import (
    builders,
    cam_file,
    classes,
    coco_masks,
    label_map,
    prepare,
    records,
    sources,
    tags,
)
from wsssjax.evaluate import __main__ as evaluate_command
from wsssjax.select import __main__ as select_command
from wsssjax.select import quota

ROOT = pathlib.Path(__file__).parents[2]
IDS = {"person": 1, "stop sign": 13, "dog": 18, "toothbrush": 90}  # COCO's own numbers
PHOTOS = {  # number: classes in it; the last photo of train has nothing
    "train": {9: ["person", "dog"], 25: ["dog"], 30: ["toothbrush"], 34: ["person"], 36: []},
    "val": {42: ["dog"], 73: ["stop sign"]},
}


def name_of(split, number, year):
    return f"COCO_{split}2014_{number:012d}" if year == 2014 else f"{number:012d}"


def instances(split, year, photos):
    """An instances file, outlines and a crowd among them."""
    annotations = []
    for number, names in photos.items():
        for name in names:
            annotations.append({
                "id": len(annotations), "image_id": number, "category_id": IDS[name],
                "segmentation": [[1, 1, 5, 1, 5, 5]], "iscrowd": 0, "bbox": [1, 1, 4, 4]})
    annotations[0] |= {"iscrowd": 1, "segmentation": {"size": [4, 4], "counts": [4, 4, 8]}}
    return {"images": [{"id": n, "file_name": name_of(split, n, year) + ".jpg", "height": 24}
                       for n in photos],
            "categories": [{"id": i, "name": n} for n, i in IDS.items()],
            "annotations": annotations}


def stuff_map(names, size):
    """Things in stripes, stuff (91, 181) around them, an unlabelled corner."""
    stuff_hw = np.full(size, 91, np.uint8)
    stuff_hw[:, ::2] = 181
    for i, name in enumerate(names):
        stuff_hw[4 + 6 * i : 9 + 6 * i, 3:20] = IDS[name] - 1
    stuff_hw[-3:, -3:] = 255
    return stuff_hw


def make_coco(root, year=2014):
    """The tree of a year, with COCO-Stuff's maps in 2017's folders."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    for split, photos in PHOTOS.items():
        (root / f"{split}{year}").mkdir()
        files.write_json(root / f"annotations/instances_{split}{year}.json",
                         instances(split, year, photos))
        for number, names in photos.items():
            size = (24 + number % 3, 28)
            # One of val2014 is in train2017, as in the real thing.
            place = root / f"stuffthingmaps/{'train' if number != 73 else 'val'}2017"
            place.mkdir(parents=True, exist_ok=True)
            stuff_hw = stuff_map(names, size)
            Image.fromarray(stuff_hw).save(place / f"{number:012d}.png")
            colours = rng.integers(0, 256, (256, 3), dtype=np.uint8)
            Image.fromarray(colours[stuff_hw]).save(
                root / f"{split}{year}/{name_of(split, number, year)}.jpg")
    return root


@pytest.fixture
def coco(tmp_path):
    return make_coco(tmp_path / "coco")


def tool(*flags):
    """What tools/prepare_data.py prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        runpy.run_path(str(ROOT / "tools/prepare_data.py"))["main"]([str(f) for f in flags])
    return out.getvalue()


# ---- classes and masks -------------------------------------------------------------------------


def test_ids_have_their_published_gaps():
    by_name = dict(zip(classes.COCO_CLASSES[1:], classes.COCO_IDS, strict=True))
    assert len(by_name) == 80 and list(by_name.values()) == sorted(by_name.values())
    known = {"person": 1, "fire hydrant": 11, "stop sign": 13, "bench": 15, "dog": 18,
             "backpack": 27, "handbag": 31, "bottle": 44, "wine glass": 46, "bed": 65,
             "dining table": 67, "toilet": 70, "tv": 72, "book": 84, "toothbrush": 90}
    assert {name: by_name[name] for name in known} == known


def test_masks_hold_things_alone():
    row = [0, 10, 12, 89, 91, 150, 181, 255]
    got = coco_masks.convert(np.uint8([row]), "a.png")[0].tolist()
    names = ["person", "fire hydrant", "stop sign", "toothbrush"]
    assert got == [classes.COCO_CLASSES.index(n) for n in names] + [0, 0, 0, 255]
    for value in range(256):
        want = 0 if 91 <= value <= 181 else 255
        if value + 1 in classes.COCO_IDS:
            want = classes.COCO_IDS.index(value + 1) + 1
        elif want == 255 and value != 255:
            with pytest.raises(ValueError, match=f"a.png: value {value} at row 0, column 1 is no"):
                coco_masks.convert(np.uint8([[0, value]]), "a.png")
            continue
        assert coco_masks.convert(np.uint8([[value]]), "a.png") == want


@pytest.mark.parametrize("year", [2014, 2017])
def test_masks_of_a_tree(tmp_path, year):
    root = make_coco(tmp_path / "coco", year)
    assert coco_masks.convert_tree(root) == {
        f"train{year}": {"images": 5, "already_there": 0, "without_map": 0},
        f"val{year}": {"images": 2, "already_there": 0, "without_map": 0}}
    names = {name_of(split, n, year): found for split, photos in PHOTOS.items()
             for n, found in photos.items()}
    assert {p.stem for p in (root / "masks").iterdir()} == set(names)
    for name, found in names.items():
        label_hw = label_map.read(root / f"masks/{name}.png", 81)
        want = {classes.COCO_CLASSES.index(n) for n in found} | {0, 255}
        assert set(np.unique(label_hw)) == want
    kept = {p: p.stat().st_mtime_ns for p in (root / "masks").iterdir()}
    (root / f"masks/{name}.png").unlink()
    next(iter((root / "stuffthingmaps").rglob("*36.png"))).unlink()
    again = coco_masks.convert_tree(root)
    assert again[f"train{year}"] == {"images": 5, "already_there": 4, "without_map": 1}
    assert again[f"val{year}"]["already_there"] == 1
    assert all(p.stat().st_mtime_ns == t for p, t in kept.items() if p.stem != name)


def test_trees_without_maps_or_photos_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="stuffthingmaps: no map <number>.png in it; unpac"):
        coco_masks.convert_tree(tmp_path)
    (tmp_path / "stuffthingmaps").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "stuffthingmaps/000000000007.png")
    with pytest.raises(FileNotFoundError, match="no folder of photos; want train2014, val2014"):
        coco_masks.convert_tree(tmp_path)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images/000000000008.jpg")
    with pytest.raises(ValueError, match="none of its 1 maps belongs to a photo of images; maps"):
        coco_masks.convert_tree(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "images/000000000007.jpg")
    (tmp_path / "stuffthingmaps/000000000007.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    with pytest.raises(ValueError, match="000000000007.png: PNG "):
        coco_masks.convert_tree(tmp_path)


# ---- records -----------------------------------------------------------------------------------


def names_of(data):
    return {split: [r.name for r in found] for split, found in data.splits.items()}


def test_splits_are_the_annotated_images(coco):
    data = records.collect("coco", coco)
    assert names_of(data) == {
        "train": [name_of("train", n, 2014) for n in (9, 25, 30, 34)],  # 36 has no annotation
        "val": [name_of("val", n, 2014) for n in (42, 73)]}
    first = data.splits["train"][0]
    assert first.photo == coco / "train2014/COCO_train2014_000000000009.jpg"
    assert first.label is None and len(first.tags) == 80
    assert tags.format_tags(first.tags, data.class_names) == "person;dog"
    tool("coco_masks", f"--root={coco}")
    prepare.check(records.collect("coco", coco))  # masks as large as their photos, values 0..80
    assert records.collect("coco", coco).splits["val"][1].label.parent == coco / "masks"


def test_a_recipe_tests_on_val(coco):
    data = records.collect("coco", coco, splits=("train", "test"))
    assert list(data.splits) == ["train", "test"]
    assert names_of(data)["test"] == [name_of("val", n, 2014) for n in (42, 73)]


def test_a_recipe_tests_on_what_val_txt_lists(coco):
    (coco / "train.txt").write_text("COCO_train2014_000000000009\n")
    (coco / "val.txt").write_text("COCO_val2014_000000000073\n")
    asked = records.collect("coco", coco, splits=("train", "test"))
    assert names_of(asked)["test"] == ["COCO_val2014_000000000073"]
    assert list(records.collect("coco", coco).splits) == ["train", "val"]
    (coco / "test.txt").write_text("COCO_val2014_000000000042\n")
    asked = records.collect("coco", coco, splits=("test",))
    assert names_of(asked)["test"] == ["COCO_val2014_000000000042"]


def test_lists_take_some_of_the_images(coco):
    (coco / "train.txt").write_text("COCO_val2014_000000000042\nCOCO_train2014_000000000030\n")
    data = records.collect("coco", coco, splits=("train", "val"))
    assert names_of(data)["train"] == ["COCO_val2014_000000000042", "COCO_train2014_000000000030"]
    assert [r.photo.parent.name for r in data.splits["train"]] == ["val2014", "train2014"]
    assert [r.tags.argmax() for r in data.splits["train"]] == [16, 79]
    assert len(data.splits["val"]) == 2
    (coco / "train.txt").write_text("COCO_train2014_000000000036\n")
    with pytest.raises(ValueError, match="annotations: no tags for id 'COCO_train.*36' of tr"):
        records.collect("coco", coco)


def test_photos_in_images_and_a_file_of_tags(coco):
    (coco / "images").mkdir()
    (coco / "train2014").rename(coco / "images/train2014")
    (coco / "tags.csv").write_text("id,tags\n" + "".join(
        f"{name_of('train', n, 2014)},cat\n" for n in (9, 25, 30, 34)))
    data = records.collect("coco", coco, splits=("train",))
    assert {int(r.tags.argmax()) for r in data.splits["train"]} == {15}
    assert data.splits["train"][0].photo.parent == coco / "images/train2014"
    with pytest.raises(FileNotFoundError, match="no list of split test2014"):
        records.collect("coco", coco, splits=("test2014",))


def test_two_years_or_no_photos_are_told(coco):
    make_coco(coco / "other", 2017)
    for part in ("train2017", "annotations/instances_train2017.json"):
        (coco / "other" / part).rename(coco / part)
    with pytest.raises(ValueError, match=r"both train2014/ and train2017/ are train; keep"):
        records.collect("coco", coco)
    for part in ("train2014", "train2017", "val2014"):
        (coco / part).rename(coco / f"not_{part}")
    with pytest.raises(FileNotFoundError, match="annotations but no photos; want train2014/"):
        records.collect("coco", coco)


def test_a_lost_photo_is_named(coco):
    (coco / "train2014/COCO_train2014_000000000025.jpg").unlink()
    found = []
    data = records.collect("coco", coco, tell=found.append)
    assert len(data.splits["train"]) == 3 and found == [
        f"{coco}: id 'COCO_train2014_000000000025' of train has no photo; want "
        "train2014/COCO_train2014_000000000025.jpg"]


# ---- tags --------------------------------------------------------------------------------------


def test_every_command_takes_the_instances_file_for_tags(coco):
    path = coco / "annotations/instances_val2014.json"
    got = tags.read_tags(path, classes.COCO_CLASSES)
    assert {n: tags.format_tags(k, classes.COCO_CLASSES) for n, k in got.items()} == {
        "COCO_val2014_000000000042": "dog", "COCO_val2014_000000000073": "stop sign"}
    assert tags.parse_tags(path, classes.COCO_CLASSES)[1] == []


def _spoil(**changes):
    return lambda table: table | changes


BAD = {
    "an image twice": (lambda t: t | {"images": t["images"] + t["images"][:1]},
                       "1 of 3 images have the id or the file name of another"),
    "unknown images": (lambda t: t | {"images": t["images"][:1]},
                       r"annotation of unknown image 73 or class 13 \(1 of 2 annotations\)"),
    "unhashable": (_spoil(annotations=[{"image_id": [1], "category_id": 1}]), "not a COCO inst"),
    "names of no kind": (_spoil(categories=[{"id": i, "name": [i]} for i in IDS.values()]),
                         "not a COCO instances file"),
    "numbers": (_spoil(images=[1, 2]), "not a COCO instances file"),
    "other classes": (lambda t: t | {"categories": [
        {"id": i, "name": n + "s"} for n, i in IDS.items()]},
        r"unknown class 'dogs'; did you mean dog.* \(2 of its 2 classes are unknown\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_instances_are_one_line(coco, case):
    spoil, told = BAD[case]
    path = coco / "annotations/instances_val2014.json"
    files.write_json(path, spoil(json.loads(path.read_text())))
    with pytest.raises(ValueError, match=told) as caught:
        tags.read_coco_json(path, classes.COCO_CLASSES)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_number_without_end_is_one_line(coco):
    path = coco / "annotations/instances_val2014.json"
    path.write_text('{"images": ' + "7" * 5000 + "}")
    with pytest.raises(ValueError, match="instances_val2014.json: not valid JSON .*digits.* again"):
        tags.read_coco_json(path, classes.COCO_CLASSES)


# ---- the whole way -----------------------------------------------------------------------------


def test_the_tool_packs_and_leaves_lists(coco):
    printed = tool("coco_masks", f"--root={coco}", f"--json={coco}/masks.json")
    assert "train2014: 5 masks of 5 photos, 0 of them already there, 0 photos without" in printed
    assert files.read_json(coco / "masks.json")["val2014"]["images"] == 2
    printed = tool("coco", f"--root={coco}")
    assert "train: 4 images, 4 with tags, 4 with a mask, 0 with saliency" in printed
    assert f"packed into {coco}/packed/coco/1.0.0" in printed
    packed = sources.Packed(coco / "packed", "train")
    assert packed.class_names == classes.COCO_CLASSES and packed[0]["tags"].sum() == 2
    assert builders.BUILDERS["coco"] is builders.Coco
    assert files.read_ids(coco / "packed/val.txt") == [name_of("val", n, 2014) for n in (42, 73)]
    assert list(files.photo_paths(coco / "packed/train_photos.txt")) == list(packed.ids)
    assert set(tags.read_tags(coco / "packed/tags.csv", classes.COCO_CLASSES)) == {
        name_of(split, n, 2014) for split, photos in PHOTOS.items() for n in photos if photos[n]}
    with pytest.raises(ValueError, match="--split: nothing is packed of coco_masks; leave it out"):
        tool("coco_masks", f"--root={coco}", "--split=train")


def small(name):
    """The config of COCO with a network that learns in a second."""
    c = configs.load(ROOT / f"configs/{name}.py:efficientnet_lite0")
    with c.unlocked():
        c.device_batch, c.total_steps, c.log_steps, c.save_steps = 1, 2, 1, 2
        c.data.long_side, c.data.crop, c.data.workers = (32, 40), 32, 0
        c.model.encoder, c.model.output_stride = "small_cnn", 8
        c.infer.scales, c.infer.canvas, c.infer.grid, c.infer.batch = (1.0,), "grid", 32, 4
    return c


def stored_miou(coco, ids, threshold):
    """mIoU of the label maps that the stored float16 maps give; labels come of float32 ones."""
    settings, counts = types.SimpleNamespace(background="threshold", threshold=threshold), 0
    for name in ids:
        truth_hw = label_map.read(coco / f"masks/{name}.png", 81)
        maps = infer.Maps(*cam_file.read_full(coco / f"first/{name}.npz", truth_hw.shape))
        counts += metrics.confusion(infer.label_map(maps, settings), truth_hw, 81)
    return metrics.scores(counts, classes.COCO_CLASSES)["miou"]


def test_from_the_published_tree_to_a_selection(coco):
    tool("coco_masks", f"--root={coco}")
    tool("coco", f"--root={coco}")
    images, ids = coco / "packed/train_photos.txt", coco / "packed/train.txt"
    settings = small("cam_coco_cam")
    with settings.unlocked():
        settings.data.packed = str(coco / "packed")
    train.train(settings, coco / "run")
    for out, threshold in (("first", 0.3), ("second", 0.5)):
        settings.infer.threshold = threshold
        cam_command.run(settings, coco / "run/weights.safetensors", images,
                        coco / "annotations/instances_train2014.json", coco / out)
    found = evaluate_command.run(
        cams=str(coco / "first"), truth=str(coco / "masks"), ids=str(ids), classes="coco",
        metrics_wanted=("sweep",), progress=False)
    labels = evaluate_command.run(labels=str(coco / "first"), truth=str(coco / "masks"),
                                  ids=str(ids), classes="coco", progress=False)
    assert found["sweep"]["miou"][30] == stored_miou(coco, files.read_ids(ids), 0.3)
    assert set(labels["iou"]) <= {"background", "person", "dog", "toothbrush"}
    # The quota is what the photos of a list hold in the true masks.
    counted = quota.read_quota(f"{ids}:{coco}/masks", classes.COCO_CLASSES)
    assert {classes.COCO_CLASSES[k + 1]: int(n) for k, n in enumerate(counted) if n} == {
        "person": 2, "dog": 2, "toothbrush": 1}
    summary = select_command.run(
        first=str(coco / "first"), second=str(coco / "second"), out=str(coco / "selection"),
        quota_spec=f"{ids}:{coco}/masks", images=str(images), ids=str(ids), classes="coco",
        classes_from="tags", tags=str(coco / "packed/tags.csv"))
    assert summary["quota"]["person"] == 2 and summary["images"] == 4
    lines = [line for name in ("labeled", "unlabeled")
             for line in (coco / f"selection/{name}.txt").read_text().splitlines()]
    assert sorted(pathlib.Path(line.split()[0]).stem for line in lines) == files.read_ids(ids)
    for line in lines:
        photo, label = line.split()
        assert pathlib.Path(photo).is_file() and label.endswith(f"{pathlib.Path(photo).stem}.png")


def test_the_recipe_prepares_the_published_tree(coco, tmp_path):
    tool("coco_masks", f"--root={coco}")
    (coco / "saliency").mkdir()
    for photo in coco.glob("*2014/*.jpg"):
        Image.open(photo).convert("L").save(coco / f"saliency/{photo.stem}.png")
    config = configs.load(ROOT / "configs/paper_coco_lite.py", {"data.root": str(coco)})
    assert (config.data.kind, config.classes, config.cam_b.eps.mix) == ("coco", "coco", 0.9)
    prepare.for_recipe(config.data, tmp_path / "prepare")
    paths = files.read_json(tmp_path / "prepare/paths.json")
    assert paths["packed"] == "packed/coco/1.0.0"
    assert paths["truth"] == str(coco / "masks") and paths["saliency"] == str(coco / "saliency")
    assert files.read_ids(tmp_path / "prepare/test.txt") == [
        name_of("val", n, 2014) for n in (42, 73)]
    assert len(files.photo_paths(tmp_path / "prepare/train_photos.txt")) == 4
    table = quota.read_quota(config.select.quota_spec, classes.COCO_CLASSES)
    assert len(table) == 80 and set(table.tolist()) == {20}
    with pytest.raises(ValueError, match="config argument 'quick'"):
        configs.load(ROOT / "configs/paper_coco_lite.py:quick")
