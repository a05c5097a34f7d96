"""The loader: which example comes when, exact restarts, worker processes, errors, kills."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from wsssjax.data import batch as batches
from wsssjax.data import loader, photos, sources, transforms
from wsssjax.data.loader import Joined, Loader, evaluation_batches, stack

REPOSITORY = pathlib.Path(__file__).parents[2]


class Numbers:
    """`size` examples that say who they are; counts how often it is asked."""

    def __init__(self, size, prefix="n"):
        self.size, self.prefix, self.asked = size, prefix, 0

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.asked += 1
        return {"name": f"{self.prefix}{index}", "label": np.full((2, 2), index, np.int32)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw:
    """Notes the first number of the example's generator."""

    def __call__(self, example, rng):
        return {**example, "saliency": np.full((2, 2), rng.random(), np.float32)}


def _take(source, count):
    found = [next(source) for _ in range(count)]
    source.close()
    return found


def _same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_order_and_random_numbers_follow_from_seed_epoch_index():
    """Against a plain loop that draws everything anew: 5 epochs of 7 in batches of 3."""
    got = _take(Loader(Numbers(7), [Draw()], batch=3, seed=5), 11)
    places = []
    for epoch in range(5):
        seeds = np.random.SeedSequence([5, epoch], spawn_key=(0,))
        order = np.random.Generator(np.random.PCG64(seeds)).permutation(7)
        places += [(epoch, index) for index in order]
    for step, batch in enumerate(got):
        for row, (epoch, index) in enumerate(places[3 * step : 3 * step + 3]):
            seeds = np.random.SeedSequence([5, epoch, index], spawn_key=(1,))
            first = np.random.Generator(np.random.PCG64(seeds)).random(dtype=np.float64)
            assert batch["name"][row] == f"n{index}"
            assert batch["saliency"][row, 0, 0] == np.float32(first)


def test_every_epoch_has_every_example_once_in_a_new_order():
    names = sum((b["name"] for b in _take(Loader(Numbers(10), [], batch=4, seed=0), 10)), [])
    epochs = [names[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == sorted(f"n{i}" for i in range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    other = sum((b["name"] for b in _take(Loader(Numbers(10), [], batch=4, seed=1), 10)), [])
    assert other != names


def test_a_batch_may_be_larger_than_the_data_set():
    (batch,) = _take(Loader(Numbers(3), [], batch=8, seed=0), 1)
    assert sorted(batch["name"][:3]) == sorted(batch["name"][3:6]) == ["n0", "n1", "n2"]


def test_processes_share_the_stream_of_one():
    whole = _take(Loader(Numbers(10), [Draw()], batch=4, seed=3), 6)
    halves = [_take(Loader(Numbers(10), [Draw()], batch=2, seed=3, process_index=index,
                           process_count=2), 6) for index in range(2)]
    for one, first, second in zip(whole, *halves, strict=True):
        for key in ("label", "saliency"):
            np.testing.assert_array_equal(one[key], np.concatenate([first[key], second[key]]))


@pytest.mark.parametrize("stop", [0, 1, 4, 9])
def test_restored_in_the_middle_of_an_epoch_it_goes_on_as_if_never_stopped(stop):
    want = _take(Loader(Numbers(7), [Draw()], batch=3, seed=5), 14)
    first = Loader(Numbers(7), [Draw()], batch=3, seed=5)
    found = [next(first) for _ in range(stop)]
    state = json.loads(json.dumps(first.get_state()))
    for _ in range(2):  # what was prepared ahead of the stop is not part of the state
        next(first)
    first.close()
    second = Loader(Numbers(7), [Draw()], batch=3, seed=5, threads=1)
    second.set_state(state)
    _same(want, found + _take(second, 14 - stop))
    first.set_state(state)
    _same(want, found + _take(first, 14 - stop))


def test_a_restart_does_not_run_through_what_was_skipped():
    source = Numbers(1000)
    late = Loader(source, [], batch=10, seed=0)
    late.set_state({"examples": 10**9 + 30, "size": 1000, "seed": 0})
    _take(late, 1)
    assert source.asked <= 10 * (1 + loader.READY_BATCHES)


def test_states_of_other_data_are_refused():
    mine = Loader(Numbers(7), [], batch=3, seed=5)
    for state, told in (({"examples": 9, "size": 8, "seed": 5}, "size 8, but this loader has 7"),
                        ({"examples": 9, "size": 7, "seed": 4}, "seed 4, but this loader has 5"),
                        ({"examples": -3, "size": 7, "seed": 5}, "0 or more"),
                        ({"examples": "9", "size": 7, "seed": 5}, "as a count"), ({}, "size None")):
        with pytest.raises(ValueError, match=told):
            mine.set_state(state)


def test_impossible_settings_are_told():
    for key, value, least in (("batch", 0, 1), ("seed", -1, 0), ("workers", -1, 0),
                              ("threads", 0, 1)):
        with pytest.raises(ValueError, match=f"loader: {key}={value}; want {least} or more"):
            Loader(Numbers(3), [], **{"batch": 1, "seed": 0, key: value})
    with pytest.raises(ValueError, match="process_count=2; want 4"):
        Loader(Numbers(3), [], batch=1, seed=0, process_index=3, process_count=2)
    with pytest.raises(ValueError, match="data set is empty"):
        Loader(Numbers(0), [], batch=1, seed=0)


def test_joined_loaders_keep_their_own_pace():
    def make():
        return Joined(labelled=Loader(Numbers(3), [], batch=2, seed=0),
                      unlabelled=Loader(Numbers(5), [Draw(), transforms.Keep(keys=("saliency",))],
                                        batch=4, seed=1))

    want = _take(make(), 6)
    assert set(want[0]) == {"label", "saliency"} and want[0]["label"].shape == (2, 2, 2)
    _same([{"label": b["label"]} for b in want],
          [{"label": b["label"]} for b in _take(Loader(Numbers(3), [], batch=2, seed=0), 6)])
    joined = make()
    for _ in range(4):
        next(joined)
    state = json.loads(json.dumps(joined.get_state()))
    joined.close()
    other = make()
    other.set_state(state)
    _same(want[4:], _take(other, 2))
    with pytest.raises(ValueError, match="want \\['labelled', 'unlabelled'\\]"):
        other.set_state({"labelled": state["labelled"]})


def test_joined_loaders_may_not_yield_the_same_key():
    joined = Joined(a=Loader(Numbers(3), [], batch=2, seed=0),
                    b=Loader(Numbers(3), [], batch=2, seed=0))
    with pytest.raises(ValueError, match="loaders 'a' and 'b' both yield 'label'; drop it"):
        next(joined)
    joined.close()


@pytest.mark.parametrize("size", [1, 4, 5, 8])
def test_evaluation_sees_every_example_once_in_order(size):
    found = list(evaluation_batches(Numbers(size), [], 4))
    assert all(batch["label"].shape == (4, 2, 2) for batch in found)
    kept = [name for batch in found for name, row in zip(batch["name"], batch["row"], strict=True)
            if row]
    assert kept == [f"n{index}" for index in range(size)]
    assert sum(int(batch["row"].sum()) for batch in found) == size


def test_what_does_not_fit_in_one_batch_is_named():
    a = {"name": "a", "label": np.zeros((2, 3), np.int32)}
    with pytest.raises(ValueError, match=r"'label' is \(2, 3\) for image 'a', \(3, 2\) for 'b'"):
        stack([a, {"name": "b", "label": np.zeros((3, 2), np.int32)}])
    with pytest.raises(ValueError, match="image 'b' has name, but 'a' has name, label"):
        stack([a, {"name": "b"}])


def test_device_arrays_holds_to_the_table():
    good = {"label": np.zeros((1, 2, 2), np.int32), "name": ["a"], "row": np.ones(1, bool)}
    assert list(batches.device_arrays(good)) == ["label", "row"]
    with pytest.raises(ValueError, match="batch key 'mask' is not one of image, label"):
        batches.device_arrays({"mask": good["label"]})
    for wrong in (good["label"].astype(np.int64), good["label"][0]):
        with pytest.raises(ValueError, match=r"batch\['label'\] is int.*; want int32 \[b,h,w\]"):
            batches.device_arrays({"label": wrong})


def test_errors_of_a_transform_name_the_image():
    broken = Loader(Numbers(3), [transforms.Flip(p=1.0), transforms.Normalize(keys=("image",))],
                    batch=1, seed=0)
    with pytest.raises(ValueError, match="'n[012]'"):
        next(broken)
    broken.close()


@pytest.fixture
def photo_list(tmp_path):
    """12 photos with label maps, and a script that drains loaders in a process of its own."""
    rng = np.random.default_rng(0)
    lines = []
    for index in range(12):
        image = rng.integers(0, 256, (20 + index, 24, 3), dtype=np.uint8)
        (tmp_path / f"p{index}.png").write_bytes(photos.encode_png(image))
        (tmp_path / f"l{index}.png").write_bytes(photos.encode_png(image[..., 0] // 16))
        lines.append(f"p{index}.png l{index}.png")
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


SCRIPT = '''
import multiprocessing, sys, time
import numpy as np
from wsssjax.data import loader, sources, transforms

def make(folder, workers):
    lines = open(folder + "/list.txt").read().splitlines()
    ops = [transforms.RandomScale(low=0.5, high=2.0), transforms.PadCrop(size=32),
           transforms.Flip(p=0.5), transforms.Normalize(keys=("image",))]
    return loader.Loader(sources.Listed(lines, folder), ops, batch=5, seed=3, workers=workers)

def drain(folder, workers, skip, count, out):
    mine = make(folder, workers)
    mine.set_state({"examples": 5 * skip, "size": 12, "seed": 3})
    found = [next(mine) for _ in range(count)]
    arrays = {f"{key}{i}": b[key] for i, b in enumerate(found) for key in ("image", "label")}
    np.savez(out, names=[b["name"] for b in found], **arrays)
    assert mine.get_state()["examples"] == 5 * (skip + count)
    mine.close()

if __name__ == "__main__":
    folder, what = sys.argv[1:3]
    if what == "drain":
        drain(folder, 2, 0, 9, folder + "/two.npz")
        drain(folder, 1, 4, 5, folder + "/one.npz")
    elif what == "killed":
        mine = make(folder, 2)
        next(mine)
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        time.sleep(60)
    elif what == "fail":
        for spoil in (lambda: multiprocessing.active_children()[0].kill(),
                      lambda: open(folder + "/p7.png", "wb").write(b"")):
            mine = make(folder, 1)
            next(mine)
            spoil()
            try:
                while True:
                    next(mine)
            except (OSError, ValueError) as error:
                print(mine.get_state()["examples"], error)
'''


def _run(folder, what):
    done = subprocess.run([sys.executable, folder / "script.py", folder, what], timeout=120,
                          capture_output=True, text=True, cwd=REPOSITORY,
                          env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_worker_processes_change_nothing(photo_list):
    """0 and 2 workers from the start, 1 worker from the middle of an epoch: the same bits."""
    _run(photo_list, "drain")
    lines = (photo_list / "list.txt").read_text().splitlines()
    ops = [transforms.RandomScale(low=0.5, high=2.0), transforms.PadCrop(size=32),
           transforms.Flip(p=0.5), transforms.Normalize(keys=("image",))]
    want = _take(Loader(sources.Listed(lines, photo_list), ops, batch=5, seed=3), 9)
    for file, first in (("two.npz", 0), ("one.npz", 4)):
        got = np.load(photo_list / file)
        assert got["names"].tolist() == [batch["name"] for batch in want[first:]]
        for index, batch in enumerate(want[first:]):
            for key in ("image", "label"):
                np.testing.assert_array_equal(got[f"{key}{index}"], batch[key])


def test_a_bad_file_in_the_middle_is_one_line(photo_list):
    path = photo_list / "p7.png"
    path.write_bytes(path.read_bytes()[:100])
    lines = (photo_list / "list.txt").read_text().splitlines()
    mine = Loader(sources.Listed(lines, photo_list), [transforms.PadCrop(size=32)], batch=5, seed=3)
    with pytest.raises(ValueError, match="p7.png: broken PNG") as caught:
        while True:
            next(mine)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="p7.png"):  # asked again, the same batch fails again
        next(mine)


def test_a_killed_worker_and_a_bad_file_in_a_worker_are_one_line_each(photo_list):
    killed, bad = _run(photo_list, "fail").splitlines()
    assert "a loader process died" in killed and "workers=0" in killed
    examples, told = bad.split(" ", 1)
    assert told == f"{photo_list}/p7.png: empty (0 bytes); copy the file again"
    assert int(examples) % 5 == 0


def test_no_worker_outlives_a_killed_parent(photo_list):
    parent = subprocess.Popen([sys.executable, photo_list / "script.py", photo_list, "killed"],
                              stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
                              env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    children = [int(word) for word in parent.stdout.readline().split()]
    assert len(children) == 2 and all(_alive(child) for child in children)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while any(_alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(child) for child in children)
    parent.stdout.close()


def _alive(process):
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
