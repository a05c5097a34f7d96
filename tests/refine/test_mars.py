"""MARS's labels: brute force over all pairs of centroids, K-means, what may change and what not."""

import csv
import doctest
import itertools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from wsssjax.core import config as configs
from wsssjax.core import crf, files, weights
from wsssjax.data import label_map
from wsssjax.data.classes import VOC_CLASSES
from wsssjax.refine import kmeans, mars
from wsssjax.refine.__main__ import main, run

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = f"{ROOT / 'configs/refine_voc_mars.py'}:files"
GRID, SIZE, WIDTH = (4, 5), (19, 26), 7
TAGS = {"a": [1, 3], "b": [1], "c": [3], "d": [1, 3, 7], "e": [7]}


def settings(**changes):
    return configs.load(CONFIG, {f"mars.{k}": str(v) for k, v in changes.items()}).mars


# ---- K-means -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n, d, k", [(50, 7, 2), (400, 30, 5), (6, 3, 3)])
@pytest.mark.parametrize("iterations", [1, 20])
def test_lloyd_is_scipys(n, d, k, iterations):
    vq = pytest.importorskip("scipy.cluster.vq")
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, d)) + rng.integers(0, 2, (n, 1)) * 2
    first = x[:k].copy()
    want, labels = vq.kmeans2(x, first, iter=iterations, minit="matrix", missing="warn")
    got, assigned = kmeans.lloyd(x, first, iterations)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    np.testing.assert_array_equal(assigned, labels)
    np.testing.assert_array_equal(first, x[:k])


def test_a_centroid_without_rows_stays():
    x = np.float32([[0, 0], [1, 0], [2, 0]])
    got, assigned = kmeans.lloyd(x, np.float32([[0, 0], [50, 50], [2, 0]]), 20)
    assert got.tolist() == [[0.5, 0], [50, 50], [2, 0]] and assigned.tolist() == [0, 0, 2]


@pytest.mark.parametrize("init", kmeans.INITS)
def test_kmeans_is_deterministic_and_takes_the_best_run(init):
    x = np.random.default_rng(0).normal(size=(80, 4)).astype(np.float32)

    def total(centroids):
        return ((x[:, None] - centroids[None]) ** 2).sum(-1).min(1).sum()

    one, again = (kmeans.kmeans(x, 5, np.random.default_rng([0, 1]), init=init) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert one.dtype == np.float32
    rng = np.random.default_rng([0, 1])
    runs = [kmeans.kmeans(x, 5, rng, init=init, restarts=1) for _ in range(4)]
    assert total(one) == min(map(total, runs)) < max(map(total, runs))


def test_starts():
    """k-means++ draws far rows by their squared distance; alike rows are no obstacle."""
    x = np.float32([[0], [0], [1], [3]])
    drawn = [kmeans.plus_plus(x, 2, np.random.default_rng(i))[:, 0] for i in range(4000)]
    seconds = np.array([b for a, b in drawn if a == 0])
    assert set(seconds.tolist()) == {1.0, 3.0}
    assert abs((seconds == 3).mean() - 0.9) < 0.02
    for init in kmeans.INITS.values():
        assert init(np.ones((3, 2)), 2, np.random.default_rng(0)).tolist() == [[1, 1], [1, 1]]


# ---- centroids and labels ----------------------------------------------------------------------


def cosine_distance(u, v):
    return (1 - u @ v / np.linalg.norm(u) / np.linalg.norm(v)) / 2


def test_distance_by_hand():
    """D is 0 for one direction, 1/2 for a right angle, 1 for the opposite, whatever the lengths."""
    u = np.array([3.0, 0])
    assert [cosine_distance(u, np.array(v)) for v in ([5.0, 0], [0, 2.0], [-1.0, 0])] == [0, .5, 1]
    # Two background centroids, east and north: their mean is at 45 degrees, at half of sqrt 2.
    found = [{0: np.float32([[2, 0], [0, 7]]), 1: np.float32([[1, 0], [-1, 0]])},
             {1: np.float32([[0, -4], [-3, -3]])}]
    # distances: east 1/4, west 3/4, south 3/4, south-west 1/2 + 1/sqrt 8
    got = mars.debias(lambda: iter(found), settings(alpha=0.25))
    np.testing.assert_allclose(got.vectors, [[-3, -3]], rtol=1e-6)
    np.testing.assert_allclose(got.background, [0.5, 0.5])
    assert (got.classes.tolist(), got.images.tolist(), got.centroids.tolist(),
            got.selected.tolist()) == ([1], [2], [4], [1])
    # Equal distances: the first ones; and a plain average, in which long vectors weigh more.
    got = mars.debias(lambda: iter(found), settings(alpha=0.5))
    np.testing.assert_allclose(got.vectors, [[-2, -1.5]])
    # All of a class that many tagged photos have not been painted with.
    got = mars.debias(lambda: iter(found), settings(alpha=0.3), {1: 5})
    assert (got.images.tolist(), got.selected.tolist()) == ([5], [3])


def brute_majority(label, grid):
    """Cell by cell, pixel by pixel."""
    (h, w), (p, q) = label.shape, grid
    out = np.full(grid, 255)
    for i, j in itertools.product(range(p), range(q)):
        inside = [label[y, x] for y in range(h) for x in range(w)
                  if y * p // h == i and x * q // w == j]
        if inside:
            out[i, j] = min(set(inside), key=lambda k: (-inside.count(k), k))
    return out


def brute_two_means(x):
    """The best of all ways to cut the rows in two."""
    best = (np.inf, None)
    for bits in range(1, 2 ** (len(x) - 1)):
        second = np.array([bits >> i & 1 for i in range(len(x))], bool)
        means = np.stack([x[~second].mean(0), x[second].mean(0)])
        best = min(best, (((x - means[second.astype(int)]) ** 2).sum(), means.tolist()))
    return np.array(best[1])


@pytest.mark.parametrize("size, grid", [((19, 26), (4, 5)), ((7, 5), (3, 5)), ((3, 4), (5, 4))])
def test_majority_of_cells(size, grid):
    label = np.random.default_rng(0).choice([0, 1, 2, 255], size).astype(np.uint8)
    np.testing.assert_array_equal(mars.majority(label, grid), brute_majority(label, grid))


def brute_force(labels, features, how):
    """(vectors by class, M of each photo on the grid): every pair of centroids, every partition."""
    centroids, background = {}, []
    for name in sorted(labels):
        x = features[name].astype(np.float64)
        x /= np.linalg.norm(x, axis=-1, keepdims=True)
        cells = brute_majority(labels[name], GRID)
        for k in sorted(set(cells.ravel()) - {255}):
            rows = x[cells == k]
            if len(rows) >= 2:
                means = brute_two_means(rows)
                (background if k == 0 else centroids.setdefault(k, [])).extend(means)
    vectors = {}
    for k, own in centroids.items():
        distances = [[cosine_distance(v, u) for u in background] for v in own]  # N x N_bg
        order = np.argsort(-np.mean(distances, axis=1))
        vectors[k] = np.mean([own[i] for i in order[: int(np.ceil(how.alpha * len(own)))]], axis=0)
    likeness = {}
    for name in labels:
        own = [vectors[k] for k in TAGS[name] if k in vectors]
        likeness[name] = np.array([[max([0.0] + [1 - 2 * cosine_distance(f, v) for v in own])
                                    for f in row] for row in features[name].astype(np.float64)])
    return vectors, likeness


@pytest.fixture(scope="module")
def made():
    """(labels, features) of five photos; class 7 of d lies in one cell, class 9 of e is no tag."""
    rng = np.random.default_rng(1)
    labels, features, means = {}, {}, rng.normal(size=(10, WIDTH))
    for name in TAGS:
        cells = rng.choice([0, *TAGS[name]], GRID, p=[0.5] + [0.5 / len(TAGS[name])] * len(
            TAGS[name]))
        if name == "d":
            cells[cells == 7] = 0
            cells[0, 0] = 7
        if name == "e":
            cells[3, :2] = 9
        label = np.kron(cells, np.ones((5, 6), int))[: SIZE[0], : SIZE[1]].astype(np.uint8)
        label[:3, 20:] = 255
        labels[name] = label
        noise = rng.normal(size=(*GRID, WIDTH))
        features[name] = (means[cells] * rng.integers(0, 2, (*GRID, 1)) + noise).astype(np.float16)
    return labels, features


@pytest.fixture
def folder(made, tmp_path):
    labels, features = made
    rng = np.random.default_rng(2)
    (tmp_path / "features").mkdir()
    (tmp_path / "images").mkdir()
    for name in labels:
        label_map.write(tmp_path / f"labels/{name}.png", labels[name])
        np.save(tmp_path / f"features/{name}.npy", features[name])
        photo = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(photo).save(tmp_path / f"images/{name}.png")
    (tmp_path / "tags.csv").write_text("id,tags\n" + "".join(
        f"{n},{';'.join(VOC_CLASSES[k] for k in ks)}\n" for n, ks in TAGS.items()))
    return tmp_path


def options(folder, out="out", config=CONFIG, **changes):
    fields = {"features.folder": folder / "features", "mars.restarts": 30,
              **{k.replace("__", "."): v for k, v in changes.items() if "__" in k}}
    plain = {k: v for k, v in changes.items() if "__" not in k}
    return {"method": "mars", "labels": str(folder / "labels"), "images": str(folder / "images"),
            "tags": str(folder / "tags.csv"), "out": str(folder / out),
            "config": configs.load(config, {k: str(v) for k, v in fields.items()}), **plain}


def read_all(folder):
    return {name: label_map.read(folder / f"{name}.png", 21) for name in TAGS}


@pytest.mark.parametrize("binarise", ["crf", "threshold"])
def test_a_folder_against_brute_force(folder, made, binarise):
    torch = pytest.importorskip("torch")
    labels, features = made
    result = run(**options(folder, mars__binarise=binarise, mars__alpha=0.5))
    vectors, likeness = brute_force(labels, features, settings(alpha=0.5))
    stored = weights.load(folder / "out/centroids.safetensors")
    assert stored["classes"].tolist() == sorted(vectors) == [1, 3, 7, 9]
    for k, got in zip(stored["classes"], stored["vectors"], strict=True):
        np.testing.assert_allclose(got, vectors[k], atol=1e-5)
    changed = 0
    for name, got in read_all(folder / "out").items():
        full = torch.nn.functional.interpolate(
            torch.tensor(likeness[name])[None, None], SIZE, mode="bilinear")[0, 0].numpy()
        object_ = full > 0.5
        if binarise == "crf":
            photo = np.asarray(Image.open(folder / f"images/{name}.png"))
            kernels = (crf.Kernel(1, None, 3), crf.Kernel(67, 3, 4))
            unary = -np.log(np.clip(np.stack([1 - full, full], -1), 1e-5, 1)).astype(np.float32)
            object_ = crf.infer(unary, photo, crf.Preset(kernels, 10)).argmax(-1) == 1
        want = labels[name].copy()
        want[(want > 0) & (want < 255) & ~object_] = 255
        np.testing.assert_array_equal(got, want, err_msg=name)
        changed += (got != labels[name]).sum()
    pixels = sum(((x > 0) & (x < 255)).sum() for x in labels.values())
    assert 0.05 * pixels < changed < 0.95 * pixels
    assert result["removed"] == changed / pixels and result["images"] == 5


def test_what_may_change(folder, made):
    """Foreground alone, to 255 alone; never a pixel that resembles another class of the photo."""
    labels, features = made
    result = run(**options(folder, mars__binarise="threshold", report=str(folder / "r.csv")))
    stored = weights.load(folder / "out/centroids.safetensors")
    vectors = dict(zip(stored["classes"].tolist(), stored["vectors"], strict=True))
    kept_by_another = 0
    for name, got in read_all(folder / "out").items():
        moved = got != labels[name]
        assert (got[moved] == 255).all() and not (moved & (labels[name] == 0)).any()
        alike = {k: mars.resemblance(mars.enlarge(features[name].astype(np.float32), SIZE),
                                     vectors[k][None]) for k in TAGS[name]}
        for k, other in itertools.permutations(TAGS[name], 2):
            theirs = (labels[name] == k) & (alike[other] > 0.7) & (alike[k] < 0.3)
            assert not moved[theirs].any()
            kept_by_another += theirs.sum()
    assert kept_by_another > 0
    rows = list(csv.DictReader((folder / "r.csv").open()))
    assert [r["id"] for r in rows] == sorted(TAGS) and rows[0]["height"] == "19"
    by_class = {}
    for r in rows:
        parts = [part.split(":") for part in r["by_class"].split(";") if part]
        assert sum(int(n) for _, n in parts) == int(r["removed"]) <= int(r["foreground"])
        for k, n in parts:
            by_class[k] = by_class.get(k, 0) + int(n)
    assert by_class == {k: v["removed"] for k, v in result["classes"].items() if v["removed"]}
    assert result["classes"]["bird"]["centroids"] == 2 * result["classes"]["bird"]["images"] == 6


def test_the_order_of_ids_changes_nothing(folder, tmp_path):
    run(**options(folder, ids=list("abcde")))
    run(**options(folder, "other", ids=list("ecabd")))
    for name in ("centroids.safetensors", *(f"{n}.png" for n in TAGS)):
        assert (folder / "out" / name).read_bytes() == (folder / "other" / name).read_bytes()
    with pytest.raises(ValueError, match="made with another ids"):
        run(**options(folder, ids=list("abc")))
    run(**options(folder, "third", mars__alpha=1.0))
    assert (folder / "third/centroids.safetensors").read_bytes() != (
        folder / "out/centroids.safetensors").read_bytes()


def test_classes_without_a_centroid_are_named_and_stay(folder, made, capsys):
    """Class 7 only in one cell of d, and tagged 5 nowhere painted: both are named, 7 stays."""
    (folder / "tags.csv").write_text((folder / "tags.csv").read_text().replace(
        "a,", "a,bottle;").replace("e,", "e,horse;"))
    ids = folder / "ids.txt"
    ids.write_text("a\nb\nc\nd\n")
    flags = [f"--{k}={v}" for k, v in options(folder).items() if k not in ("config",)]
    main([*flags, f"--config={CONFIG}", f"--config.features.folder={folder / 'features'}",
          f"--ids={ids}", "--config.mars.threshold=0.99", "--config.mars.binarise=threshold",
          f"--json={folder / 'r.json'}"])
    assert "no centroid of bottle, car: their pixels stay" in capsys.readouterr().out
    result = files.read_json(folder / "r.json")
    assert result["classes"]["car"]["centroids"] == 0 == result["classes"]["car"]["removed"]
    assert result["features"] == {"source": "files", "folder": str(folder / "features")}
    label = made[0]["d"]
    got = label_map.read(folder / "out/d.png", 21)
    assert ((got == 7) == (label == 7)).all() and (label == 7).any()
    assert (got == 255).sum() > (label == 255).sum()


def test_presence_by_tags(folder, made):
    """Class 9 of e is no tag: it gives no centroid; N_c counts tags, painted or not."""
    run(**options(folder, mars__presence="tags", mars__binarise="threshold"))
    stored = weights.load(folder / "out/centroids.safetensors")
    assert stored["classes"].tolist() == [1, 3, 7] and stored["images"].tolist() == [3, 3, 2]
    assert stored["centroids"].tolist() == [6, 6, 2]
    assert stored["selected"].tolist() == [3, 3, 2]  # ceil(0.4 * 2 * N_c)
    got = label_map.read(folder / "out/e.png", 21)
    assert ((got == 9) == (made[0]["e"] == 9)).all()


def test_pixels_in_the_place_of_cells(made):
    """Clusters of enlarged features; the enlargement is torch's."""
    torch = pytest.importorskip("torch")
    labels, features = made
    wide = mars.enlarge(features["a"].astype(np.float32), SIZE)
    want = torch.nn.functional.interpolate(
        torch.tensor(features["a"].astype(np.float32)).permute(2, 0, 1)[None], SIZE,
        mode="bilinear")[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(wide, want, atol=1e-5)
    got = mars.clusters(features["a"], labels["a"], settings(resolution="pixels", min_cells=3),
                        (0, 1))
    assert got.keys() == {0, 1, 3}
    rows = mars.unit(wide[labels["a"] == 3])
    nearest = ((rows[:, None] - got[3][None]) ** 2).sum(-1).argmin(1)
    np.testing.assert_allclose(got[3], [rows[nearest == j].mean(0) for j in (0, 1)], atol=1e-5)


def test_clusters_leave_out_what_is_too_small(made):
    labels, features = made
    cells = brute_majority(labels["d"], GRID)
    counts = {k: int((cells == k).sum()) for k in (0, 1, 3)}
    least = sorted(counts.values())[1]
    got = mars.clusters(features["d"], labels["d"], settings(min_cells=least), (0, 1))
    assert got.keys() == {k for k, n in counts.items() if n >= least}
    got = mars.clusters(features["d"], labels["d"], settings(k_fg=least, k_bg=1), (0, 1))
    assert {k: len(v) for k, v in got.items()} == {0: 1} | {
        k: least for k in (1, 3) if counts[k] >= least}
    plain = mars.clusters(features["d"], labels["d"], settings(normalise=False, k_bg=1), (0, 1))
    np.testing.assert_allclose(plain[0][0], features["d"][cells == 0].astype(np.float32).mean(0),
                               atol=1e-5)


def test_rails_go_and_trains_stay():
    """Rails are labelled train wherever there is one; backgrounds elsewhere hold a few of them."""
    rng, how = np.random.default_rng(4), settings(binarise="threshold")
    train, rails, sky = np.linalg.qr(rng.normal(size=(WIDTH, 3)))[0].T
    photos = []
    for _ in range(12):
        truth = np.full((8, 10), "sky", object)
        truth[rng.integers(1, 3) : 6, rng.integers(0, 3) : 8] = "train"
        label, kind = (truth == "train").astype(np.uint8), truth
        kind[6:] = "rails"
        label[6, :8] = 1  # painted on the rails near the train
        means = np.array([{"sky": sky, "train": train, "rails": rails}[k] for k in kind.ravel()])
        found = (means + rng.normal(0, 0.2, means.shape)).reshape(8, 10, WIDTH)
        photos.append((found.astype(np.float32), label, kind))
    stored = [mars.clusters(f, label, how, (0, i)) for i, (f, label, _) in enumerate(photos)]
    found = mars.debias(lambda: iter(stored), how)
    cosine = found.vectors[0] @ train / np.linalg.norm(found.vectors[0])
    assert found.selected.tolist() == [10] and cosine > 0.95
    for f, label, kind in photos:
        likeness = mars.resemblance(f, found.vectors)
        got = mars.debiased_label(label, mars.is_object(likeness, None, how), [1])
        assert (got[(label == 1) & (kind == "rails")] == 255).mean() > 0.9
        assert (got[kind == "train"] == 1).mean() > 0.9


def test_gamma_and_the_crf(made):
    """Higher gamma keeps more; the published constants are the preset deeplab."""
    photo = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    like = np.random.default_rng(1).uniform(0.2, 0.7, SIZE).astype(np.float32)
    kept = [mars.is_object(like, photo, settings(gamma=g)).mean() for g in (0.5, 1, 2, 4)]
    assert kept == sorted(kept) and kept[0] < kept[-1]
    assert mars.preset(settings()) == crf.PRESETS["deeplab"]


# ---- resuming, errors --------------------------------------------------------------------------


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_done_work_is_kept_and_stale_work_is_done_again(folder, made):
    run(**options(folder, report=str(folder / "r.csv")))
    want, report = contents(folder / "out"), (folder / "r.csv").read_text()
    (folder / "out/c.png").unlink()
    (folder / "out/clusters/b.safetensors").unlink()
    before = {p: p.stat().st_mtime_ns for p in (folder / "out").rglob("*") if p.is_file()}
    run(**options(folder, report=str(folder / "r.csv")))
    assert contents(folder / "out") == want and (folder / "r.csv").read_text() == report
    again = {p.name for p, t in before.items() if p.stat().st_mtime_ns != t}
    assert again == {"mars.json"}, "nothing else is written again"
    label = made[0]["a"].copy()
    label[label == 3] = 1
    label_map.write(folder / "labels/a.png", label)
    run(**options(folder))
    run(**options(folder, "fresh"))
    assert {n: x for n, x in contents(folder / "out").items()} == contents(folder / "fresh")
    with pytest.raises(ValueError, match="made with another mars "):
        run(**options(folder, mars__alpha=0.9))


def test_killed_anywhere_and_run_again(folder):
    """By the real command, killed as soon as it has written some of its files."""
    command = [sys.executable, "-m", "wsssjax.refine",
               *(f"--{k}={v}" for k, v in options(folder).items() if k != "config"),
               f"--config={CONFIG}", f"--config.features.folder={folder / 'features'}"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=env, check=True, capture_output=True, timeout=120)
    want, killed = contents(folder / "out"), 0
    for after in (3, 8):
        shutil.rmtree(folder / "out")
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        clock = time.monotonic()
        while process.poll() is None and time.monotonic() - clock < 100:
            if (folder / "out").is_dir() and len(list((folder / "out").rglob("*.*"))) >= after:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.0005)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        run(**options(folder, mars__restarts=4))
        assert contents(folder / "out") == want
    assert killed


@pytest.mark.parametrize("changes, message", [
    ({"mars__alpha": 0}, "config.mars.alpha=0.0: want a share above 0"),
    ({"mars__k_fg": 0}, "config.mars.k_fg=0: want 1 or more"),
    ({"mars__binarise": "otsu"}, "config.mars.binarise 'otsu' is unknown"),
    ({"mars__presence": "label"}, "config.mars.presence 'label' is unknown; did you mean 'labels'"),
    ({"mars__crf_iterations": -3}, "config.mars.crf_iterations=-3: want 0 or more"),
    ({"mars__gamma": "nan"}, "config.mars.gamma=nan: want a finite number"),
    ({"mars__threshold": 1.5}, "config.mars.threshold=1.5: want a number"),
    ({"mars__crf_bilateral": "(67,3)"}, r"config.mars.crf_bilateral=\(67, 3\): want 3 numbers"),
    ({"classes": "coco"}, "--classes=coco and config.classes=voc are 81 and 21 names"),
    ({"report": "r.jsonl"}, "--report=r.jsonl: want a name ending in .csv"),
    ({"memory_gb": 0.0}, "--memory_gb=0.0: want a number above 0"),
    ({"bias": 0.3}, "--method=mars: does not take --bias"),
    ({"tags": None}, "--method=mars: needs --tags"),
    ({"ids": ["a", "x"]}, r"holds no label map of 'x' \(1 of 2 ids missing\)"),
])
def test_bad_options_are_named_before_anything_is_written(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        run(**options(folder, **changes))
    assert not (folder / "out").exists()


def test_bad_inputs_are_named(folder):
    with pytest.raises(ValueError, match="config.method is 'cam'"):
        run(**options(folder) | {"config": configs.load(ROOT / "configs/cam_voc_cam.py")})
    (folder / "images/b.png").unlink()
    with pytest.raises(ValueError, match=r"images: has nothing for 'b' \(1 of 5 ids missing\)"):
        run(**options(folder))
    with pytest.raises(ValueError, match="--out=.*features: is --images itself"):
        run(**options(folder, "features", images=str(folder / "features")))
    for name in "acde":
        label_map.write(folder / f"labels/{name}.png", np.ones(SIZE, np.uint8))
    with pytest.raises(ValueError, match="hold no region of background"):
        run(**options(folder, ids=list("acde")))
    with pytest.raises(ValueError, match="hold no foreground region"):
        mars.debias(lambda: iter([{0: np.ones((2, 3), np.float32)}]), settings())
    label_map.write(folder / "labels/a.png", np.ones((19, 25), np.uint8))
    with pytest.raises(ValueError, match=r"a.png: label map of 19 x 25; its image has 19 x 26"):
        run(**options(folder, ids=list("acde")))


def test_memory_is_bounded(folder):
    with pytest.raises(ValueError, match="a.png: .* raise --memory_gb"):
        run(**options(folder, memory_gb=1e-5))
    with pytest.raises(ValueError, match="GB at config.mars.resolution=pixels; take grid"):
        run(**options(folder, "other", memory_gb=1e-5, mars__resolution="pixels"))
    # Features of 494 pixels take 42 kB; what has no CRF does not wait for the memory of one.
    run(**options(folder, "third", memory_gb=5e-5, mars__resolution="pixels",
                  mars__binarise="threshold"))


def test_examples():
    found = doctest.testmod(mars)
    assert found.attempted >= 4 and not found.failed
