"""The lists of a training: each fault is found before it starts, and named once."""

import os
import pathlib

import numpy as np
import pytest

from wsssjax.data import label_map, lists
from wsssjax.semi.views import read_lines


class Tree:
    """30 labelled and 20 unlabelled photos, and the two lists that name them."""

    def __init__(self, root):
        self.root = root
        rng = np.random.default_rng(0)
        (root / "photos").mkdir()
        for i in range(50):
            (root / f"photos/p{i:02d}.jpg").write_bytes(b"never opened here")
        for i in range(30):
            label_map.write(root / f"labels/p{i:02d}.png", rng.integers(0, 5, (6, 7), np.uint8))
        self.labelled = [f"photos/p{i:02d}.jpg labels/p{i:02d}.png" for i in range(30)]
        self.unlabelled = [f"photos/p{i:02d}.jpg nowhere/p{i:02d}.png" for i in range(30, 50)]

    def check(self, num_classes=5, classes_name="voc", **options):
        paths = {name: self.root / f"{name}.txt" for name in ("labeled", "unlabeled")}
        # A blank line in front: line numbers must be the editor's.
        paths["labeled"].write_text("\n" + "\n".join(self.labelled))
        paths["unlabeled"].write_text("\n".join(self.unlabelled) + "\n\n")
        return lists.check_lists(
            read_lines(paths["labeled"], labelled=True),
            read_lines(paths["unlabeled"], labelled=False), str(self.root), num_classes,
            classes_name, labeled_path=paths["labeled"], unlabeled_path=paths["unlabeled"],
            **options)

    def fill(self, value):
        for i in range(30):
            label_map.write(self.root / f"labels/p{i:02d}.png", np.full((6, 7), value, np.uint8))


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def test_good_lists_pass_and_labels_of_unlabelled_photos_are_not_asked_for(tree):
    assert tree.check() is None


@pytest.mark.parametrize("gone, told", [
    (["photos/p00.jpg"], r"/labeled\.txt, line 2: no such photo, .*p00\.jpg; mend the list"),
    (["labels/p03.png", "photos/p05.jpg", "photos/p40.jpg"],
     r"/labeled\.txt, line 5: no such label map, .*p03\.png \(and 2 more files missing\); mend"),
    (["photos/p40.jpg", "photos/p49.jpg"],
     r"/unlabeled\.txt, line 11: no such photo, .*p40\.jpg \(and 1 more files missing\)"),
])
def test_missing_files_are_named_and_counted(tree, gone, told):
    for name in gone:
        (tree.root / name).unlink()
    with pytest.raises(FileNotFoundError, match=told):
        tree.check()


def test_folders_broken_links_and_missing_folders_are_no_files(tree):
    photo = tree.root / "photos/p31.jpg"
    photo.unlink()
    photo.mkdir()
    with pytest.raises(FileNotFoundError, match=r"p31\.jpg"):
        tree.check()
    photo.rmdir()
    photo.symlink_to("p99.jpg")
    with pytest.raises(FileNotFoundError, match=r"p31\.jpg"):
        tree.check()
    photo.unlink()
    photo.symlink_to("p32.jpg")
    tree.check()
    (tree.root / "labels").rename(tree.root / "other")
    with pytest.raises(FileNotFoundError, match=r"p00\.png \(and 29 more files missing\); mend .*"
                                                r"config\.data\.root='"):
        tree.check()


def test_a_photo_in_both_lists_is_named_however_its_path_is_written(tree):
    tree.unlabelled[4] = "photos/../photos/./p07.jpg"
    with pytest.raises(ValueError, match=r"/unlabeled\.txt, line 5: .*p07\.jpg is also in "
                                         r".*/labeled\.txt, line 9; take each out"):
        tree.check()
    tree.unlabelled[6] = str(tree.root / "photos/p02.jpg")
    with pytest.raises(ValueError, match=r"line 9 \(and 1 more photos in both lists\)"):
        tree.check()


def test_label_values_are_checked_on_a_spread_sample(tree):
    label_map.write(tree.root / "labels/p29.png", np.full((6, 7), 5, np.uint8))
    with pytest.raises(ValueError, match=r"p29\.png: value 5 at row 0, column 0; want 0\.\.4"):
        tree.check(sample=3)
    tree.check(num_classes=6)
    label_map.write(tree.root / "labels/p29.png", np.zeros((6, 7), np.uint8))
    (tree.root / "labels/p14.png").write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match=r"p14\.png: not a PNG"):
        tree.check()
    tree.check(sample=2)  # the first and the last


def test_unshifted_ade20k_is_told_from_shifted(tree):
    with pytest.raises(ValueError, match=r"/labeled\.txt: none of 30 label maps, .* holds "
                                         r"255 .*some hold 0; official ADE20K .*prepare_data\.py"):
        tree.check(150, "ade20k")
    tree.check(150, "cityscapes")
    tree.check(150, "ade20k", sample=19)  # too few to tell
    label_map.write(tree.root / "labels/p00.png", np.full((6, 7), 255, np.uint8))
    tree.check(150, "ade20k")
    tree.fill(3)
    tree.check(150, "ade20k")


def test_a_supervised_training_has_no_second_list(tree):
    (tree.root / "l.txt").write_text("\n".join(tree.labelled))
    lists.check_lists(tree.labelled, [], tree.root, 5, "voc", labeled_path=tree.root / "l.txt",
                      unlabeled_path="")


def test_a_folder_is_listed_once_and_no_file_asked_for_alone(tree, monkeypatch):
    """What keeps twenty thousand photos on a network disk from taking minutes."""
    listed, asked = [], []
    scandir, isfile = os.scandir, os.path.isfile
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    monkeypatch.setattr(os.path, "isfile", lambda path: asked.append(path) or isfile(path))
    tree.check(sample=0)
    assert sorted(listed) == [str(tree.root / "labels"), str(tree.root / "photos")] and not asked
    (tree.root / "photos/p31.jpg").unlink()
    with pytest.raises(FileNotFoundError):
        tree.check(sample=0)
    assert asked == [str(tree.root / "photos/p31.jpg")]


def test_the_real_lists_of_voc(shared):
    """UniMatch V2's own splits; only the photos are absent here."""
    folder = shared / "data/voc/splits/1464"
    labelled = read_lines(folder / "labeled.txt", labelled=True)
    unlabelled = read_lines(folder / "unlabeled.txt", labelled=False)
    total = 2 * len(labelled) + len(unlabelled)
    with pytest.raises(FileNotFoundError, match=rf"labeled\.txt, line 1: no such photo, .*"
                                                rf"\(and {total - 1} more files missing\)"):
        lists.check_lists(labelled, unlabelled, pathlib.Path("nowhere"), 21, "voc",
                          labeled_path=folder / "labeled.txt",
                          unlabeled_path=folder / "unlabeled.txt")
