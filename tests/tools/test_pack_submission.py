"""tools/pack_submission.py: the archive is what VOC's server takes, and nothing else gets in."""

import importlib.util
import io
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image

from wsssjax.data import label_map
from wsssjax.evaluate import submission

TOOL = pathlib.Path(__file__).parents[2] / "tools/pack_submission.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("pack_submission", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    """Four label maps (one grey), their photos, a list of three ids in no order."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    (tmp_path / "labels").mkdir()
    for i, name in enumerate("abcd"):
        label = rng.integers(0, 21, (9 + i, 12 - i), dtype=np.uint8)
        Image.fromarray(np.stack([label] * 3, -1)).save(tmp_path / f"photos/{name}.png")
        label_map.write(tmp_path / f"labels/{name}.png", label)
    Image.fromarray(label).save(tmp_path / "labels/d.png")
    (tmp_path / "labels/predict.json").write_text("{}")
    (tmp_path / "ids.txt").write_text("d\na\nc\n")
    return tmp_path


def run(tool, folder, *flags, out="results.tgz", partial=("--partial",)):
    tool.main([f"--labels={folder}/labels", f"--ids={folder}/ids.txt", f"--out={folder}/{out}",
               *flags, *partial])
    return (folder / out).read_bytes()


def members(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {m.name: (m, archive.extractfile(m).read()) for m in archive}


def test_archive_holds_palette_maps_of_the_ids_and_tells_of_the_rest(tool, folder, capsys):
    found = members(run(tool, folder, f"--images={folder}/photos"))
    top = "results/VOC2012/Segmentation/comp6_test_cls"
    assert list(found) == [f"{top}/{name}.png" for name in "dac"]
    for name in "dac":
        entry, data = found[f"{top}/{name}.png"]
        image = Image.open(io.BytesIO(data))
        assert image.mode == "P" and data[24] == 8
        np.testing.assert_array_equal(image.getpalette()[:9], [0, 0, 0, 128, 0, 0, 0, 128, 0])
        want = label_map.read(folder / f"labels/{name}.png", 21)
        np.testing.assert_array_equal(np.asarray(image), want)
        assert (entry.mtime, entry.uid, entry.gid, entry.uname, entry.mode) == (0, 0, 0, "", 0o644)
    printed = capsys.readouterr().out
    assert f"warning: {folder}/ids.txt: 3 ids; VOC 2012 test has 1,456\n" in printed
    assert "3 label maps, each read again; 2 other files of" in printed


def test_same_maps_give_the_same_bytes_and_flags_name_the_folder(tool, folder):
    first = run(tool, folder)
    for path in (folder / "labels").glob("*.png"):
        path.write_bytes(path.read_bytes())
    assert run(tool, folder, out="other.tgz") == first
    found = members(run(tool, folder, "--challenge=comp5", "--set=val"))
    assert list(found)[0] == "results/VOC2012/Segmentation/comp5_val_cls/d.png"


def small(path):
    label_map.write(path, np.zeros((3, 3), np.uint8))


def filled(value):
    return lambda path: label_map.write(path, np.full((11, 10), value, np.uint8))


@pytest.mark.parametrize("change, message", [
    (pathlib.Path.unlink, r"labels: holds no label map of 'c' \(1 of 3 ids missing\)"),
    (filled(255), r"c\.png: value 255 \(ignore\) at row 0, column 0; the server wants a class"),
    (filled(21), r"c\.png: value 21 at row 0, column 0; want 0\.\.20"),
    (small, r"c\.png: label map of 3 x 3; its image has 11 x 10"),
    (lambda path: path.write_bytes(path.read_bytes()[:-9]), r"c\.png: PNG cut off"),
])
def test_bad_label_maps_are_named_and_the_old_archive_stays(tool, folder, change, message):
    before = run(tool, folder)
    change(folder / "labels/c.png")
    with pytest.raises(ValueError, match=message):
        run(tool, folder, f"--images={folder}/photos")
    assert (folder / "results.tgz").read_bytes() == before
    assert not list(folder.glob(".*"))


def test_bad_flags(tool, folder):
    with pytest.raises(ValueError, match=r"3 ids; VOC 2012 test has 1,456; pass its own list"):
        run(tool, folder, partial=())
    for flags, message in ((["--challenge=comp7"], "--challenge 'comp7' is unknown"),
                           (["--set=tset"], "--set 'tset' is unknown; did you mean 'test'")):
        with pytest.raises(ValueError, match=message):
            run(tool, folder, *flags)
    (folder / "photos/d.png").unlink()
    with pytest.raises(ValueError, match=r"photos: holds no photo of 'd' \(1 of 3 ids missing\)"):
        run(tool, folder, f"--images={folder}/photos")


@pytest.mark.parametrize("harm, message", [
    (lambda data: data[:len(data) // 2], "unreadable"),
    (lambda data: b"PK" + data, "unreadable"),
])
def test_a_damaged_archive_is_found_on_reading_again(tool, folder, harm, message):
    path = folder / "results.tgz"
    path.write_bytes(harm(run(tool, folder)))
    with pytest.raises(ValueError, match=message):
        submission._verify(path, f"{folder}/labels", list("dac"), dict.fromkeys("dac"),
                     f"{submission.FOLDER}/comp6_test_cls")


def test_an_archive_of_other_maps_is_found_on_reading_again(tool, folder):
    run(tool, folder)
    top, sizes = f"{submission.FOLDER}/comp6_test_cls", dict.fromkeys("abcd")
    path, labels = folder / "results.tgz", f"{folder}/labels"
    submission._verify(path, labels, list("dac"), sizes, top)
    for ids, message in (("da", "in place of None"), ("dacb", "ends before b"),
                         ("dca", "a.png in place of c")):
        with pytest.raises(ValueError, match=message):
            submission._verify(path, labels, list(ids), sizes, top)
    label_map.write(folder / "labels/a.png", np.zeros((9, 12), np.uint8))
    with pytest.raises(ValueError, match=r"a\.png differs from the label map"):
        submission._verify(path, labels, list("dac"), sizes, top)


def test_the_official_list_of_test_ids(tool, tmp_path, shared, capsys):
    ids = (shared / "data/voc/test.txt").read_text().split()
    (tmp_path / "labels").mkdir()
    data = label_map.encode(np.arange(21, dtype=np.uint8).reshape(3, 7))
    for name in ids:
        (tmp_path / f"labels/{name}.png").write_bytes(data)
    tool.main([f"--labels={tmp_path}/labels", f"--ids={shared}/data/voc/test.txt",
               f"--out={tmp_path}/r.tgz"])
    assert len(members((tmp_path / "r.tgz").read_bytes())) == 1456
    assert "warning" not in capsys.readouterr().out
