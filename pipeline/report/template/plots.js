"use strict";
// The plots, drawn with the page's own colours; drawn again when the reader's colour scheme changes.
(() => {
  const { figures: { arms, pairs, baseline }, reducers: reducerOf } = JSON.parse(document.getElementById("data").textContent);
  const names = Object.keys(arms);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const LIGHT = ["#1f6feb", "#d9730d", "#1a9a5c", "#c02f8a", "#7a4fd8", "#0f9bb4", "#b08800", "#d0393e"];
  const DARK = ["#6cb2ff", "#ffa657", "#56d08c", "#ff8fcf", "#b49cff", "#5fd5e8", "#e3c04b", "#ff8a85"];
  const STAGES = [["decode the image", "image_decode_s"], ["encode", "encode_s"], ["reduce", "reduce_s"],
    ["prefill", "prefill_s"], ["decode", "decode_s"]];

  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const palette = () => (dark.matches ? DARK : LIGHT);
  const colour = (number) => palette()[number % palette().length];
  // the baseline is grey, the others have the colours in turn
  const ofArm = (name) => (name === baseline ? style("--soft") : colour(names.filter((n) => n !== baseline).indexOf(name)));
  const value = (figure) => (figure !== null && typeof figure === "object" ? figure.value : figure) ?? null;
  const mean = (arm, group, name) => arm[group]?.[name]?.mean ?? null;
  const short = (text) => (text.length > 24 ? text.slice(0, 23) + "…" : text);
  // Plotly reads some markup in texts, and what comes from data is no markup
  const plain = (text) => short(String(text)).replace(/&/g, "&amp;").replace(/</g, "&lt;");

  function layout(x, y, more = {}) {
    const axis = (title) => ({ title: { text: title, standoff: 8 }, gridcolor: style("--line"), linecolor: style("--line"),
      zeroline: false, automargin: true });
    const { xaxis, yaxis, ...rest } = more;
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 8, r: 14, t: 10, b: 8 },
      font: { color: style("--text"), size: 12, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: style("--card"), bordercolor: style("--line"), font: { color: style("--text") } },
      xaxis: { ...axis(x), ...xaxis }, yaxis: { ...axis(y), ...yaxis },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, ...rest,
    };
  }

  // A plot is as wide as its place when it is drawn: which plots there are is settled first.
  let waiting = [];
  function draw(name, traces, settings) {
    const figure = document.querySelector(`[data-plot="${name}"]`);
    figure.hidden = traces.length === 0;
    if (traces.length) waiting.push([figure.querySelector(".plot"), traces, settings]);
  }

  function all(...plots) {
    plots.forEach((plot) => plot());
    waiting.forEach((plot) => Plotly.react(...plot, { responsive: true, displayModeBar: false }));
    waiting = [];
  }

  function histogram() {
    const shapes = [], annotations = [], traces = [];
    const most = Math.max(0, ...names.flatMap((name) => arms[name].histogram?.edges ?? []));
    for (const name of names) {
      const { edges = [], counts = [] } = arms[name].histogram ?? {};
      const total = counts.reduce((a, b) => a + b, 0);
      const there = counts.filter(Boolean).length;
      if (!total) continue;
      const kept = arms[name].tokens?.visual_tokens_kept ?? {};
      if (there === 1 && kept.p5 === kept.p95 && names.length > 1) {
        const at = kept.p50 ?? edges[counts.findIndex(Boolean)];
        shapes.push({ type: "line", x0: at, x1: at, y0: 0, y1: 1, yref: "paper", line: { color: ofArm(name), dash: "dash", width: 2 } });
        annotations.push({ x: at, y: 1 - 0.09 * annotations.length, yref: "paper", text: plain(name), showarrow: false,
          xanchor: at > most / 2 ? "right" : "left", yanchor: "top", xshift: at > most / 2 ? -4 : 4, font: { color: ofArm(name) } });
        continue;
      }
      traces.push({ type: "bar", name: plain(name), x: counts.map((_, i) => (edges[i] + edges[i + 1]) / 2),
        y: counts.map((count) => (100 * count) / total), width: counts.map((_, i) => edges[i + 1] - edges[i]),
        customdata: counts.map((count, i) => [edges[i], edges[i + 1], count]), marker: { color: ofArm(name) }, opacity: names.length > 1 ? 0.65 : 1,
        hovertemplate: "%{customdata[0]:.0f} to %{customdata[1]:.0f} tokens: %{customdata[2]:,} requests (%{y:.1f} %)<extra></extra>" });
    }
    if (!traces.length && shapes.length) traces.push({ x: shapes.map((s) => s.x0), y: shapes.map(() => 0), mode: "markers", opacity: 0, hoverinfo: "skip", showlegend: false });
    draw("histogram", traces, layout("visual tokens kept", "% of requests", { barmode: "overlay", shapes, annotations,
      showlegend: names.length > 1 && traces.length > 0, xaxis: { rangemode: "tozero" }, yaxis: { rangemode: "tozero" } }));
  }

  function stages() {
    const shown = [...names].reverse();
    const traces = STAGES.map(([title, key], number) => ({ type: "bar", orientation: "h", name: title, y: shown.map(plain),
      x: shown.map((name) => value(mean(arms[name], "seconds", key)) ?? 0), marker: { color: colour(number) },
      hovertemplate: `${title}: %{x:.3s}s<extra>%{y}</extra>` }));
    const any = traces.some((trace) => trace.x.some(Boolean));
    draw("stages", any ? traces : [], layout("seconds a request", "", { barmode: "stack", bargap: names.length > 1 ? 0.35 : 0.6,
      xaxis: { rangemode: "tozero" }, yaxis: { type: "category" }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, traceorder: "normal" } }));
  }

  function throughput() {
    const traces = names.filter((name) => arms[name].throughput?.length).map((name) => ({ mode: "lines", name: plain(name),
      x: [0, ...arms[name].throughput.map((point) => point[0])], y: [0, ...arms[name].throughput.map((point) => point[1])],
      line: { color: ofArm(name), width: 2, dash: name === baseline ? "dot" : "solid" },
      hovertemplate: "after %{x:,.3r} s: %{y:,} requests<extra></extra>" }));
    draw("throughput", traces, layout("seconds since the start", "requests answered", { showlegend: names.length > 1,
      xaxis: { rangemode: "tozero" }, yaxis: { rangemode: "tozero" } }));
  }

  // What the frontier's upright axis can show: scores by the dataset's rules, then agreement with the baseline.
  function qualities() {
    const found = [];
    for (const metric of new Set(names.flatMap((name) => Object.keys(arms[name].figures?.figures ?? {})))) {
      found.push([metric.replaceAll("_", " "), (name) => arms[name].figures?.figures?.[metric] ?? null]);
    }
    if (!baseline || names.length < 2) return found;
    for (const [title, key, same] of [["same answer as " + baseline, "normalised_agreement", 1], ["letter for letter as " + baseline, "exact_agreement", 1],
      ["ROUGE-L with " + baseline, "rouge_l", 1], ["chrF with " + baseline, "chrf", 100]]) {
      found.push([title, (name) => (name === baseline ? same : pairs?.[name]?.[key] ?? null)]);
    }
    return found;
  }

  const error = (figures) => {
    if (!figures.some((figure) => figure?.low != null)) return undefined;
    return { type: "data", symmetric: false, thickness: 1.5, width: 4,
      array: figures.map((f) => (f?.high != null ? f.high - f.value : 0)),
      arrayminus: figures.map((f) => (f?.low != null ? f.value - f.low : 0)) };
  };

  function frontier(plot, title, across, [quality, up]) {
    const shown = names.filter((name) => value(across(name)) !== null && value(up(name)) !== null);
    const reducers = [...new Set(shown.map((name) => reducerOf[name]))];
    const others = reducers.filter((reducer) => shown.some((name) => name !== baseline && reducerOf[name] === reducer));
    const labelled = shown.length <= 6, furthest = Math.max(...shown.map((name) => value(across(name))));
    const traces = reducers.map((reducer) => {
      const own = shown.filter((name) => reducerOf[name] === reducer).sort((a, b) => value(across(a)) - value(across(b)));
      const tint = others.includes(reducer) ? colour(others.indexOf(reducer)) : style("--soft");
      return { mode: labelled ? "lines+markers+text" : "lines+markers", name: plain(reducer), text: own.map(plain),
        textposition: own.map((name) => (value(across(name)) > furthest / 2 ? "top left" : "top right")),
        cliponaxis: false, marker: { size: 10, color: tint }, line: { color: tint, width: 2 },
        x: own.map((name) => value(across(name))), y: own.map((name) => value(up(name))),
        error_x: error(own.map(across)), error_y: error(own.map(up)),
        hovertemplate: "%{text}: %{y} at %{x:,.4~r}<extra></extra>" };
    });
    const ends = shown.flatMap((name) => [up(name)?.low ?? value(up(name)), up(name)?.high ?? value(up(name))]);
    const [low, high] = [Math.min(...ends), Math.max(...ends)], room = (high - low || 0.1) * 0.15;
    draw(plot, shown.length > 1 ? traces : [], layout(title, plain(quality), { showlegend: !labelled || reducers.length < shown.length,
      xaxis: { rangemode: "tozero" }, yaxis: { range: [low - room, high + room / 2], tickformat: low >= 0 && high <= 1 ? ",.1~%" : "" } }));
  }

  function frontiers() {
    const quality = qualities()[document.getElementById("quality").selectedIndex];
    if (!quality || names.length < 2) return;
    const priced = names.find((name) => value(arms[name].cost?.per_million) !== null);
    frontier("frontier-tokens", "mean visual tokens kept", (name) => mean(arms[name], "tokens", "visual_tokens_kept"), quality);
    const currency = priced ? arms[priced].cost.currency : "";
    const cost = priced ? (name) => arms[name].cost?.per_million ?? null : (name) => mean(arms[name], "seconds", "total_s");
    frontier("frontier-cost", priced ? `${currency} a million requests` : "seconds a request", cost, quality);
    document.querySelector('[data-plot="frontier-cost"] figcaption').textContent =
      priced ? "The same points against what a million answered requests cost." : "The same points against time, since no price was given.";
  }

  const everything = () => all(frontiers, histogram, stages, throughput);
  const select = document.getElementById("quality");
  qualities().forEach(([title]) => select.add(new Option(title, title)));
  document.getElementById("frontier-controls").hidden = select.length < 2 || names.length < 2;
  select.addEventListener("change", () => all(frontiers));
  dark.addEventListener("change", everything);
  everything();
})();
