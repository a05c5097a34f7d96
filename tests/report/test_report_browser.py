"""The selection's page in a real browser: it sorts, filters, and asks nobody for anything."""

import importlib.util
import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from wsssjax.data import label_map
from wsssjax.report import __main__ as command

pytestmark = pytest.mark.browser

NAMES = ["cat", "dog", "<img src=x onerror='window.bad=1'>"]
HOSTILE = "</script><script>window.bad=2</script>"
COUNT = 130


def load(name):
    path = pathlib.Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


chromium = load("chromium")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The rows that were written, by rank, and the page of them in a tab."""
    pytest.importorskip("websockets", reason="websockets is absent: pip install -e .[dev]")
    if chromium.find() is None:
        pytest.skip("no Chromium: apt-get install chromium")
    selections, folder = load("selections"), tmp_path_factory.mktemp("selection")
    rows = selections.many(COUNT, NAMES, dict(zip(NAMES, (4, 5, 3), strict=True)), seed=3)
    rows[7] = (HOSTILE, *rows[7][1:])
    selections.write(folder, rows, dict(zip(NAMES, (4, 5, 3), strict=True)), min_iou=None)
    rng, lines = np.random.default_rng(0), []
    for name, *_ in rows[:7] + rows[8:]:
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(folder / f"{name}.jpg")
        label_map.write(folder / "labels" / f"{name}.png",
                        np.kron(rng.integers(0, 4, (3, 4), np.uint8), np.ones((10, 10), np.uint8)))
        lines.append(f"{name}.jpg labels/{name}.png\n")
    (folder / "unlabeled.txt").write_text("".join(lines))
    path = command.run(folder)
    with chromium.tab(tmp_path_factory.mktemp("chromium")) as tab:
        tab.size(1200, 900)
        tab.open(path)
        yield rows, tab


@pytest.fixture
def page(opened):
    """The rows and the tab, with all filters cleared and the first page by rank shown."""
    rows, tab = opened
    tab.media()
    tab.js("document.querySelector('#images-filters [type=reset]').click();"
           "new Promise((done) => setTimeout(done, 20))")
    if head(tab, "rank") != "ascending":
        click(tab, "rank")
    return rows, tab


def column(tab, key):
    """The cells of a column as the table shows them now."""
    return tab.js(f"""(() => {{
        const at = [...document.querySelectorAll('#table-images thead th')].findIndex(
            (h) => h.dataset.key === '{key}');
        return [...document.querySelectorAll('#table-images tbody tr')].map(
            (r) => r.children[at].textContent.trim());
    }})()""")


def click(tab, key):
    tab.js(f"document.querySelector('th[data-key={key}] button').click()")


def head(tab, key):
    return tab.js(f"document.querySelector('th[data-key={key}]').getAttribute('aria-sort')")


def choose(tab, name, value):
    tab.js(f"(() => {{ const f = document.getElementById('images-{name}'); f.value = '{value}';"
           "f.dispatchEvent(new Event('input', {bubbles: true})); })()")


def status(tab):
    return tab.js("document.getElementById('images-status').textContent")


def test_it_opens_by_rank_without_complaints_or_requests(page):
    rows, tab = page
    assert column(tab, "id") == [row[0] for row in rows[:50]]
    assert column(tab, "rank") == [str(i) for i in range(1, 51)]
    assert status(tab) == f"1 to 50 of {COUNT} images"
    assert tab.complaints() == []
    assert [url.partition(":")[0] for url in tab.requests()] == ["file"]
    assert tab.js("[...document.images].every((i) => i.complete && i.naturalWidth > 0 && i.alt)")
    assert tab.js("document.querySelectorAll('#table-images tbody img').length") == 2 * 49


def test_hostile_names_are_text(page):
    rows, tab = page
    assert tab.js("window.bad") is None
    assert column(tab, "id")[7] == HOSTILE
    shown = " ".join(column(tab, "classes") + column(tab, "why"))
    assert NAMES[2] in shown


@pytest.mark.parametrize("key, by, down", [
    ("iou", lambda row: row[1], True), ("id", lambda row: row[0], False)])
def test_heads_sort_both_ways(page, key, by, down):
    rows, tab = page
    for backwards in (down, not down):
        click(tab, key)
        want = sorted(rows, key=by, reverse=backwards)
        assert column(tab, "id") == [row[0] for row in want[:50]]
        assert head(tab, key) == ("descending" if backwards else "ascending")
        assert head(tab, "rank") is None


def test_heads_sort_from_the_keyboard(page):
    rows, tab = page
    tab.js("document.querySelector('th[data-key=rank] button').focus()")
    tab.press("Enter", 13, "\r")
    assert head(tab, "rank") == "descending"
    assert column(tab, "id") == [row[0] for row in rows[::-1][:50]]
    tab.press("Tab", 9)
    tab.press(" ", 32, " ")
    assert head(tab, "iou") == "descending" and head(tab, "rank") is None


@pytest.mark.parametrize("field, value, fits", [
    ("text", "2008_0", lambda i, row: "2008_0" in row[0]),
    ("text", "HOLDS no", lambda i, row: row[3] == "no_class"),
    ("text", "which had 3 of 4", lambda i, row: False),
    ("class", "1", lambda i, row: "dog" in row[2]),
    ("class", "2", lambda i, row: NAMES[2] in row[2]),
    ("selected", "1", lambda i, row: row[3] == "quota"),
    ("selected", "0", lambda i, row: row[3] != "quota"),
    ("group", "0", lambda i, row: row[3] != "no_class"),  # so few images are all of the best
    ("group", "3", lambda i, row: row[3] == "no_class"),  # with nothing to see: a sample of them
])
def test_filters_keep_what_fits(page, field, value, fits):
    rows, tab = page
    choose(tab, "size", "500")
    choose(tab, field, value)
    got = column(tab, "id")
    if value == "which had 3 of 4":
        rank = [i for i, row in enumerate(rows) if "cat" in row[4]][3]
        assert got == [rows[rank][0]] and "which had 3 of 4" in column(tab, "why")[0]
    else:
        want = [row[0] for i, row in enumerate(rows) if fits(i, row)]
        assert got == want and 0 < len(want) < COUNT
    many = len(got)
    assert status(tab) == f"1 to {many} of {many} images"


def test_filters_join_and_clear(page):
    rows, tab = page
    reasons = tab.js("[...document.getElementById('images-reason').options].map((o) => o.text)")
    choose(tab, "reason", str(reasons.index("all its classes were full") - 1))
    choose(tab, "class", "0")
    choose(tab, "size", "500")
    want = [row[0] for row in rows if row[3] == "full" and "cat" in row[2]]
    assert column(tab, "id") == want and want
    choose(tab, "text", "no such image")
    assert column(tab, "id") == [] and status(tab) == "no image fits"
    tab.js("document.querySelector('#images-filters [type=reset]').click();"
           "new Promise((done) => setTimeout(done, 20))")
    assert status(tab) == f"1 to 50 of {COUNT} images"


def test_pages_turn_and_stop_at_the_ends(page):
    rows, tab = page

    def buttons():
        return tab.js("['back', 'next'].map((n) => document.getElementById('images-' + n)"
                      ".disabled)")

    assert buttons() == [True, False]
    for _ in range(2):
        tab.js("document.getElementById('images-next').click()")
    assert column(tab, "id") == [row[0] for row in rows[100:]] and buttons() == [False, True]
    tab.js("document.getElementById('images-back').click()")
    assert column(tab, "id") == [row[0] for row in rows[50:100]] and buttons() == [False, False]


def test_pictures_are_not_blank_in_either_theme_nor_on_paper(page):
    _, tab = page
    tab.js("document.getElementById('images-filters').scrollIntoView()")
    means = {}
    for scheme in ("light", "dark"):
        tab.media(scheme=scheme)
        shown_hw3 = np.asarray(Image.open(io.BytesIO(tab.screenshot())).convert("RGB"), float)
        assert shown_hw3.shape == (900, 1200, 3) and shown_hw3.std() > 15
        means[scheme] = shown_hw3.mean()
    assert means["light"] > 180 and means["dark"] < 90
    tab.media("print")
    assert tab.js("document.getElementById('images-filters').offsetHeight") == 0
    assert tab.js("document.querySelector('#table-images tbody tr').offsetHeight") > 0
    assert tab.call("Page.printToPDF")["data"].startswith("JVBERi")


def test_a_phone_scrolls_the_table_not_the_page(page):
    _, tab = page
    tab.size(360, 700)
    assert tab.js("document.documentElement.scrollWidth") <= 360
    tab.size(1200, 900)
