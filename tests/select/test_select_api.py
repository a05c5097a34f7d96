"""Selecting from Python, the gathered labels, and what a person is told about odd input."""

import doctest
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import wsssjax.select
from wsssjax.core import cluster
from wsssjax.data import label_map
from wsssjax.select import select, store

NAMES = "background\ncat\ndog\ntrain\n"


@pytest.fixture
def folders(tmp_path):
    """Twenty pairs of ever less agreement, cats and dogs by turns."""
    for i in range(20):
        label_hw = np.zeros((20, 5), np.uint8)
        label_hw[:20 - i] = 1 + i % 2
        label_map.write(tmp_path / "first" / f"{i:02d}.png", label_hw)
        label_map.write(tmp_path / "second" / f"{i:02d}.png", np.full((20, 5), 1 + i % 2, np.uint8))
    (tmp_path / "names.txt").write_text(NAMES)
    return tmp_path


def call(folders, quota, **options):
    return select(folders / "first", folders / "second", quota,
                  classes=str(folders / "names.txt"), **options)


@pytest.mark.parametrize("module", [wsssjax.select, cluster], ids=lambda m: m.__name__)
def test_examples(module):
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


def test_importing_the_package_loads_nothing_heavy():
    code = ("import sys, wsssjax.select\n"
            "print({'jax', 'numba', 'pyarrow', 'numpy'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_command_starts_without_jax_where_there_is_no_accelerator():
    from wsssjax.select import iou

    code = ("import sys\nfrom wsssjax.select import __main__, iou\n"
            "assert 'jax' not in sys.modules and 'ray' not in sys.modules\n"
            "print(iou.on_host(), 'jax' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == str(iou.on_host())


def test_python_gives_what_the_command_writes(folders):
    found = call(folders, {"cat": 2, "dog": 1}, out=folders / "out")
    assert found.selected == ["00", "01", "02"] and found.summary["selected"] == 3
    assert found.table.equals(pq.read_table(folders / "out" / "selection.parquet"))
    assert call(folders, {"cat": 2, "dog": 1}).table.equals(found.table)
    assert isinstance(found.table, pa.Table) and found.table.schema.equals(
        store.schema(("cat", "dog", "train")))


def test_quota_of_none_and_bounds(folders):
    assert call(folders, None, min_iou=0.81).selected == ["00", "01", "02", "03"]
    with pytest.raises(ValueError, match="did you mean 'voc/92'"):
        call(folders, "voc/91")
    with pytest.raises(ValueError, match="--iou=fore: want one of"):
        call(folders, None, iou="fore")
    with pytest.raises(ValueError, match="shard='0/2': selects nothing; use the command"):
        call(folders, None, shard="0/2")
    for option in ({"out_labels": "copy"}, {"keep": "classes"}):
        with pytest.raises(ValueError, match="makes label maps; name a folder, out"):
            call(folders, None, **option)
    with pytest.raises(TypeError, match="min_jou"):
        call(folders, None, min_jou=0.5)


def test_pandas_is_optional(folders, monkeypatch):
    pandas = pytest.importorskip("pandas")
    found = call(folders, {"cat": 2})
    frame = found.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and frame.shape == found.table.shape
    assert frame[frame.selected].id.tolist() == found.selected

    class Without:
        def to_pandas(self):
            raise ModuleNotFoundError("No module named 'pandas'")

    with pytest.raises(ValueError, match="pandas is not installed; pip install pandas"):
        type(found)(Without(), {}).to_pandas()


@pytest.mark.parametrize("how", ["copy", "link"])
def test_trusted_labels_are_gathered_and_listed(folders, how):
    out = folders / "out"
    call(folders, {"cat": 3, "dog": 2}, out=out, out_labels=how)
    for quota, want in (({"cat": 2, "dog": 1}, ["00", "01", "02"]), ({"dog": 1}, ["01"])):
        found = call(folders, quota, out=out, out_labels=how)
        assert label_map.folder_ids(out / "labels") == want == found.selected
        for name in want:
            path = out / "labels" / f"{name}.png"
            assert path.read_bytes() == (folders / "second" / f"{name}.png").read_bytes()
            assert path.is_symlink() == (how == "link")
        assert (out / "labeled.txt").read_text().splitlines() == [
            f"JPEGImages/{name}.jpg {out}/labels/{name}.png" for name in want]
        rest = (out / "unlabeled.txt").read_text().splitlines()
        assert rest[0].startswith("JPEGImages/") and len(rest) == 20 - len(want)
        assert all(f" {folders}/second/" in line for line in rest)


def test_gathering_another_way_replaces_the_files_and_spares_the_source(folders):
    out, source = folders / "out", folders / "second" / "00.png"
    data = source.read_bytes()
    for how in ("link", "copy", "link", "copy"):
        call(folders, {"cat": 1}, out=out, out_labels=how)
        path = out / "labels" / "00.png"
        assert path.is_symlink() == (how == "link") and path.read_bytes() == data
    label_map.write(source, np.ones((20, 5), np.uint8) * np.uint8(1))
    label_map.write(folders / "first" / "00.png", np.ones((20, 5), np.uint8))
    call(folders, {"cat": 1}, out=out, out_labels="copy")
    assert path.read_bytes() == source.read_bytes()


def test_gathering_into_the_pool_itself_is_refused(folders):
    (folders / "second").rename(folders / "labels")
    with pytest.raises(ValueError, match="--out_labels=copy: clears .*labels, which is --second"):
        select(folders / "first", folders / "labels", {"cat": 1}, out=folders, out_labels="copy",
               classes=str(folders / "names.txt"))
    assert len(list((folders / "labels").iterdir())) == 20
    with pytest.raises(ValueError, match="--out_labels=move: want copy or link"):
        call(folders, None, out=folders / "out", out_labels="move")


def test_gathered_copies_are_those_of_this_selection(folders):
    out = folders / "out"
    half = np.full((20, 5), 1, np.uint8)
    half[:, 3:] = 0
    label_map.write(folders / "second" / "00.png", half)
    for folder in ("first", "second"):  # older than all that a selection writes
        os.utime(folders / folder / "00.png", (1, 1))
    for before in ({"keep": "pixels"}, {"pool": "first", "out_labels": "copy"}):
        call(folders, {"cat": 10}, out=out, **before)
        call(folders, {"cat": 10}, out=out, out_labels="copy")
        assert "00.png" in (out / "labeled.txt").read_text()
        assert ((out / "labels/00.png").read_bytes()
                == (folders / "second/00.png").read_bytes())


@pytest.mark.parametrize("flags", [
    {"methods": True}, {"refined": True}, {"images": True}, {"quota": True}, {}])
@pytest.mark.parametrize("asks, said", [({"out_labels": "link"}, "--out_labels=link"),
                                        ({"keep": "pixels"}, "--keep=pixels")])
def test_folders_that_are_not_ours_are_never_cleared(folders, flags, asks, said):
    shutil.copytree(folders / "second", folders / "labels")
    (folders / "ids.txt").write_text("00\n")
    place, quota = str(folders / "labels"), {"cat": 1}
    name = next(iter(flags), None)
    flag = {"methods": "--with", None: "holds what no selection put there"}.get(name, f"--{name}")
    if name == "quota":
        quota = f"{folders}/ids.txt:{place}"
        flags = {}
    else:
        flags = {k: place if k == "images" else [place] for k in flags}
    with pytest.raises(ValueError, match=f"{said}: .*{flag}"):
        call(folders, quota, out=folders, **flags, **asks)
    assert len(list((folders / "labels").iterdir())) == 20


def test_labels_that_are_not_asked_for_do_not_stay(folders):
    out = folders / "out"
    call(folders, {"cat": 3}, out=out, out_labels="copy")
    with pytest.raises(ValueError, match="--out: clears .*labels, which is --with itself"):
        call(folders, {"cat": 3}, out=out, methods=[out / "labels"], score="consensus", ids=str(
            out / "ids.txt") if (out / "ids.txt").write_text("00\n02\n04\n") else None)
    assert len(label_map.folder_ids(out / "labels")) == 3
    call(folders, {"cat": 3}, out=out)
    assert not (out / "labels").exists()


def test_odd_types_of_python(folders):
    assert call(folders, {"cat": np.int64(2)}).selected == ["00", "02"]
    for name in ("methods", "refined"):
        with pytest.raises(ValueError, match=f"{name}='bao': want a list of folders"):
            call(folders, {"cat": 1}, **{name: "bao"})
        with pytest.raises(ValueError, match=f"{name}='bao': want a list of folders"):
            call(folders, {"cat": 1}, **{name: pathlib.Path("bao")})


# ---- odd input ---------------------------------------------------------------------------------


def test_ids_in_one_set_only_are_counted_and_ten_are_named(folders):
    for i in range(5, 19):
        (folders / "first" / f"{i:02d}.png").unlink()
    with pytest.raises(ValueError, match=r"first: holds no label map of 14 of 20 ids: 05, 06, 07, "
                                         r"08, 09, 10, 11, 12, 13, 14, …; make them, or pass"):
        call(folders, None)
    found = call(folders, {"cat": 1}, pool="first")
    assert found.summary["images"] == 6
    assert found.summary["warnings"] == [
        "--second holds 14 label maps that --first lacks, left out: 05, 06, 07, 08, 09, 10, 11, "
        "12, 13, 14, …"]
    (folders / "ids.txt").write_text("00\n01\n")  # a list says that the rest is not meant
    assert call(folders, {"cat": 1}, ids=str(folders / "ids.txt")).summary["warnings"] == []


def test_the_same_folder_twice_is_warned_of(folders):
    (folders / "alias").symlink_to(folders / "second")
    for other in ("second", "alias"):
        found = select(folders / "second", folders / other, {"cat": 1},
                       classes=str(folders / "names.txt"))
        assert found.summary["warnings"] == [
            "--first and --second are the same folder: that its labels agree with themselves says "
            "nothing about them"]


def test_a_class_that_never_occurs_is_told_and_is_no_error(folders):
    flags = [f"--first={folders}/first", f"--second={folders}/second", f"--out={folders}/out",
             f"--classes={folders}/names.txt", '--quota={"train": 3, "cat": 1}']
    done = subprocess.run([sys.executable, "-m", "wsssjax.select", *flags], capture_output=True,
                          text=True)
    assert done.returncode == 0
    assert done.stderr == "warning: no image holds train, of which the quota wants some\n"
    assert "too few images of train (3" in " ".join(done.stdout.split())


def test_open_pixels_of_one_side_and_of_all(folders):
    label_map.write(folders / "first" / "00.png", np.full((20, 5), 255, np.uint8))
    half = np.full((20, 5), 1, np.uint8)
    half[10:] = 255
    label_map.write(folders / "second" / "02.png", half)
    found = call(folders, {"cat": 3})
    rows = {row["id"]: row for row in found.table.to_pylist()}
    assert rows["00"]["reason"] == "empty" and rows["00"]["classes"] == ["cat"]
    assert rows["02"]["iou"] == 1.0  # where both maps speak, they agree
    assert found.summary["warnings"] == ["1 of 20 pairs have no pixel that both maps name (255 "
                                         "everywhere); they are never selected"]
    for folder in ("first", "second"):
        for path in (folders / folder).iterdir():
            label_map.write(path, np.full((20, 5), 255, np.uint8))
    found = call(folders, {"cat": 3})
    assert found.selected == [] and found.summary["reasons"] == {"empty": 20}
    assert "20 of 20 pairs have no pixel" in found.summary["warnings"][0]
    assert found.summary["mean_iou"] == {"all": 0.0, "selected": None, "rest": 0.0}


@pytest.mark.parametrize("spoil, message", [
    (lambda f: label_map.write(f / "second" / "03.png", np.full((5, 20), 1, np.uint8)),
     r"first/03.png has 20 x 5, .*second/03.png has 5 x 20 pixels"),
    (lambda f: label_map.write(f / "second" / "03.png", np.full((20, 5), 4, np.uint8)),
     r"second/03.png: value 4 at row 0, column 0; want 0..3 or 255 \(is --classes right\?\)"),
    (lambda f: [p.unlink() for p in (f / "second").iterdir()], "second: holds no label map"),
    (lambda f: (f / "second" / "03.png").write_bytes(b"\x89PNG"), "second/03.png"),
    (lambda f: [p.unlink() for p in (f / "first").iterdir()], "first: holds no label map"),
])
def test_what_cannot_be_compared_is_named(folders, spoil, message):
    spoil(folders)
    with pytest.raises(ValueError, match=message) as error:
        call(folders, {"cat": 1}, out=folders / "out")
    assert "\n" not in str(error.value) and not (folders / "out").exists()


def test_a_name_that_is_no_text_is_refused(folders):
    try:
        path = pathlib.Path(str(folders / "second") + "/\udcff.png")
        path.write_bytes(b"")
    except (UnicodeEncodeError, OSError):
        pytest.skip("this file system has no such names")
    with pytest.raises(ValueError, match="no UTF-8; rename it"):
        call(folders, {"cat": 1})


def test_ids_with_spaces_cannot_stand_in_lists(folders):
    for folder in ("first", "second"):
        (folders / folder / "00.png").rename(folders / folder / "a b.png")
    with pytest.raises(ValueError, match="'JPEGImages/a b.jpg': a path with a space"):
        call(folders, {"cat": 1})


@pytest.mark.parametrize("asks", [{"out_labels": "copy"}, {"keep": "pixels"}])
def test_a_space_in_out_cannot_stand_in_lists(folders, asks):
    with pytest.raises(ValueError, match="my out/labels/00.png': a path with a space"):
        call(folders, {"cat": 1}, out=folders / "my out", **asks)
    call(folders, {"cat": 1}, out=folders / "my out")  # no line names it
