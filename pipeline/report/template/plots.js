"use strict";
// Draws the plots in the page's colours, and again when the reader's colour scheme changes.
(() => {
  const { figures: { arms, pairs, baseline }, reducers: reducerOf, agreements } = JSON.parse(document.getElementById("data").textContent);
  const names = Object.keys(arms);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const LIGHT = ["#1f6feb", "#d9730d", "#1a9a5c", "#c02f8a", "#7a4fd8", "#0f9bb4", "#b08800", "#d0393e"];
  const DARK = ["#6cb2ff", "#ffa657", "#56d08c", "#ff8fcf", "#b49cff", "#5fd5e8", "#e3c04b", "#ff8a85"];
  const LINE_PX = 18; // from one line of text to the next
  const STRUCK = 100; // what a label costs that crosses a line or is crossed by one, in pixels of distance
  const STAGES = [["decode the image", "image_decode_s"], ["encode", "encode_s"], ["reduce", "reduce_s"],
    ["prefill", "prefill_s"], ["decode", "decode_s"]];

  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const palette = () => (dark.matches ? DARK : LIGHT);
  const colour = (number) => palette()[number % palette().length];
  // the baseline is grey, the others have the colours in turn
  const ofArm = (name) => (name === baseline ? style("--soft") : colour(names.filter((n) => n !== baseline).indexOf(name)));
  const value = (figure) => (figure !== null && typeof figure === "object" ? figure.value : figure) ?? null;
  const mean = (arm, group, name) => arm[group]?.[name]?.mean ?? null;
  // Cuts the middle out of long names, keeping the names of all arms distinct.
  const short = (() => {
    for (let most = 24; ; most += 4) {
      for (const part of [0.5, 0.2, 0.8]) {
        const head = Math.round(part * (most - 1)), tail = most - 1 - head;
        const cut = (text) => (text.length > most ? `${text.slice(0, head)}…${text.slice(-tail)}` : text);
        if (new Set(names.map(cut)).size === names.length) return cut;
      }
    }
  })();
  // Plotly interprets some markup in texts; texts from the data are escaped
  const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");
  const plain = (text) => escaped(short(String(text)));

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

  // A plot takes its width when it is drawn, so all figures are shown or hidden before the first one is drawn.
  let waiting = [];
  function draw(name, traces, settings) {
    const figure = document.querySelector(`[data-plot="${name}"]`);
    figure.hidden = traces.length === 0;
    if (!traces.length) return;
    const plot = figure.querySelector(".plot");
    plot.style.height = `${300 + 16 * Math.max(0, names.length - 6)}px`; // room for the names of many arms
    waiting.push([plot, traces, settings]);
  }

  function all(...plots) {
    plots.forEach((plot) => plot());
    for (const [plot, ...content] of waiting) {
      const isNew = plot.on === undefined;
      Plotly.react(plot, ...content, { responsive: true, displayModeBar: false });
      if (!(plot.closest("[data-plot]").dataset.plot in points)) continue;
      if (isNew) plot.on("plotly_afterplot", () => label(plot));
      label(plot);
    }
    waiting = [];
  }

  function histogram() {
    const shapes = [], annotations = [], traces = [];
    const most = Math.max(0, ...names.flatMap((name) => arms[name].histogram?.edges ?? []));
    for (const name of names) {
      const { edges = [], counts = [] } = arms[name].histogram ?? {};
      const total = counts.reduce((a, b) => a + b, 0);
      const filledBins = counts.filter(Boolean).length;
      if (!total) continue;
      const kept = arms[name].tokens?.visual_tokens_kept ?? {};
      if (filledBins === 1 && kept.p5 === kept.p95 && names.length > 1) {
        const at = kept.p50 ?? edges[counts.findIndex(Boolean)];
        shapes.push({ type: "line", x0: at, x1: at, y0: 0, y1: 1, yref: "paper", line: { color: ofArm(name), dash: "dash", width: 2 } });
        annotations.push({ x: at, y: 1, yref: "paper", text: plain(name), showarrow: false, font: { color: ofArm(name) },
          xanchor: at > most / 2 ? "right" : "left", yanchor: "top", xshift: at > most / 2 ? -4 : 4, yshift: -LINE_PX * annotations.length });
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
    const traces = STAGES.map(([title, key], number) => ({ type: "bar", orientation: "h", name: title, y: shown.map(escaped),
      x: shown.map((name) => value(mean(arms[name], "seconds", key)) ?? 0), marker: { color: colour(number) },
      hovertemplate: `${title}: %{x:.3s}s<extra>%{y}</extra>` }));
    const any = traces.some((trace) => trace.x.some(Boolean));
    draw("stages", any ? traces : [], layout("seconds a request", "", { barmode: "stack", bargap: names.length > 1 ? 0.35 : 0.6,
      xaxis: { rangemode: "tozero" }, yaxis: { type: "category", tickvals: shown.map(escaped), ticktext: shown.map(plain) }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, traceorder: "normal" } }));
  }

  function throughput() {
    const traces = names.filter((name) => arms[name].throughput?.length).map((name) => ({ mode: "lines", name: plain(name),
      x: [0, ...arms[name].throughput.map((point) => point[0])], y: [0, ...arms[name].throughput.map((point) => point[1])],
      line: { color: ofArm(name), width: 2, dash: name === baseline ? "dot" : "solid" },
      hovertemplate: "after %{x:,.3r} s: %{y:,} requests<extra></extra>" }));
    draw("throughput", traces, layout("seconds since the start", "requests answered", { showlegend: names.length > 1,
      xaxis: { rangemode: "tozero" }, yaxis: { rangemode: "tozero" } }));
  }

  // Choices for the frontier's quality axis: scores by the dataset's rules, then agreement with the baseline.
  function qualities() {
    const choices = [];
    for (const metric of new Set(names.flatMap((name) => Object.keys(arms[name].figures?.figures ?? {})))) {
      choices.push([metric.replaceAll("_", " "), (name) => arms[name].figures?.figures?.[metric] ?? null]);
    }
    if (!baseline || names.length < 2) return choices;
    for (const [key, name] of Object.entries(agreements)) {
      const title = `${name} ${key.endsWith("agreement") ? "as" : "with"} ${baseline}`, same = key === "chrf" ? 100 : 1;
      choices.push([title, (name) => (name === baseline ? same : pairs?.[name]?.[key] ?? null)]);
    }
    return choices;
  }

  const error = (figures) => {
    if (!figures.some((figure) => figure?.low != null)) return undefined;
    return { type: "data", symmetric: false, thickness: 1.5, width: 4,
      array: figures.map((f) => (f?.high != null ? f.high - f.value : 0)),
      arrayminus: figures.map((f) => (f?.low != null ? f.value - f.low : 0)) };
  };

  // The points to be labelled of each frontier: names, values and the ends of their intervals.
  const points = {};

  const box = (x, y, width, height) => ({ left: x - width / 2, right: x + width / 2, top: y - height / 2, bottom: y + height / 2 });
  const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;

  // Places all labels in one column at the side that covers fewer points, in the order of their points from top to bottom.
  // Returns nothing if the plot is too small, or if the column covers a point without being needed.
  function inColumn(targets, marks, { xaxis, yaxis }, measure, needed) {
    const widest = Math.max(...targets.map(({ text }) => measure(text))), height = targets.length * LINE_PX;
    if (widest > xaxis._length || height > yaxis._length) return undefined;
    const middle = targets.reduce((sum, { top }) => sum + top, 0) / targets.length;
    const start = Math.max(0, Math.min(middle - height / 2, yaxis._length - height));
    const hidden = (x) => marks.filter((mark) => meet(mark, box(x, start + height / 2, widest, height))).length;
    const [onLeft, onRight] = [widest / 2, xaxis._length - widest / 2].map(hidden), isLeft = onLeft <= onRight;
    if (!needed && Math.min(onLeft, onRight) > 0) return undefined;
    const edge = isLeft ? widest : xaxis._length - widest; // the texts end or begin here, and the lines leave them here
    return targets.map(({ left, top }, at) => ({ ax: edge - left, ay: start + (at + 0.5) * LINE_PX - top, far: true,
      xanchor: isLeft ? "right" : "left" }));
  }

  // Places labels beside their points. No two labels overlap; points and lines are covered only where nothing else fits.
  function labels(plot) {
    const { xaxis, yaxis, font } = plot._fullLayout, pen = document.createElement("canvas").getContext("2d");
    pen.font = `${font.size}px ${font.family}`;
    const measure = (text) => pen.measureText(text).width + 8;
    const targets = points[plot.closest("[data-plot]").dataset.plot].map((point) => ({ ...point, left: xaxis.l2p(point.x), top: yaxis.l2p(point.y) }))
      .sort((a, b) => a.top - b.top);
    const marks = targets.map(({ left, top }) => box(left, top, 14, 14));
    const bars = targets.flatMap(({ left, top, ends: [across, up] }) => {
      const [x0, x1, y1, y0] = [...across.map((end) => xaxis.l2p(end)), ...up.map((end) => yaxis.l2p(end))];
      return [box((x0 + x1) / 2, top, x1 - x0, 2), box(left, (y0 + y1) / 2, 2, y1 - y0)];
    });
    // whether the line from a point to its label goes through a box
    const through = (line, { left, right, top, bottom }) => [...Array(24).keys()].some((step) => {
      const [x, y] = [line.x + (line.ax * step) / 23, line.y + (line.ay * step) / 23];
      return x > left && x < right && y > top && y < bottom;
    });
    const placed = [], lines = [];
    const beside = targets.map(({ text, left, top }) => {
      const width = measure(text), height = LINE_PX;
      let best = null;
      for (let away = 8; away <= 232; away += 16) {
        for (let turn = 0; turn < 16; turn++) {
          const angle = ((2 * turn - 3) * Math.PI) / 16; // to the upper right first
          const ax = Math.cos(angle) * (away + width / 2), ay = Math.sin(angle) * (away + height / 2);
          const place = box(left + ax, top + ay, width, height);
          const inside = place.left >= 0 && place.right <= xaxis._length && place.top >= 0 && place.bottom <= yaxis._length;
          if (!inside || placed.some((other) => meet(other, place))) continue;
          const hidden = marks.filter((mark) => meet(mark, place)).length, crossed = bars.filter((bar) => meet(bar, place)).length;
          const line = { x: left, y: top, ax, ay };
          const struck = placed.filter((other) => through(line, other)).length + lines.filter((other) => through(other, place)).length;
          const cost = away + 200 * hidden + STRUCK * struck + 24 * crossed;
          if (best === null || cost < best.cost) best = { cost, ax, ay, far: away > 8, xanchor: "center", line, place };
        }
      }
      if (best === null) return undefined;
      placed.push(best.place);
      lines.push(best.line);
      return best;
    });
    const lacking = beside.includes(undefined), crowded = lacking || beside.some(({ cost }) => cost >= STRUCK);
    const places = (crowded && inColumn(targets, marks, { xaxis, yaxis }, measure, lacking)) || beside;
    return targets.map(({ text, x, y }, at) => places[at] && { x, y, text: escaped(text), ax: places[at].ax, ay: places[at].ay,
      xanchor: places[at].xanchor, yanchor: "middle", showarrow: true, arrowhead: 0, bgcolor: `${style("--card")}b0`, arrowwidth: 1, standoff: 6, borderpad: 0,
      arrowcolor: places[at].far ? style("--soft") : "rgba(0,0,0,0)" }).filter(Boolean); // a name without room is shown on hover
  }

  // Places the labels again after each redraw, as in a window of another width.
  function label(plot) {
    const annotations = labels(plot), now = JSON.stringify(annotations);
    if (plot.dataset.labels === now && plot.layout.annotations?.length === annotations.length) return;
    plot.dataset.labels = now;
    Plotly.relayout(plot, { annotations });
  }

  function frontier(plot, title, across, [quality, up]) {
    const shown = names.filter((name) => value(across(name)) !== null && value(up(name)) !== null);
    const reducers = [...new Set(shown.map((name) => reducerOf[name]))];
    const others = reducers.filter((reducer) => shown.some((name) => name !== baseline && reducerOf[name] === reducer));
    const labelled = shown.length <= 12;
    const traces = reducers.map((reducer) => {
      const armNames = shown.filter((name) => reducerOf[name] === reducer).sort((a, b) => value(across(a)) - value(across(b)));
      const tint = others.includes(reducer) ? colour(others.indexOf(reducer)) : style("--soft");
      return { mode: "lines+markers", name: plain(reducer), text: armNames.map(plain), cliponaxis: false, marker: { size: 10, color: tint }, line: { color: tint, width: 2 },
        x: armNames.map((name) => value(across(name))), y: armNames.map((name) => value(up(name))),
        error_x: error(armNames.map(across)), error_y: error(armNames.map(up)),
        hovertemplate: "%{text}: %{y} at %{x:,.4~r}<extra></extra>" };
    });
    const ends = shown.flatMap((name) => [up(name)?.low ?? value(up(name)), up(name)?.high ?? value(up(name))]);
    const farthest = Math.max(...shown.flatMap((name) => [value(across(name)), across(name)?.high ?? 0]));
    const [low, high] = [Math.min(...ends), Math.max(...ends)], room = (high - low || 0.1) * 0.15;
    points[plot] = labelled ? shown.map((name) => ({ text: short(name), x: value(across(name)), y: value(up(name)),
      ends: [across(name), up(name)].map((figure) => [figure?.low ?? value(figure), figure?.high ?? value(figure)]) })) : [];
    draw(plot, shown.length > 1 ? traces : [], layout(title, plain(quality), { showlegend: !labelled || reducers.length < shown.length,
      // fixed ranges: Plotly's own would change with the labels that are placed in them
      xaxis: { range: [0, 1.06 * farthest || 1] }, yaxis: { range: [low - room, high + room / 2], tickformat: low >= 0 && high <= 1 ? ",.1~%" : "" } }));
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
