"""The page of an ablation: whole, closed to the network, and showing the tables' numbers."""

import importlib.util
import io
import pathlib
import xml.etree.ElementTree

import numpy as np
import pytest
from PIL import Image

from wsssjax.ablate import figure, page, sheet
from wsssjax.data.classes import VOC_CLASSES

HOSTILE = "</table><script>window.bad=1</script><img src=http://evil.example/x>"


@pytest.fixture(scope="module")
def chromium():
    path = pathlib.Path(__file__).parents[1] / "report" / "chromium.py"
    spec = importlib.util.spec_from_file_location("chromium", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hostile(ablations):
    rows = ablations.grid()
    rows[0]["supervision"] = HOSTILE
    rows[1]["counts"] = {HOSTILE: 3}
    rows[4]["miou"] = None
    return ablations.table(rows, title=HOSTILE, data=HOSTILE, sets=[
        ablations.label_set(HOSTILE, HOSTILE, 0.5, [1, 2], "I"),
        ablations.label_set("B+", "", None, [3, 4], "")])


def test_the_same_rows_give_the_same_page_without_any_script(ablations):
    text = page.make(ablations.table(ablations.grid()))
    assert text == page.make(ablations.table(ablations.grid()))
    assert "<script" not in text and "http://" not in text.replace("http://www.w3.org", "")
    assert "default-src 'none'" in text and "48 of 49" not in text and "49 of 49" in text
    assert "published" not in text


def test_names_are_text(ablations):
    text = page.make(hostile(ablations))
    assert "<script" not in text and "<img" not in text
    assert text.count("window.bad=1") >= 8


def test_an_empty_ablation_says_what_is_absent(ablations):
    text = page.make(ablations.table([], title="", edges=[], sets=[]))
    for words in ("<h1>Ablation</h1>", "No cell trains a segmenter.", "no two arms to compare",
                  "Table 3: no cell", "Table 8: no cell", "No label set was compared"):
        assert words in text


def test_it_begins_with_the_largest_quota_of_the_main_pair(ablations):
    rows = [row | {"cell": row["cell"] | {"method": method}} for row in ablations.grid()
            for method in ("probe", "unimatch_v2")]
    text = page.make(ablations.table(rows))
    assert "These numbers are of pair (A,B+), quota voc/183, score paper, keep whole, " \
           "method unimatch_v2." in text
    head = text[text.index('<dl class="headline">'):text.index("</dl>")]
    assert "<dt>arm S</dt><dd>43.0<small>I+S</small>" in head
    assert "<dt>S − M</dt><dd>+5.0<small>3 of 3 seeds</small>" in head


def test_svg_file_is_xml_with_every_set(ablations):
    root = xml.etree.ElementTree.fromstring(figure.svg(hostile(ablations)))
    names = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")
             if e.get("class") == "name"]
    assert names == [f"{HOSTILE} ({HOSTILE}, I)", "B+"]
    bars = [e for e in root.iter("{http://www.w3.org/2000/svg}rect")
            if (e.get("class") or "").startswith("bar")]
    heights = [float(e.get("height")) for e in bars]
    assert heights == pytest.approx([heights[0] * n for n in (1, 2, 3, 4)], rel=0.02)


@pytest.mark.browser
def test_a_browser_shows_every_cell_and_asks_nobody(ablations, chromium, tmp_path):
    pytest.importorskip("websockets", reason="websockets is absent: pip install -e .[dev]")
    if chromium.find() is None:
        pytest.skip("no Chromium: apt-get install chromium")
    table = hostile(ablations) | {"voc": "train_aug", "classes": list(VOC_CLASSES)}
    (tmp_path / "report.html").write_text(page.make(table), encoding="utf-8")
    (tmp_path / "figure1.svg").write_text(figure.svg(table), encoding="utf-8")
    with chromium.tab(tmp_path) as tab:
        tab.size(1200, 900)
        tab.open(tmp_path / "report.html")
        assert tab.js("window.bad") is None and tab.js("document.title") == HOSTILE
        for found in map(sheet.to_table, page.build(table).values()):
            cells = tab.js(f"[...document.querySelectorAll('#table-{found.key} tbody tr')].map("
                           "(r) => [...r.children].map((c) => c.textContent))")
            assert cells == [list(row) for row in found.rows], found.key
        assert tab.js("document.querySelectorAll('#figure svg.chart').length") == 2
        assert "\n" in tab.js("document.querySelector('#table-table7').parentElement"
                              ".nextElementSibling.innerText")
        means = {}
        for scheme in ("light", "dark"):
            tab.media(scheme=scheme)
            shown = np.asarray(Image.open(io.BytesIO(tab.screenshot())).convert("L"), float)
            means[scheme] = shown.mean()
            assert shown.std() > 10
        assert means["light"] > 180 and means["dark"] < 90
        tab.size(360, 700)
        assert tab.js("document.documentElement.scrollWidth") <= 360
        tab.open(tmp_path / "figure1.svg")
        assert tab.js("document.documentElement.querySelectorAll('rect.bar').length") == 4
        assert tab.complaints() == []
        assert {url.partition(":")[0] for url in tab.requests()} == {"file"}
