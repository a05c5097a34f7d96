"""The page as a browser sees it: whole, closed to the network, and showing the run's numbers."""

import base64
import configparser
import hashlib
import html.parser
import io
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from wsssjax.core import files
from wsssjax.data import label_map
from wsssjax.report import __main__ as command
from wsssjax.report import gallery, images, read_run, run_page

VOID = {"meta", "img", "br", "link", "input", "hr"}
HOSTILE = ('<script>alert(1)</script>', '"><img src=http://evil.example/x>', "{{ 7*7 }}&amp;",
           "[red]bold[/red]", "'); background:url(http://evil.example)")


class Page(html.parser.HTMLParser):
    """Tags, attributes, words and tables of a page; a tag closed out of turn fails."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.tables = [], [], [], {}
        self.words, self.styles, self.script, self._table = [], [], "", None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = self.tables[dict(attrs)["id"]] = []
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.script = data  # the last one is run, those before it are data
            return
        (self.styles if self.open[-1:] == ["style"] else self.words).append(data)
        if self.open and {"td", "th"} & set(self.open):
            self._table[-1][-1] += data

    def values(self, name):
        return [value for _, n, value in self.attributes if n == name]


def made(folder) -> Page:
    return Page(command.run(folder).read_text(encoding="utf-8"))


def test_page_is_well_formed_and_closed_to_the_network(run_folder):
    seen = made(run_folder)
    assert not {"link", "iframe", "object", "base"} & set(seen.tags)
    assert seen.tags.count("script") == 2 and "action" not in [n for _, n, _ in seen.attributes]
    digest = base64.b64encode(hashlib.sha256(seen.script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in " ".join(v or "" for v in seen.values("content"))
    assert all(value.startswith("data:image/") for value in seen.values("src"))
    assert all(value.startswith("#") for value in seen.values("href"))
    urls = re.findall(r"url\((.{5})", " ".join(seen.styles + seen.values("style")))
    assert urls and set(urls) == {"data:"}
    assert not any("@import" in style for style in seen.styles)
    assert "default-src 'none'" in " ".join(v or "" for v in seen.values("content"))
    ids = seen.values("id")
    assert len(ids) == len(set(ids)) and {v[1:] for v in seen.values("href")} <= set(ids)


def test_pictures_and_charts_say_what_they_show(run_folder):
    seen = made(run_folder)
    images = [i for i, tag in enumerate(seen.tags) if tag == "img"]
    alts = seen.values("alt")
    assert len(alts) == len(images) == 4 * 6 and all(alts)
    assert sum(alt.startswith("truth of img_0: ") for alt in alts) == 1
    charts = [value for tag, name, value in seen.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(charts) == seen.tags.count("title") - 1 - 3 * 4 - 6  # less page, histogram bars
    assert all(charts)


def test_tables_hold_every_score_of_the_results(run_folder, results):
    tables = made(run_folder).tables

    def row(key, name):
        return next(r for r in tables[f"table-{key}"] if r[0] == name)

    for name, s in results["labels"].items():
        assert row("labels", name)[1:4] == [s["method"], s["supervision"], f"{100*s['miou']:.1f}"]
    for name, s in results["arms"].items():
        assert row("arms", name)[2:5] == [
            s["supervision"], f"{s['labelled']:,}", f"{100*s['miou']:.1f}"]
        assert s["method"] in row("arms", name)[1]
    for part, key in (("labels", "label_classes"), ("arms", "arm_classes")):
        heads = [h.split(" (")[0] for h in tables[f"table-{key}"][0][1:]]
        for name in results["classes"]:
            assert row(key, name)[1:] == [f"{100*results[part][h]['iou'][name]:.1f}" for h in heads]
        assert set(heads) == set(results[part])
    for name, pairs in results["context"].items():
        score = pairs["train/rails"]
        assert row("context", name)[2:] == ["train/rails", f"{score['ratio']:.3f}",
                                            f"{100*score['iou']:.1f}"]
    chosen = results["selection"]
    assert row("selection", "selected")[2:4] == ["1,234", "81.2"]
    assert row("selection", "random, same size")[3] == "61.9"
    assert row("selection", "rest (not selected)")[3:] == ["53.1", "−8.8"]
    for name in chosen["quota"]:
        want = [str(chosen[key][name]) for key in ("quota", "taken", "counts")]
        assert row("quota", name)[1:4] == want
    assert row("quota", "all classes")[1:4] == ["66", "46", "96"]
    counts = results["histogram"]["counts"]
    for i, cells in enumerate(tables["table-histogram"][1:]):
        assert cells[1:] == [str(counts[name][i]) for name in ("A", "B", "B+")]
    values = {cells[1] for cells in tables["table-saliency"]}
    assert {f"{v:.3f}" for v in results["saliency"].values()} <= values
    assert [f"{100*v:.1f}" for _, v in results["arms"]["S"]["mask_ratio"]] == row(
        "mask_ratio", "S")[2:]


def test_run_facts_come_from_config_and_manifests(run_folder):
    seen = made(run_folder)
    words = " ".join(seen.words)
    assert "python -m x --y=1" in words and "count 2, kind cpu" in words
    assert "1 min 31 s" in words  # 10 + 11 + ... + 16 seconds
    order = [cells[0] for cells in seen.tables["table-steps"][1:]]
    assert order == ["prepare", "cam_a", "labels_a", "select", "arm_s", "arm_s_sup", "evaluate"]
    assert '"number": 4' in words


def test_hostile_names_are_shown_not_run(run_folder, results):
    text = json.dumps(results)
    for old, new in zip(("train", "boat", "kite", "tiny run", "merged"), HOSTILE, strict=True):
        text = text.replace(json.dumps(old)[1:-1], json.dumps(new)[1:-1])
    (run_folder / "results.json").write_text(text)
    (run_folder / "arm_s" / "metrics.jsonl").write_text(
        json.dumps({"step": 1, f"train/{HOSTILE[0]}": 1.0}) + "\n")
    files.write_json(run_folder / "config.json", {"</pre><script>": HOSTILE[1]})
    seen = made(run_folder)
    assert seen.tags.count("script") == 2 and seen.tags.count("img") == 4 * 6
    assert not any("evil" in value for name in ("src", "href", "style")
                   for value in seen.values(name))
    words = " ".join(seen.words)
    assert all(name in words for name in HOSTILE)


def test_same_run_gives_same_bytes_in_another_process(run_folder):
    first = command.run(run_folder).read_bytes()
    (run_folder / "report.html").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "wsssjax.report", f"--run={run_folder}"], capture_output=True,
        text=True, env=os.environ | {"PYTHONHASHSEED": "12345"}, check=True,
        cwd=pathlib.Path(run_page.__file__).parents[2])
    assert done.stdout.split() == [str(run_folder / "report.html")] and not done.stderr
    assert (run_folder / "report.html").read_bytes() == first


@pytest.mark.parametrize("gone, said", [
    (("labels",), "scored no pseudo-labels"),
    (("selection",), "has no selection"),
    (("arms",), "trained no segmenter"),
    (("classes", "context", "saliency", "histogram", "title", "data", "seed"), ""),
    (("labels", "selection", "arms", "histogram", "classes"), "has no selection"),
])
def test_missing_results_are_said_or_left_out(run_folder, results, gone, said):
    whole = made(run_folder)
    files.write_json(run_folder / "results.json",
                     {k: v for k, v in results.items() if k not in gone})
    seen = made(run_folder)
    assert said in " ".join(seen.words) and (not said or said not in " ".join(whole.words))
    assert len(seen.tables) < len(whole.tables)


@pytest.mark.parametrize("name", [
    "config.json", "select/selection.parquet", "evaluate/gallery.json", "arm_s/metrics.jsonl",
    "prepare/manifest.json", "labels_a/img_0.png", "photos/img_0.jpg", "truth/img_3.png",
])
def test_missing_files_leave_the_rest(run_folder, name):
    whole = made(run_folder)
    (run_folder / name).unlink()
    seen = made(run_folder)
    assert seen.tables["table-arms"] == whole.tables["table-arms"]
    assert " ".join(seen.words) != " ".join(whole.words)


def test_null_scores_show_as_dashes(run_folder, results):
    results["labels"]["B"].update(miou=None, iou=None, method=None)
    results["selection"].update(random_miou=None, quota=None)
    results["arms"]["S"].update(miou=None, mask_ratio=None, labelled=None)
    results["context"] = None
    files.write_json(run_folder / "results.json", results)
    tables = made(run_folder).tables
    assert tables["table-labels"][2][:5] == ["B", "–", "I+S", "–", "–"]
    assert next(r for r in tables["table-arms"] if r[0] == "S")[3:] == ["–", "–", ""]


def test_single_training_is_a_run_of_one_step(tmp_path):
    files.write_json(tmp_path / "config.json", {"method": "cam", "seed": 5})
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "train/loss": 2.0}\n{"step": 2, "train/loss": NaN}\n{"step": 3, "train')
    seen = made(tmp_path)
    assert "labels" not in seen.values("id") and "train/loss" in " ".join(seen.words)
    assert seen.values("class").count("dot c0") == 1  # only step 1 is a number on a whole line


def test_gallery_scores_equal_brute_force(run_folder):
    for name in ("img_0", "img_5"):
        label = label_map.read(run_folder / "labels_a" / f"{name}.png", 4)
        truth = label_map.read(run_folder / "truth" / f"{name}.png", 4).copy()
        truth[:3] = 255
        ious = []
        for k in (1, 2, 3):
            both = sum(int(a == k and b == k) for a, b in zip(label.flat, truth.flat, strict=True))
            either = sum(int(b != 255 and k in (a, b))
                         for a, b in zip(label.flat, truth.flat, strict=True))
            ious += [both / either] if either else []
        assert images.quality(label, truth, 4) == pytest.approx(np.mean(ious), abs=1e-12)
    assert images.quality(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8), 4) is None
    assert images.quality(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 4) is None


def test_gallery_shows_the_files_pixels(run_folder):
    row = gallery.build(read_run.read_run(run_folder))[0].rows[0]
    assert row.note == "IoU of the pair 0.950, rank 1, selected"
    assert [tile.name for tile in row.tiles] == ["A", "B", "B+", "truth"]
    data = base64.b64decode(row.tiles[3].uri.partition(",")[2])
    shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    truth = label_map.read(run_folder / "truth" / "img_0.png", 4)
    inner = np.zeros(truth.shape, bool)  # away from the outline
    inner[1:, 1:] = (truth[1:, 1:] == truth[:-1, 1:]) & (truth[1:, 1:] == truth[1:, :-1])
    want = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]], np.uint8)
    solid = inner & (truth > 0)
    assert solid.sum() > 100
    np.testing.assert_array_equal(shown[solid][:, :3], want[truth[solid]])
    assert set(shown[inner & (truth == 0)][:, 3]) == {0}


def test_long_galleries_are_cut_and_say_so(run_folder):
    path = run_folder / "evaluate" / "gallery.json"
    spec = files.read_json(path) | {"best": [f"img_{i % 6}" for i in range(gallery.PER_GROUP + 5)]}
    files.write_json(path, spec)
    seen = made(run_folder)
    assert "5 more are named" in " ".join(seen.words)
    assert seen.tags.count("article") == gallery.PER_GROUP + 4


def test_full_page_of_real_photos_stays_small(run_folder, shared):
    root = shared / "data" / "voc_small"
    ids = files.read_ids(root / "train.txt")[: 3 * gallery.PER_GROUP]
    for folder in ("labels_a", "labels_b", "labels_b_plus"):
        for name in ids:
            data = (root / "SegmentationClassAug" / f"{name}.png").read_bytes()
            (run_folder / folder / f"{name}.png").write_bytes(data)
    files.write_json(run_folder / "results.json", {"classes": [f"c{i}" for i in range(21)]})
    files.write_json(run_folder / "evaluate" / "gallery.json", {
        "image_root": str(root / "JPEGImages"), "truth_root": str(root / "SegmentationClassAug"),
        "best": ids[0::3], "worst": ids[1::3], "borderline": ids[2::3]})
    path = command.run(run_folder)
    assert Page(path.read_text()).tags.count("img") == 4 * len(ids)
    assert 200_000 < path.stat().st_size < 5_000_000


def test_colours_can_be_read_in_both_themes():
    templates = pathlib.Path(run_page.__file__).with_name("templates")
    source = (templates / "style.css").read_text()

    def luminance(color):
        if len(color) == 4:
            color = "#" + "".join(2 * c for c in color[1:])
        linear = [int(color[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in linear]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    themes = [dict(re.findall(r"--(\w+): (#\w+);", block))
              for block in re.findall(r":root \{(.*?)\}", source, re.S)]
    assert len(themes) == 2
    for theme in themes:
        paper = luminance(theme["paper"])
        for name, least in {"ink": 7, "soft": 4.5, "c0": 4.5, "c1": 3, "c2": 3, "c3": 3,
                            "c4": 3}.items():
            other = luminance(theme[name])
            ratio = (max(paper, other) + 0.05) / (min(paper, other) + 0.05)
            assert ratio >= least, (name, ratio)


def test_template_is_packaged():
    setup = pathlib.Path(run_page.__file__).parents[2] / "setup.cfg"
    config = configparser.ConfigParser()
    config.read(setup)
    listed = config["options.package_data"]["wsssjax.report"].split()
    beside = [p for p in pathlib.Path(run_page.__file__).parent.rglob("*")
              if p.is_file() and p.suffix not in (".py", ".pyc")]
    assert listed == ["templates/*"] and {p.parent.name for p in beside} == {"templates"}
