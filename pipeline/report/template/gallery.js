"use strict";
// The gallery: shows the filtered requests, a page at a time. Texts are set as text, never as markup.
(() => {
  const { figures, gallery } = JSON.parse(document.getElementById("data").textContent);
  const names = Object.keys(figures.arms);
  const byId = (id) => document.getElementById(id);
  const AT_ONCE = Math.max(6, Math.ceil(48 / names.length)), DIMMED = 0.22;
  const KINDS = [["all", "all requests"], ["differs", "disagreements"], ["same", names.length > 1 ? "agreements" : "answered"], ["failed", "failures"]];
  // only scores from 0 to 1 are called right or wrong
  const graded = gallery.items.every((item) => item.answers.every(({ score }) => score === null || (score >= 0 && score <= 1)));
  let shown = [], until = 0;

  function node(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  const seconds = (s) => (s >= 1 ? `${s.toPrecision(3)} s` : `${(1000 * s).toPrecision(3)} ms`);
  const bits = (text) => Array.from(atob(text), (c) => c.charCodeAt(0).toString(2).padStart(8, "0")).join("");

  // Draws the picture with every dropped patch dark and grey.
  function paint(canvas, image, { patches, full }) {
    const side = (canvas.width = canvas.height = image.naturalWidth);
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.drawImage(image, 0, 0);
    if (!byId("dim").checked) return;
    const kept = patches === null ? "" : bits(patches);
    const grid = Math.floor(Math.sqrt(full ?? 1)); // the bitmap's last byte may have more bits than patches
    const pixels = pen.getImageData(0, 0, side, side), data = pixels.data;
    for (let y = 0, at = 0; y < side; y++) {
      for (let x = 0; x < side; x++, at += 4) {
        if (kept[Math.floor((y * grid) / side) * grid + Math.floor((x * grid) / side)] === "1") continue;
        data[at] = data[at + 1] = data[at + 2] = (DIMMED * (data[at] + data[at + 1] + data[at + 2])) / 3;
      }
    }
    pen.putImageData(pixels, 0, 0);
  }

  function picture(item, answer, arm) {
    if (item.picture < 0) return node("div", "gone", answer.status === "bad_image" || answer.status === "bad_sample" ? "no image" : "the image cannot be read any more");
    const canvas = node("canvas"), image = new Image();
    canvas.width = canvas.height = 240;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${arm}: ${answer.kept ?? 0} of ${answer.full ?? 0} visual tokens kept`);
    image.onload = () => paint(canvas, image, answer);
    image.src = gallery.pictures[item.picture];
    canvas.repaint = () => image.complete && paint(canvas, image, answer);
    return canvas;
  }

  function answered(item, answer, arm) {
    const box = node("div", answer.differs ? "answer differs" : "answer");
    const line = node("div", "arm");
    line.append(node("b", "", arm));
    if (answer.kept !== null) line.append(` ${answer.kept} / ${answer.full}`);
    box.append(picture(item, answer, arm), line);
    if (answer.status !== "ok") box.append(node("div", "failed", `${answer.status}: ${answer.error ?? ""}`));
    else box.append(node("div", "said", answer.text === "" ? "(an empty answer)" : answer.text + (answer.cut ? " …" : "")));
    const small = [answer.generated === null ? "" : `${answer.generated} tokens out`, answer.seconds === null ? "" : seconds(answer.seconds)];
    const below = node("div", "small", small.filter(Boolean).join(", "));
    if (answer.score !== null) {
      const mark = graded && answer.score >= 1 ? ["right", "✓ right"] : graded && answer.score <= 0 ? ["wrong", "✗ wrong"] : ["", `score ${answer.score.toFixed(2)}`];
      below.prepend(node("span", mark[0], mark[1]), small.some(Boolean) ? ", " : "");
    }
    box.append(below);
    return box;
  }

  function card(item) {
    const box = node("article", "item");
    const title = node("h3", "", item.question || "(no question)");
    if (item.kind !== "same") title.append(node("span", `badge ${item.kind}`, item.kind === "failed" ? "failed" : "answers differ"));
    const answers = node("div", "answers");
    item.answers.forEach((answer, number) => answers.append(answered(item, answer, names[number])));
    box.append(title, node("div", "key", `${item.sample} · ${item.key}`), answers);
    return box;
  }

  function more() {
    shown.slice(until, until + AT_ONCE).forEach((item) => byId("items").append(card(item)));
    until = Math.min(until + AT_ONCE, shown.length);
    byId("more").hidden = until >= shown.length;
  }

  function filter() {
    const kind = byId("kind").value, status = byId("status").value, text = byId("text").value.trim().toLowerCase();
    shown = gallery.items.filter((item) =>
      (kind === "all" || item.kind === kind) &&
      (status === "all" || item.answers.some((answer) => answer.status === status)) &&
      (!text || [item.question, item.key, item.sample, ...item.answers.flatMap((a) => [a.text, a.error])]
        .some((part) => part && part.toLowerCase().includes(text))));
    byId("items").replaceChildren();
    byId("count").textContent = `${shown.length} of ${gallery.items.length}`;
    until = 0;
    more();
  }

  const counted = (test) => gallery.items.filter(test).length;
  for (const [kind, title] of KINDS) {
    const count = counted((item) => kind === "all" || item.kind === kind);
    if (kind === "all" || count) byId("kind").add(new Option(`${title} (${count})`, kind));
  }
  byId("status").add(new Option("any", "all"));
  for (const status of new Set(gallery.items.flatMap((item) => item.answers.map((answer) => answer.status)))) {
    byId("status").add(new Option(`${status} (${counted((item) => item.answers.some((a) => a.status === status))})`, status));
  }
  byId("items").style.setProperty("--item", `${Math.max(300, Math.min(names.length, 4) * 160 + 34)}px`);
  byId("filters").hidden = gallery.items.length === 0;
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["kind", "status"]) byId(id).addEventListener("change", filter);
  byId("text").addEventListener("input", filter);
  byId("dim").addEventListener("change", () => document.querySelectorAll("#items canvas").forEach((canvas) => canvas.repaint()));
  byId("more").addEventListener("click", more);
  filter();
})();
