"""report.html in a real browser: content, controls, console and network."""

import copy
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.report.write import write_report_files
from pipeline.storage.uris import Storage
from tests.pipeline.report.compared import HOSTILE, SCENES, make_rows

CONTRAST = """(selectors) => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => rgba(colour).slice(0, 3).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    while (node && rgba(getComputedStyle(node).backgroundColor)[3] < 255) node = node.parentElement;
    return light(getComputedStyle(node ?? document.body).backgroundColor);
  };
  return selectors.map((selector) => [...document.querySelectorAll(selector)].slice(0, 20).map((node) => {
    const style = getComputedStyle(node), ink = node instanceof SVGElement ? style.fill : style.color;
    const [low, high] = [light(ink), behind(node)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  }));
}"""
TEXTS = [
    *("h1", "h2", ".about", ".card dd", ".card .detail", ".notes li", "figcaption", "select", "#count"),
    *(".item h3", ".said", ".answer .small", ".badge", ".failed", ".gone", "td", "thead th"),
    *(".xtick text", ".ytick text", ".legendtext", ".xtitle"),
]

# Pairs of texts of one plot that overlap by more than a pixel.
OVERLAPS = """[...document.querySelectorAll('figure[data-plot]:not([hidden])')].flatMap((figure) => {
  const boxes = [...figure.querySelectorAll('svg text')].filter((node) => node.textContent.trim())
    .map((node) => [node.textContent, node.getBoundingClientRect()]).filter(([, box]) => box.width);
  const meet = (a, b) => a.left + 1 < b.right && b.left + 1 < a.right
    && a.top + 1 < b.bottom && b.top + 1 < a.bottom;
  return boxes.flatMap(([text, a], i) => boxes.slice(i + 1).filter(([, b]) => meet(a, b))
    .map(([otherText]) => `${figure.dataset.plot}: ${text} / ${otherText}`));
})"""
# The labels of a frontier's points.
LABELS = """[...document.querySelectorAll(`[data-plot=${arguments[0]}] .annotation-text`)]
  .map((node) => node.textContent)"""


@pytest.fixture(params=["comparison", "run"])
def report(request):
    return request.getfixturevalue(request.param) / "report.html"


def test_it_opens_without_an_error_or_a_request(chromium, report):
    chromium.open(report)
    chromium.js("window.scrollTo(0, document.body.scrollHeight)")
    console, urls = chromium.logs()
    assert console == []
    assert [url for url in urls if not url.startswith("data:")] == [report.as_uri()]
    shown = {figure.get_attribute("data-plot") for figure in chromium.find("figure[data-plot]:not([hidden])")}
    plots = {"histogram", "stages", "throughput"}
    assert shown == (plots if "trim" in str(report) else plots | {"frontier-tokens", "frontier-cost"})
    # the page's policy also forbids requests that a script might make
    assert chromium.js("fetch('https://example.org').then(() => 'open', () => 'shut')") == "shut"
    assert "Content Security Policy" in str(chromium.logs()[0])


@pytest.mark.parametrize("width", [400, 1600])
def test_it_fits_the_window(chromium, report, width):
    chromium.open(report, width)
    assert chromium.js("document.documentElement.scrollWidth") == width
    chromium.wait("document.querySelector('#items canvas')")
    beyond = """[...document.querySelectorAll('main *')].filter((node) => !node.closest('.scroll, svg')
        && (node.getBoundingClientRect().right > innerWidth || node.getBoundingClientRect().left < 0))
        .map((node) => node.outerHTML.slice(0, 80))"""
    assert chromium.js(beyond) == []
    tables = (
        "[...document.querySelectorAll('.scroll:has(table.prose)')].map((t) => t.scrollWidth - t.clientWidth)"
    )
    assert max(chromium.js(tables)) <= 0, "tables of prose need no scrolling"
    wide = """[...document.querySelectorAll('.js-plotly-plot')]
        .map((plot) => plot.querySelector('svg').clientWidth - plot.clientWidth)"""
    assert max(chromium.js(wide)) <= 0


def test_it_is_readable_in_both_colour_schemes(chromium, report):
    chromium.open(report, 1600, "dark")
    backgrounds = []
    for scheme in ("dark", "light"):
        chromium.scheme(scheme)  # the plots follow without a reload
        colour = "rgb(230, 235, 241)" if scheme == "dark" else "rgb(27, 36, 48)"
        chromium.wait(f"getComputedStyle(document.querySelector('.xtick text')).fill === '{colour}'")
        backgrounds.append(chromium.js("getComputedStyle(document.body).backgroundColor"))
        contrasts = chromium.js(f"({CONTRAST})(arguments[0])", TEXTS)
        low = {text: min(ratios) for text, ratios in zip(TEXTS, contrasts, strict=True) if ratios}
        assert len(low) > 15
        assert min(low.values()) >= 4.5, low
    assert backgrounds == ["rgb(15, 20, 26)", "rgb(246, 247, 249)"]


def test_texts_of_the_data_are_inert(chromium, report):
    chromium.open(report)
    assert chromium.driver.title.startswith("Trimline")
    assert HOSTILE in [
        title.text.removesuffix("answers differ").rstrip() for title in chromium.find(".item h3")
    ]
    assert chromium.find("main img, main script, main b:not(.arm b)") == []


def test_the_gallery_is_filtered(chromium, comparison):
    chromium.open(comparison / "report.html")

    def shown() -> int:
        count = chromium.find("#count")[0].text
        assert count.endswith(f" of {SCENES + 1}")
        assert int(count.split()[0]) == len(chromium.find(".item"))
        return len(chromium.find(".item"))

    assert shown() == SCENES + 1
    differ = len(chromium.find(".badge.differs"))
    assert differ > 0
    chromium.choose("#kind", "differs")
    assert shown() == differ == len(chromium.find(".badge.differs"))
    chromium.choose("#kind", "failed")
    assert shown() == 1
    assert chromium.find(".item .key")[0].text.startswith("broken.jpg")
    chromium.choose("#kind", "all")
    chromium.choose("#status", "bad_image")
    assert shown() == 1
    chromium.choose("#status", "all")
    chromium.find("#text")[0].send_keys("</SCRIPT>")
    assert shown() == 1
    chromium.find("#text")[0].send_keys("nowhere")
    assert shown() == 0


def test_kept_patches_are_lit_and_the_others_dark(chromium, comparison):
    chromium.open(comparison / "report.html")
    chromium.choose("#status", "ok")
    grey = """[...document.querySelectorAll('.item')].find((item) => item.textContent.includes('000.png'))
      .querySelectorAll('canvas')[arguments[0]].getContext('2d').getImageData(0, 0, 240, 240).data"""
    bright = (
        f"""((data) => data.reduce((n, c, i) => n + (i % 4 < 3 && c > 90), 0) / (240 * 240 * 3))({grey})"""
    )
    chromium.wait(f"((arguments) => {bright} > 0.5)([0])")
    full, trim = chromium.js(bright, 0), chromium.js(bright, 1)
    assert full > 0.5 and 0 < trim < 0.5 * full
    chromium.find("#dim")[0].click()
    assert chromium.js(bright, 1) == full


def test_a_small_grid_is_lit_patch_by_patch(chromium, comparison, tmp_path):
    """The 16 bits stored for a 3 x 3 grid must not be read as a 4 x 4 grid."""
    shutil.copytree(comparison, tmp_path / "small")
    file = tmp_path / "small" / "comparison.parquet"
    table = pq.read_table(file)
    diagonal = np.packbits(np.eye(3, dtype=bool)).tobytes()
    for name, value in (("kept_patches.trim", diagonal), ("visual_tokens_full.trim", 9)):
        field = table.schema.field(name)
        column = pa.array([value] * len(table), field.type)
        table = table.set_column(table.column_names.index(name), field, column)
    pq.write_table(table, file)
    write_report_files(str(tmp_path / "small"), Storage(), gallery=200, seed=0)
    chromium.open(tmp_path / "small" / "report.html")
    patches = """((pen) => [40, 120, 200].map((y) => [40, 120, 200]
      .map((x) => [...pen.getImageData(x, y, 1, 1).data])))
      ([...document.querySelectorAll('.item')].find((item) => item.textContent.includes('000.png'))
      .querySelectorAll('canvas')[1].getContext('2d'))"""
    chromium.wait(f"({patches})[0][0][3] === 255")
    lit = chromium.js(patches)
    chromium.find("#dim")[0].click()
    whole = chromium.js(patches)
    assert [[lit[y][x] == whole[y][x] for x in range(3)] for y in range(3)] == np.eye(3, dtype=bool).tolist()


def test_deleted_or_changed_images_have_a_placeholder(chromium, comparison):
    chromium.open(comparison / "report.html")
    texts = {item.find_element("css selector", ".key").text[:7]: item.text for item in chromium.find(".item")}
    for key, text in texts.items():
        assert ("cannot be read any more" in text) == (key in ("002.png", "003.png")), key
        assert ("no image" in text) == (key == "broken.")


def test_the_quality_axis_can_be_chosen(chromium, comparison):
    chromium.open(comparison / "report.html")
    title = "document.querySelector('[data-plot=frontier-cost] .ytitle').textContent"
    assert chromium.js(title) == "same answer as full"
    chromium.choose("#quality", "chrF with full")
    chromium.wait(f"{title} === 'chrF with full'")
    assert "EUR" in chromium.js("document.querySelector('[data-plot=frontier-cost] .xtitle').textContent")


# Drawn figures of twelve arms, accuracy and cost, whose labels do not all find room beside their points.
NARROW = [
    *((0.93, 3068), (0.9305, 3068), (0.93, 3080), (0.9315, 3160), (0.932, 3093), (0.9325, 3068)),
    *((0.93, 3105), (0.9335, 3283), (0.93, 3117), (0.9345, 3344), (0.935, 3129), (0.9355, 3136)),
]


@pytest.fixture(scope="module", params=[(6, []), (12, []), (12, NARROW)], ids=["6", "12", "narrow"])
def crowded(request, outputs, tmp_path_factory):
    """A comparison of many arms with long names and equal or nearly equal figures."""
    count, drawn = request.param
    folder = tmp_path_factory.mktemp("crowded")
    names = [
        "full",
        "the same once more",
        *(f"trim_cover-diversity=0.{n}-keep_ratio=0.21" for n in range(10)),
    ]
    names = names[:count]
    shutil.copytree(outputs / "full", folder / "full")
    make_rows(folder, 64, tuple(names))
    figures = json.loads((outputs / "comparison.json").read_text())
    arms, pair = figures["arms"], figures["pairs"]["trim"]
    figures["arms"], figures["pairs"] = {}, {name: pair for name in names[1:]}
    for number, name in enumerate(names):
        arm = copy.deepcopy(arms["full" if number < 4 else "trim"])
        arm["figures"] = {"figures": {"accuracy": {"value": 0.93, "low": 0.91, "high": 0.95}}, "groups": {}}
        if number >= 4:
            arm["figures"]["figures"]["accuracy"]["value"] += 0.0005 * number
            arm["tokens"]["visual_tokens_kept"]["mean"]["value"] += 0.2 * number
            arm["cost"]["per_million"]["value"] *= 1 + 0.002 * number
        if drawn:
            arm["figures"]["figures"]["accuracy"]["value"], cost = drawn[number]
            arm["cost"]["per_million"] = {"value": cost, "low": 2957, "high": 3150}
        figures["arms"][name] = arm
    (folder / "comparison.json").write_text(json.dumps(figures))
    write_report_files(str(folder), Storage(), gallery=0, seed=0)
    return folder / "report.html", names


def test_labels_of_a_plot_do_not_overlap(chromium, crowded):
    page, names = crowded
    chromium.open(page, 1600)
    assert chromium.js(OVERLAPS) == []
    for plot in ("frontier-tokens", "frontier-cost"):
        labels = chromium.js(LABELS, plot)
        assert len(labels) == len(set(labels)) == len(names), "each point has its name"
    for width in (1000, 400):  # resized while open: a label without room is left out
        chromium.resize(width)
        chromium.wait(f"document.querySelector('.plot .main-svg').clientWidth < {width}")
        assert chromium.js(OVERLAPS) == [], width
        assert len(chromium.js(LABELS, "frontier-tokens")) >= 3
    chromium.open(page, 1600)
    chromium.choose("#quality", "chrF with full")
    assert chromium.js(OVERLAPS) == []
    assert len(chromium.js(LABELS, "frontier-tokens")) >= 6


def test_texts_of_ordinary_plots_do_not_overlap(chromium, report):
    for width in (1600, 400):
        chromium.open(report, width)
        assert chromium.js(OVERLAPS) == []
