"""report.html in a real browser: what it shows, does, logs and asks for."""

import pytest

from tests.pipeline.report.compared import HOSTILE, SCENES

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


@pytest.fixture(params=["comparison", "run"])
def report(request):
    return request.getfixturevalue(request.param) / "report.html"


def test_it_opens_without_an_error_or_a_request(chromium, report):
    chromium.open(report)
    chromium.js("window.scrollTo(0, document.body.scrollHeight)")
    console, asked = chromium.logs()
    assert console == []
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    shown = {figure.get_attribute("data-plot") for figure in chromium.find("figure[data-plot]:not([hidden])")}
    plots = {"histogram", "stages", "throughput"}
    assert shown == (plots if "trim" in str(report) else plots | {"frontier-tokens", "frontier-cost"})
    # the policy that forbids it is there, not only the habit
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
    assert max(chromium.js(tables)) <= 0, "what is read needs no scrolling"
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
        found = chromium.js(f"({CONTRAST})(arguments[0])", TEXTS)
        low = {text: min(ratios) for text, ratios in zip(TEXTS, found, strict=True) if ratios}
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
        told = chromium.find("#count")[0].text
        assert told.endswith(f" of {SCENES + 1}")
        assert int(told.split()[0]) == len(chromium.find(".item"))
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


def test_images_that_are_gone_or_changed_have_a_placeholder(chromium, comparison):
    chromium.open(comparison / "report.html")
    told = {item.find_element("css selector", ".key").text[:7]: item.text for item in chromium.find(".item")}
    for key, text in told.items():
        assert ("cannot be read any more" in text) == (key in ("002.png", "003.png")), key
        assert ("no image" in text) == (key == "broken.")


def test_what_the_upright_axis_shows_can_be_chosen(chromium, comparison):
    chromium.open(comparison / "report.html")
    title = "document.querySelector('[data-plot=frontier-cost] .ytitle').textContent"
    assert chromium.js(title) == "same answer as full"
    chromium.choose("#quality", "chrF with full")
    chromium.wait(f"{title} === 'chrF with full'")
    assert "EUR" in chromium.js("document.querySelector('[data-plot=frontier-cost] .xtitle').textContent")
