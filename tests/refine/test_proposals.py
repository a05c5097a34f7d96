"""Run-length codec and proposal files: round trips, COCO's own strings, hostile files."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsssjax.refine import proposals, rle


def runs_by_hand(mask):
    """Run lengths of the column-major pixels, counted one by one."""
    counts, value = [0], False
    for pixel in mask.T.reshape(-1):
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def string_by_hand(counts):
    """COCO's string as its definition reads: five bits a character, sign-extended, differences."""
    text = ""
    for i, value in enumerate(counts):
        x = value - counts[i - 2] if i > 2 else value
        more = True
        while more:
            bits = x & 31
            x >>= 5
            more = x != -1 if bits & 16 else x != 0
            text += chr(48 + bits + 32 * more)
    return text


def random_masks(rng, count):
    for _ in range(count):
        size = rng.integers(1, 40, 2)
        mask = rng.random(size) < rng.choice([0.0, 0.05, 0.5, 1.0])
        yield np.repeat(mask, int(rng.integers(1, 50)), axis=0)


def test_codec_equals_the_literal_one_and_round_trips():
    for mask in random_masks(np.random.default_rng(0), 100):
        counts = rle.encode(mask)
        assert counts.tolist() == runs_by_hand(mask)
        text = rle.compress(counts)
        assert text == string_by_hand(counts.tolist())
        assert rle.decompress(text).tolist() == counts.tolist()
        np.testing.assert_array_equal(rle.decode(counts, mask.shape), mask)
        rows, columns = np.nonzero(mask)
        box = [0, 0, 0, 0] if not rows.size else [
            columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert rle.area_and_box(counts, mask.shape) == (mask.sum(), box)


def test_a_string_as_coco_writes_it():
    # 3x3, the middle column set: runs 3 3 3, one character each.
    mask = np.zeros((3, 3), bool)
    mask[:, 1] = True
    assert rle.compress(rle.encode(mask)) == "333"
    # 1000 needs three characters (01000, 11111 0): 8+32+48, 31+32+48, 0+48.
    assert rle.compress(np.array([1000])) == "Xo0"


def test_regions_of_a_partition_are_its_masks():
    rng = np.random.default_rng(1)
    for _ in range(100):
        region = np.repeat(rng.integers(0, 6, rng.integers(1, 12, 2)), 3, axis=0)
        coded = rle.encode_regions(region)
        assert len(coded) == region.max() + 1
        for number, counts in enumerate(coded):
            want = rle.encode(region == number)
            assert counts.tolist() == want.tolist() or counts.sum() == 0 == want[1:].sum()


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=30), st.text(st.characters(min_codepoint=48, max_codepoint=111),
                                                max_size=30),
                 st.lists(st.one_of(st.integers(), st.floats(), st.none()), max_size=6),
                 st.none(), st.integers(), st.dictionaries(st.text(max_size=2), st.integers())))
def test_any_counts_give_a_mask_or_a_value_error(counts):
    try:
        mask = rle.decode(rle.parse(counts), (3, 4))
    except ValueError as error:
        assert str(error).startswith("has ")
    else:
        assert mask.shape == (3, 4) and mask.dtype == bool


def save(folder, name, value):
    (folder / f"{name}.json.gz").write_bytes(gzip.compress(
        value if isinstance(value, bytes) else json.dumps(value).encode()))


def test_files_round_trip_and_are_the_same_bytes(tmp_path):
    rng = np.random.default_rng(2)
    masks = rng.random((5, 20, 30)) < 0.3
    entries = [proposals.record(rle.encode(m), m.shape, score=0.5) for m in masks]
    for name in "ab":
        proposals.write(tmp_path / f"{name}.json.gz", (20, 30), entries, {"backend": "test"})
    np.testing.assert_array_equal(proposals.read(tmp_path, "a", (20, 30)), masks)
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()
    value = proposals.read_file(tmp_path / "a.json.gz")
    assert value["by"] == {"backend": "test"} and value["masks"][0]["score"] == 0.5
    assert value["masks"][2]["area"] == masks[2].sum()


def test_plain_lists_of_runs_are_read(tmp_path):
    save(tmp_path, "a", {"size": [2, 2], "masks": [{"counts": [1, 2, 1]}, {"counts": [0, 4]}]})
    got = proposals.read(tmp_path, "a", (2, 2))
    assert got.tolist() == [[[False, True], [True, False]], [[True, True], [True, True]]]


def test_a_folder_of_masks_belongs_only_where_255(tmp_path):
    mask = np.zeros((4, 5), np.uint8)
    mask[1, 2:4], mask[2, 2] = 255, 254
    (tmp_path / "a").mkdir()
    Image.fromarray(mask).save(tmp_path / "a" / "10.png")
    Image.fromarray(255 - mask).save(tmp_path / "a" / "2.png")
    (tmp_path / "a" / "metadata.csv").write_text("id,area\n")
    got = proposals.read(tmp_path, "a", (4, 5))
    assert got.shape == (2, 4, 5) and got[0].sum() == 2 and got[1].sum() == 17
    (tmp_path / "b").mkdir()
    assert proposals.read(tmp_path, "b", (4, 5)).shape == (0, 4, 5)


@pytest.mark.parametrize("value, message", [
    ({"size": [2, 3], "masks": []}, r"masks of 2 x 3 pixels; the label map has 2 x 2"),
    ({"size": [2, -2], "masks": []}, r"has the size \[2, -2\]"),
    ({"size": "2x2", "masks": []}, "has the size '2x2'"),
    ({"masks": []}, "has the size None"),
    ([], "has the size None"),
    ({"size": [2, 2]}, "has no list 'masks'"),
    ({"size": [2, 2], "masks": [3]}, "has no list 'masks'"),
    ({"size": [2, 2], "masks": [{}]}, "mask 0 has no counts"),
    ({"size": [2, 2], "masks": [{"counts": [1.0, 3]}]}, "mask 0 has no counts"),
    ({"size": [2, 2], "masks": [{"counts": [1, 2]}]}, "mask 0 has runs over 3 pixels; want 2 x 2"),
    ({"size": [2, 2], "masks": [{"counts": [5, -1]}]}, "mask 0 has a run of -1 pixels"),
    ({"size": [2, 2], "masks": [{"counts": [2**61] * 8 + [4]}]}, "mask 0 has runs over"),
    ({"size": [2, 2], "masks": [{"counts": [2**70]}]}, "mask 0 has a run length of more than 60"),
    ({"size": [2, 2], "masks": [{"counts": "4"}, {"counts": "o"}]}, "mask 1 .* cut off"),
    ({"size": [2, 2], "masks": [{"counts": "~"}]}, "mask 0 has the character '~'"),
    ({"size": [2, 2], "masks": [{"counts": "o" * 20 + "0"}]}, "more than 60 bits"),
    ({"size": [2, 2], "masks": [{"counts": "é"}]}, "characters outside ASCII"),
    ({"size": [10**6, 10**6], "masks": [{"counts": [10**12]}]}, r"1000000 x 1000000"),
    (b"{", "not valid JSON"),
    (b"[" * 100000, "not valid JSON|has the size"),
    (b"\xff\xfe", "not valid JSON"),
])
def test_hostile_files_are_named(tmp_path, value, message):
    save(tmp_path, "a", value)
    with pytest.raises(ValueError, match=rf"a\.json\.gz: .*({message})"):
        proposals.read(tmp_path, "a", (2, 2))


@pytest.mark.parametrize("cut", [0, 5, 30])
def test_cut_and_foreign_files_are_named(tmp_path, cut):
    save(tmp_path, "a", {"size": [2, 2], "masks": [{"counts": [4]}] * 50})
    path = tmp_path / "a.json.gz"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"a\.json\.gz: not (a whole gzip file|valid JSON)"):
        proposals.read(tmp_path, "a", (2, 2))
    path.write_bytes(b"no gzip at all")
    with pytest.raises(ValueError, match="not a whole gzip file"):
        proposals.read(tmp_path, "a", (2, 2))


def test_a_small_file_cannot_unpack_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(proposals, "MAX_JSON_BYTES", 1 << 20)
    save(tmp_path, "a", b" " * (3 << 20))
    with pytest.raises(ValueError, match="unpacks to over 1 MB"):
        proposals.read(tmp_path, "a", (2, 2))


def test_too_many_masks_are_refused_before_memory_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(proposals, "MAX_MASK_BYTES", 100)
    save(tmp_path, "a", {"size": [6, 6], "masks": [{"counts": [36]}] * 3})
    with pytest.raises(ValueError, match="3 masks of 6 x 6 pixels need over"):
        proposals.read(tmp_path, "a", (6, 6))


def test_missing_ids_are_counted_and_the_first_is_named(tmp_path):
    save(tmp_path, "b", {"size": [2, 2], "masks": []})
    with pytest.raises(ValueError, match=r"no proposals of 'a' \(2 of 3 ids missing\)"):
        proposals.check_all(tmp_path, ["a", "b", "c"])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        proposals.check_all(tmp_path / "nowhere", ["a"])
