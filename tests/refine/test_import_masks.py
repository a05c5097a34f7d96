"""Masks that others made: SAM's JSON, SA-1B, COCO results, PNG folders; and hostile ones."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsssjax.refine import coco, import_masks, proposals, propose, rle

SIZE = (12, 15)


def masks_of(seed, count=4):
    rng = np.random.default_rng(seed)
    return rng.random((count, *SIZE)) < 0.4


def annotation(mask, *, packed, **more):
    counts = rle.encode(mask)
    counts = rle.compress(counts) if packed else counts.tolist()
    return {"segmentation": {"size": list(SIZE), "counts": counts}, "area": int(mask.sum()),
            "bbox": [0, 0, 1, 1], **more}


def sam_record(mask, index, packed=False):
    return annotation(mask, packed=packed, predicted_iou=0.9 - index / 10, stability_score=0.96,
                      point_coords=[[1.5, 2.0]], crop_box=[0, 0, 15, 12])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "from").mkdir()
    for name in ("000000000139", "000000000285"):
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path


IDS = ("000000000139", "000000000285")


def run(folder, source="from", **changes):
    return propose.run(**{"images": str(folder / "photos"), "out": str(folder / "out"),
                          "backend": "import", "source": str(folder / source), **changes})


def save(folder, name, value):
    (folder / name).write_text(json.dumps(value))


def sam_lists(folder, packed):
    for i, name in enumerate(IDS):
        save(folder / "from", f"{name}.json",
             [sam_record(m, j, packed) for j, m in enumerate(masks_of(i))])


def sa_1b(folder):
    for i, name in enumerate(IDS):
        save(folder / "from", f"{name}.json", {
            "image": {"file_name": f"{name}.jpg", "height": 12, "width": 15},
            "annotations": [sam_record(m, j, True) for j, m in enumerate(masks_of(i))]})


def results(folder, ids=(139, 285)):
    save(folder, "results.json", [
        annotation(m, packed=True, image_id=ids[i], category_id=1, score=0.9 - j / 10)
        for j in range(4) for i, m in enumerate(masks_of(k)[j] for k in range(2))])


def coco_file(folder):
    save(folder, "results.json", {
        "images": [{"id": 7 - i, "file_name": f"val/{name}.jpg"} for i, name in enumerate(IDS)],
        "annotations": [annotation(m, packed=False, image_id=7 - i, score=0.9 - j / 10)
                        for i in range(2) for j, m in enumerate(masks_of(i))]})


def pngs(folder):
    for i, name in enumerate(IDS):
        (folder / "from" / name).mkdir()
        for j, mask in enumerate(masks_of(i)):
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "from" / name / f"{j}.png")
        (folder / "from" / name / "metadata.csv").write_text("id,area\n")


@pytest.mark.parametrize("make, source", [
    (lambda f: sam_lists(f, False), "from"), (lambda f: sam_lists(f, True), "from"),
    (sa_1b, "from"), (pngs, "from"), (results, "results.json"), (coco_file, "results.json"),
    (lambda f: results(f, IDS), "results.json"),
], ids=["SAM", "SAM packed", "SA-1B", "PNG", "results", "images+annotations", "results by name"])
def test_every_form_becomes_the_same_masks(folder, make, source):
    make(folder)
    made = run(folder, source)
    assert (made["images"], made["masks"], made["without_masks"]) == (2, 8, 0)
    for i, name in enumerate(IDS):
        np.testing.assert_array_equal(proposals.read(folder / "out", name, SIZE), masks_of(i))
        entry = proposals.read_file(folder / "out" / f"{name}.json.gz")["masks"][1]
        assert entry["area"] == masks_of(i)[1].sum()
        if make is not pngs:
            assert entry["score"] == pytest.approx(0.8)
    assert run(folder, source)["already_there"] == 2


@pytest.mark.parametrize("make", [lambda f: sam_lists(f, True), sa_1b, pngs])
def test_merging_reads_folders_without_an_import(folder, make):
    make(folder)
    for i, name in enumerate(IDS):
        np.testing.assert_array_equal(proposals.read(folder / "from", name, SIZE), masks_of(i))


def test_only_what_changed_is_imported_again(folder):
    sam_lists(folder, False)
    run(folder)
    save(folder / "from", f"{IDS[0]}.json", [sam_record(masks_of(5)[0], 0)])
    assert run(folder)["already_there"] == 1
    np.testing.assert_array_equal(proposals.read(folder / "out", IDS[0], SIZE), masks_of(5)[:1])


def test_scores_points_and_crops_are_kept(folder):
    sam_lists(folder, False)
    run(folder)
    value = proposals.read_file(folder / "out" / f"{IDS[0]}.json.gz")
    assert value["masks"][0] | {"counts": 0, "area": 0, "bbox": 0} == {
        "counts": 0, "area": 0, "bbox": 0, "score": 0.9, "stability": 0.96, "point": [[1.5, 2.0]],
        "crop_box": [0, 0, 15, 12]}


def test_copies_are_dropped_and_images_without_masks_counted(folder):
    mask = masks_of(0)[0]
    save(folder, "results.json", [annotation(mask, packed=p, image_id=139) for p in (True, False)])
    made = run(folder, "results.json")
    assert (made["masks"], made["duplicates"], made["without_masks"]) == (1, 1, 1)
    assert proposals.read(folder / "out", IDS[1], SIZE).shape == (0, *SIZE)
    save(folder / "from", f"{IDS[0]}.json", [])
    assert proposals.read(folder / "from", IDS[0], SIZE).shape == (0, *SIZE)


def good(**changes):
    return sam_record(masks_of(0)[0], 0) | changes


@pytest.mark.parametrize("value, message", [
    ({}, "has no list of annotations"),
    ([3], "has no list of annotations"),
    ([{}], 'mask 0 has no "segmentation"'),
    ([good(segmentation=[[1, 2, 3, 4, 5, 6]])], "mask 0 is a polygon"),
    ([good(segmentation={"size": [12], "counts": []})], 'mask 0 has no "segmentation"'),
    ([good(segmentation={"size": [10**9, 10**9], "counts": [10**18]})],
     "masks of 1000000000 x 1000000000 pixels; the photo has 12 x 15"),
    ([good(segmentation={"size": [15, 12], "counts": [180]})],
     r"masks of 15 x 12 pixels; the photo has 12 x 15 \(h x w\)"),
    ([good(), good(segmentation={"size": [15, 12], "counts": [180]})],
     r"mask 1 has the size \[15, 12\], mask 0 \[12, 15\]"),
    ([good(segmentation={"size": [12, 15], "counts": [170]})],
     "mask 0 has runs over 170 pixels; want 12 x 15"),
    ([good(segmentation={"size": [12, 15], "counts": [190, -10]})], "mask 0 has a run of -10"),
    ([good(segmentation={"size": [12, 15], "counts": "zz"})], "mask 0 has the character 'z'"),
    ([good(segmentation={"size": [12, 15]})], "mask 0 has no counts"),
    ([good(predicted_iou="high")], "mask 0 has the predicted_iou 'high'; want a number"),
    ([good(predicted_iou=float("inf"))], "mask 0 has the predicted_iou inf"),
    ([good(stability_score=True)], "mask 0 has the stability_score True"),
])
def test_hostile_annotations_are_named(folder, value, message):
    sam_lists(folder, False)
    save(folder / "from", f"{IDS[1]}.json", value)
    with pytest.raises(ValueError, match=rf"{IDS[1]}\.json: .*{message}"):
        run(folder)
    assert proposals.read(folder / "out", IDS[0], SIZE).shape[0] == 4  # what was done stays


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["segmentation", "size", "counts", "annotations", "image_id", "images",
                         "predicted_iou", "point_coords", "masks", "file_name", "id"]), inner),
    max_leaves=12)


@settings(max_examples=300, deadline=None)
@given(JSON | st.lists(st.fixed_dictionaries({
    "segmentation": st.fixed_dictionaries({"size": st.just([2, 3]) | JSON,
                                           "counts": st.lists(st.integers(0, 6)) | JSON}),
    "image_id": st.integers() | JSON, "predicted_iou": JSON, "point_coords": JSON})))
def test_any_json_gives_masks_or_a_value_error_that_names_the_file(value):
    try:
        found = coco.convert(coco.annotations(value, "a.json"), "a.json")
        masks = proposals.parse(found, "a.json", (2, 3), "the photo")
        json.dumps(found["masks"], allow_nan=False)
        assert all(counts.sum() == 6 for counts in masks.counts)
    except ValueError as error:
        assert str(error).startswith("a.json: ")
    try:
        coco.by_image(value, "a.json")
    except ValueError as error:
        assert str(error).startswith("a.json: ")


@pytest.mark.parametrize("value, message", [
    ({"images": [{"id": 1}], "annotations": []}, 'has an image without "file_name"'),
    ({"images": [{"id": i, "file_name": f"{i}/a.jpg"} for i in range(2)], "annotations": []},
     "two images are called 'a'"),
    ([annotation(masks_of(0)[0], packed=True)], 'annotation 0 has the "image_id" None'),
    ([annotation(masks_of(0)[0], packed=True, image_id=[1])], r'the "image_id" \[1\]'),
    ([annotation(masks_of(0)[0], packed=True, image_id=9)],
     "has masks of '9' and others, none of the photos"),
    ([], "has masks of 'no image' and others, none of the photos"),
    ([{"image_id": 139}], 'results.json, image 139: mask 0 has no "segmentation"'),
])
def test_hostile_results_are_named(folder, value, message):
    save(folder, "results.json", value)
    with pytest.raises(ValueError, match=rf"results\.json.*{message}|{message}"):
        run(folder, "results.json")


@pytest.mark.parametrize("data", [b"", b"[", b"\xff", b"[" * 100000, b"[1" + b"0" * 10000 + b"]"])
def test_broken_json_is_named(folder, data):
    (folder / "results.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"results\.json: (not valid JSON|has no list)"):
        run(folder, "results.json")


def test_a_number_that_fits_two_photos_is_refused(folder):
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(
        folder / "photos" / "COCO_val2014_000000000139.png")
    results(folder)
    with pytest.raises(ValueError, match="the masks of image 139 fit the photos"):
        run(folder, "results.json")


def test_missing_sources_are_named(folder):
    with pytest.raises(ValueError, match="--backend=import: needs --from=PATH"):
        import_masks.open_source(None)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run(folder, "nowhere")
    with pytest.raises(ValueError, match=r"no proposals of '000000000139' \(2 of 2 ids missing\)"):
        run(folder)
    with pytest.raises(ValueError, match="--backend=import: 'scales' is no parameter"):
        run(folder, scales=(1.0,))


def test_limits_hold_before_memory_is_taken(folder, monkeypatch):
    sam_lists(folder, False)
    monkeypatch.setattr(proposals, "MAX_JSON_BYTES", 100)
    with pytest.raises(ValueError, match="unpacks to over 0 MB"):
        run(folder)


def test_pngs_of_another_size_or_cut_off_are_named(folder):
    pngs(folder)
    path = folder / "from" / IDS[0] / "2.png"
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"2\.png: .* 3 x 4; its image has 12 x 15"):
        run(folder)
    path.write_bytes((folder / "from" / IDS[0] / "1.png").read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"2\.png: PNG cut off"):
        run(folder)


def test_strings_equal_those_of_pycocotools():
    mask_utils = pytest.importorskip("pycocotools.mask")
    for mask in masks_of(7, 20):
        theirs = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        assert rle.compress(rle.encode(mask)) == theirs


def test_a_size_is_two_whole_positive_numbers():
    assert coco.is_size([2, 3])
    assert not any(map(coco.is_size, ([2], [2, 0], [2, 3.0], [True, 3], "23", None)))
