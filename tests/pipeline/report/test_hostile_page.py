"""A report in a real browser, every text of which was made to break out of the page."""

import json
import shutil

import pyarrow.parquet as pq
import pytest

from pipeline.report.write import write_report_files
from pipeline.storage.uris import Storage

ARM = "<svg onload=document.title='broken'><img src=x onerror=document.title=1"  # names a folder: no slash
TEXTS = [
    "</script><script>document.title='broken'</script>",
    "<img src=x onerror=\"document.title='broken'\"><img src=http://h.example/i.png>",
    "</textarea></style></title><svg onload=\"document.title='broken'\">",
    "javascript:document.title='broken'",
    "\"' onmouseover='document.title=1' autofocus onfocus='document.title=2' x=\"",
    "<!--<script>",
    "]]><base href=http://h.example/><meta http-equiv=refresh content='0;url=http://h.example/'>",
    "<iframe srcdoc=\"<script>parent.document.title='broken'</script>\"></iframe>",
    "\u2028\u202e\x1b[2J\0${document.title='broken'}{{constructor.constructor('document.title=1')()}}",
    '<link rel=stylesheet href=http://h.example/s.css><a href="http://h.example">here</a>',
]


@pytest.fixture(scope="module")
def hostile(outputs, tmp_path_factory):
    """Copy a comparison with a hostile text in place of each free text of its files."""
    folder = tmp_path_factory.mktemp("hostile") / "compared"
    shutil.copytree(outputs, folder)
    (folder / "trim").rename(folder / ARM)
    figures = json.loads((folder / "comparison.json").read_text())
    for part in ("arms", "pairs"):
        figures[part][ARM] = figures[part].pop("trim")
    (folder / "comparison.json").write_text(json.dumps(replaced(figures)))
    for file in folder.glob("*/run.json"):
        settings = json.loads(file.read_text())
        settings["configuration"] = replaced(settings["configuration"])
        file.write_text(json.dumps(settings))
    table = pq.read_table(folder / "comparison.parquet")
    table = table.rename_columns([name.replace(".trim", f".{ARM}") for name in table.column_names])
    for name in ("sample_key", "question", "question_id"):
        values = [TEXTS[row % len(TEXTS)] + f" {row}" for row in range(table.num_rows)]
        table = table.set_column(table.column_names.index(name), name, [values])
    for name in [name for name in table.column_names if name.startswith(("prediction.", "error."))]:
        values = [TEXTS[-1 - row % len(TEXTS)] for row in range(table.num_rows)]
        table = table.set_column(table.column_names.index(name), name, [values])
    pq.write_table(table, folder / "comparison.parquet")
    write_report_files(str(folder), Storage(), gallery=200, seed=0)
    return folder / "report.html"


def replaced(part, name=""):
    """Replace the texts that a user or a source chose, such as names and prompts."""
    if isinstance(part, dict):
        return {key: replaced(value, key) for key, value in part.items()}
    if isinstance(part, list):
        return [replaced(value, name) for value in part]
    free = name in (
        "name",
        "notes",
        "hardware",
        "currency",
        "question",
        "prompt",
        "suffix",
        "model",
    )
    return " ".join(TEXTS) if isinstance(part, str) and free else part


@pytest.mark.parametrize("width", [400, 1600])
def test_no_text_runs_or_reaches_out(chromium, hostile, width):
    chromium.open(hostile, width)
    for element in chromium.find("select"):
        for option in element.find_elements("css selector", "option"):
            option.click()
    chromium.js(
        "document.querySelectorAll('*').forEach((node) => node.dispatchEvent(new Event('mouseover')))"
    )
    chromium.js("window.scrollTo(0, document.body.scrollHeight)")
    console, urls = chromium.logs()
    assert console == []
    assert [url for url in urls if not url.startswith(("data:", "blob:"))] == [hostile.as_uri()]
    assert chromium.driver.title.startswith("Trimline")
    made = "main img:not([src^='data:']), main iframe, main svg[onload], main style, main script"
    links = "base, link:not([rel=icon]), main a[href^='http'], main a[href^='javascript']"
    assert [node.get_attribute("outerHTML")[:200] for node in chromium.find(f"{made}, {links}")] == []
    nodes = "[...document.querySelectorAll('main *')]"
    handled = f"{nodes}.filter((node) => [...node.attributes].some((one) => /^on/.test(one.name))).length"
    assert chromium.js(handled) == 0
    shown = chromium.js("document.querySelector('main').textContent")
    assert all(text[:20] in shown for text in TEXTS[:4]), "the texts are shown as they are"
