"use strict";
// Draws the report from the data that stands in the page. Everything from files is shown as text: textContent here, entities for Plotly.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F6000", "#6A3D9A"]; // Okabe and Ito, darkened where thin
  const DARK = ["#56B4E9", "#FF8A4C", "#2FD3A5", "#F0A6CF", "#FFC44D", "#A6DBFF", "#D9C265", "#C0A3F0"];
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon"];
  const FULL = "●■◆▲✚✖★⬢", EMPTY = "○□◇△✛✕☆⬡"; // the same for words
  const DASH = { measured: "solid", published: "dash", simulated: "dot" };
  const state = { workload: null, base: null, price: data.price, at: 0, shown: new Set(), chosen: -1, logX: false, logY: true, limit: false };
  const dark = matchMedia("(prefers-color-scheme: dark)"), printing = matchMedia("print");
  const series = data.series, points = data.points, runs = data.runs;
  const n = points.series ? points.series.length : 0;
  const isoOf = new Map(data.iso.map((row) => [row.series, row]));

  const el = (tag, text, attributes = {}) => {
    const made = document.createElement(tag);
    if (text !== undefined && text !== null) made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const entities = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const fixed = (value, digits) => (value === null || value === undefined || !Number.isFinite(value) ? "" : value.toFixed(digits));
  const percent = (value) => (value === null || value === undefined ? "" : `${Math.round(100 * value)} %`);
  const isDark = () => dark.matches && !printing.matches;
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // the place of a series among those of its workload gives its colour and marker, so that it keeps both whatever is picked
  const MOST = 500; // rows of a table, or choices, at once
  const place = new Map();
  for (const s of series) place.set(s.id, series.filter((o) => o.workload === s.workload && o.id < s.id).length);
  const color = (id) => (isDark() ? DARK : COLORS)[place.get(id) % COLORS.length];
  const symbol = (id) => SYMBOLS[(place.get(id) + Math.floor(place.get(id) / COLORS.length)) % SYMBOLS.length];
  const open = (id) => (series[id].source === "measured" ? "" : "-open");
  const name = (id) => series[id].label;
  const priceOf = (set, hardware) => (data.prices[set] || {})[hardware] ?? NaN;
  const usd = (id) => priceOf(state.price, series[id].hardware);
  const ofWorkload = () => series.filter((s) => s.workload === state.workload);
  const shown = () => ofWorkload().filter((s) => state.shown.has(s.id));

  function table(target, head, rows, fill) {
    const made = [el("thead"), el("tbody")], line = el("tr");
    for (const [text, kind] of head) line.append(el("th", text, { scope: "col", class: kind || "" }));
    made[0].append(line);
    for (const row of rows) {
      const tr = el("tr");
      fill(row).forEach((text, i) => tr.append(el("td", text, { class: head[i][1] || "" })));
      made[1].append(tr);
    }
    target.replaceChildren(...made);
  }

  function layout(x, y) {
    const axis = { gridcolor: css("--line"), zeroline: false, automargin: true, linecolor: css("--line") };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--ink"), size: 13 }, hovermode: "closest", showlegend: false,
      margin: { l: 60, r: 14, t: 10, b: 46 }, xaxis: { ...axis, title: { text: x } }, yaxis: { ...axis, title: { text: y } }, uirevision: "same",
      hoverlabel: { align: "left" }, modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--soft"), activecolor: css("--ink") },
    };
  }
  const TICKS = []; // of logarithmic axes: 1, 2 and 5
  for (let e = -6; e < 9; e++) for (const m of [1, 2, 5]) TICKS.push(m * 10 ** e);
  const logarithmic = (axis) => Object.assign(axis, { type: "log", tickmode: "array", tickvals: TICKS, ticktext: TICKS.map((t) => Number(t.toPrecision(1)).toLocaleString("en", { maximumFractionDigits: 6 })) });
  const CONFIG = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"], toImageButtonOptions: { format: "svg" } };

  function hover(i) {
    const s = series[points.series[i]], say = [`<b>${entities(name(s.id))}</b>`];
    say.push(`TP ${points.tp[i] ?? "?"}, concurrency ${points.concurrency[i] ?? "?"}${points.n_repeats[i] > 1 ? `, ${points.n_repeats[i]} runs` : ""}${points.interval[i] ? `, interval over ${points.interval[i] === "starts" ? `${points.n_starts[i]} starts` : points.interval[i]}` : ""}`);
    say.push(`${fixed(points.total_tput_per_gpu_tok_s[i], 1)} tok/s/GPU at ${fixed(points.interactivity_tok_s_user[i], 2)} tok/s/user`);
    const cost = usd(s.id) / (3600 * points.total_tput_per_gpu_tok_s[i] / 1e6);
    if (Number.isFinite(cost)) say.push(`$${cost.toFixed(3)}/Mtok (${entities(state.price)})`);
    say.push(entities(`${s.checkpoint}, ${s.engine} ${points.engine_version[i]}`));
    if (points.acceptance_length[i] !== null) say.push(`acceptance length ${fixed(points.acceptance_length[i], 2)}`);
    say.push(entities(points.validity[i] + (points.reasons[i] ? `: ${points.reasons[i]}` : "")));
    if (points.job[i]) say.push(entities(`job ${points.job[i]} on ${points.node[i]}`));
    const known = data.details[points.digest[i]];
    if (known && known.command) {
      const words = known.command.length > 360 ? known.command.slice(0, 360) + " ..." : known.command;
      say.push("<i>" + words.match(/.{1,90}(\s|$)|.{1,90}/g).map(entities).join("<br>") + "</i>");
    }
    return say.join("<br>");
  }

  function traces(height, low, high) {
    const made = [];
    for (const s of shown()) {
      const mine = [];
      for (let i = 0; i < n; i++) if (points.series[i] === s.id && height(i) !== null && points.interactivity_tok_s_user[i] !== null) mine.push(i);
      const front = mine.filter((i) => points.front[i]).sort((a, b) => points.interactivity_tok_s_user[a] - points.interactivity_tok_s_user[b]), many = mine.length > 400;
      const kind = "scatter"; // WebGL makes code as it runs, which this page forbids, and is not everywhere
      made.push({ type: kind, mode: "lines", x: front.map((i) => points.interactivity_tok_s_user[i]), y: front.map(height), line: { color: color(s.id), width: 2, dash: DASH[s.source] }, hoverinfo: "skip", name: name(s.id) });
      const bars = (of, lo, hi, middle) => ({ type: "data", symmetric: false, array: of.map((i) => hi(i) === null ? 0 : Math.max(0, hi(i) - middle(i))), arrayminus: of.map((i) => lo(i) === null ? 0 : Math.max(0, middle(i) - lo(i))), thickness: 1, width: 3, color: color(s.id) });
      const x = (i) => points.interactivity_tok_s_user[i];
      made.push({
        type: kind, mode: "markers", x: mine.map(x), y: mine.map(height), customdata: mine, text: many ? mine.map(String) : mine.map(hover), hovertemplate: "%{text}<extra></extra>",
        marker: { color: color(s.id), symbol: mine.map(() => symbol(s.id) + open(s.id)), size: mine.map((i) => (points.front[i] ? 9 : 5)), opacity: mine.map((i) => (points.front[i] ? 1 : 0.45)), line: { width: 1.5, color: color(s.id) } },
        name: name(s.id), ...(many ? {} : { error_y: bars(mine, low, high, height), error_x: bars(mine, (i) => points.interactivity_tok_s_user_low[i], (i) => points.interactivity_tok_s_user_high[i], x) }),
      });
    }
    return made;
  }

  function limits(height) {
    if (!state.limit) return [];
    return data.limits.filter((l) => state.shown.has(l.series) && series[l.series].workload === state.workload).map((l) => ({
      type: "scatter", mode: "lines", x: l.at.map((p) => p[1]), y: l.at.map((p) => height(p[2], l.series)), line: { color: color(l.series), width: 1.2, dash: "longdashdot" }, opacity: 0.75,
      text: l.at.map((p) => `limit of ${entities(name(l.series))} TP ${l.tp}<br>concurrency ${p[0]}`), hovertemplate: "%{text}<extra></extra>", name: "limit",
    }));
  }

  const cost = (tput, id) => { const value = usd(id) / (3600 * tput / 1e6); return tput === null || !Number.isFinite(value) ? null : value; };
  function curves() {
    const tput = (i) => points.total_tput_per_gpu_tok_s[i];
    const priced = (i) => cost(tput(i), points.series[i]);
    const low = (i) => points.total_tput_per_gpu_tok_s_low[i], high = (i) => points.total_tput_per_gpu_tok_s_high[i];
    const highest = Math.max(1, ...shown().map((s) => { let most = 0; for (let i = 0; i < n; i++) if (points.series[i] === s.id) most = Math.max(most, points.interactivity_tok_s_user[i] || 0); return most; }));
    const listed = [];
    for (const s of shown()) for (let i = 0; i < n && listed.length < MOST; i++) if (points.series[i] === s.id) listed.push(i);
    table($("points-table"), [["arm"], ["TP", "number"], ["concurrency", "number"], ["tok/s/user", "number"], ["total tok/s/GPU", "number"], ["$/Mtok", "number"], ["on the frontier"], ["validity"]], listed, (i) => [
      name(points.series[i]), points.tp[i] ?? "?", points.concurrency[i] ?? "?", fixed(points.interactivity_tok_s_user[i], 2), fixed(points.total_tput_per_gpu_tok_s[i], 1), fixed(priced(i), 3), points.front[i] ? "yes" : "", points.validity[i] + (points.reasons[i] ? ` (${points.reasons[i].replace(/,/g, ", ")})` : "")]);
    const told = new Set(listed.flatMap((i) => (points.reasons[i] || "").split(",").filter(Boolean)));
    $("points-fine").replaceChildren(...[...told].map((code) => el("p", `flagged (${code}): ${data.meanings[code] || "unknown code"}`, { class: "fine" })));
    for (const [id, height, lo, hi, title] of [
      ["throughput", tput, low, high, "total tok/s/GPU"],
      ["cost", priced, (i) => (high(i) === null ? null : cost(high(i), points.series[i])), (i) => (low(i) === null || low(i) <= 0 ? null : cost(low(i), points.series[i])), `$/Mtok, ${state.price}`],
    ]) {
      const look = layout("tok/s/user", entities(title));
      if (state.logX) logarithmic(look.xaxis); else look.xaxis.range = [0, highest * 1.06];
      if (state.logY) logarithmic(look.yaxis); else look.yaxis.rangemode = "tozero";
      const at = data.grid[state.at];
      if (at !== undefined) look.shapes = [{ type: "line", x0: at, x1: at, y0: 0, y1: 1, yref: "paper", line: { color: css("--soft"), width: 1, dash: "dot" } }];
      look.uirevision = `${state.workload} ${state.logX} ${state.logY}`;
      Plotly.react(id, [...traces(height, lo, hi), ...limits(id === "cost" ? cost : (t) => t)], look, CONFIG);
    }
  }

  const prices = (hardware) => [...new Set(hardware)].sort().map((h) => `${h} $${Number.isFinite(priceOf(state.price, h)) ? priceOf(state.price, h) : "?"}`).join(", ");
  function iso() {
    const i = state.at, x = data.grid[i];
    $("at-value").textContent = x === undefined ? "" : `${x} tok/s/user`;
    $("at").setAttribute("aria-valuetext", $("at-value").textContent);
    const head = [["arm"], ["$/Mtok", "number"], ["95 %", "number"], ["whole node", "number"], ["tok/s/GPU", "number"], ["concurrency", "number"], ["perf/$", "number"], ["95 %", "number"], ["whole node", "number"], ["steps"], ["nearest measured point"], ["how"]];
    const mine = shown().map((s) => isoOf.get(s.id)).filter((row) => row && x !== undefined);
    table($("iso-table"), head, mine, (row) => {
      const price = usd(row.series), isDefault = row.baseline === state.base, base = isoOf.get(state.base);
      const by = base ? usd(state.base) / price : NaN, isBase = row.series === state.base;
      const ratio = isDefault ? row.perf_per_dollar_vs_baseline[i] : base && row.cost_usd_per_mtok[i] !== null && base.cost_usd_per_mtok[i] !== null ? base.cost_usd_per_mtok[i] / row.cost_usd_per_mtok[i] : null;
      const times = (value, factor) => (value === null || !Number.isFinite(factor) ? null : value * factor);
      // an interval has a level; a bound that is absent is infinite
      const between = (low, high, factor, level) => (!level || !Number.isFinite(factor) ? "" : `[${fixed(times(low, factor) ?? 0, 2)}, ${high === null ? "inf" : fixed(times(high, factor), 2)}] ${level}`);
      const node = row.node_cost_usd_per_mtok[i], own = node ?? row.cost_usd_per_mtok[i];
      const baseNode = base ? base.node_cost_usd_per_mtok[i] ?? base.cost_usd_per_mtok[i] : null, hasIdle = node !== null || (base && base.node_cost_usd_per_mtok[i] !== null);
      const nodeRatio = hasIdle && own !== null && baseNode !== null && !isBase ? (baseNode / own) * by : null;
      const steps = ["hardware", "precision", "speculative"].filter((step) => isDefault && row[step + "_step"][i] !== null)
        .map((step) => `${step} ${fixed(row[step + "_step"][i] * (step === "hardware" ? by : 1), 2)}×${row[step + "_step_also"][i] ? ` (also ${row[step + "_step_also"][i].replace(/,/g, ", ")})` : ""}`);
      const near = row.nearest_measured_tok_s_user[i];
      return [
        name(row.series) + (isBase ? " (baseline)" : ""), row.total_tput_per_gpu_tok_s[i] === null ? row.status[i] : !Number.isFinite(price) ? "no price" : fixed(times(row.cost_usd_per_mtok[i], price), 3),
        between(row.cost_usd_per_mtok_low[i], row.cost_usd_per_mtok_high[i], price, row.interval[i]), node === null ? "" : fixed(times(node, price), 3), fixed(row.total_tput_per_gpu_tok_s[i], 1), fixed(row.concurrency[i], 1),
        isBase || times(ratio, by) === null ? "" : fixed(ratio * by, 2) + "×",
        isDefault ? between(row.perf_per_dollar_vs_baseline_low[i], row.perf_per_dollar_vs_baseline_high[i], by, row.ratio_interval[i]) : "",
        nodeRatio === null || !Number.isFinite(nodeRatio) ? "" : fixed(nodeRatio, 2) + "×", steps.join(" × "),
        near === null ? "" : `${fixed(near, 1)} tok/s/user, TP ${row.nearest_measured_tp[i] ?? "?"}, concurrency ${row.nearest_measured_concurrency[i] ?? "?"}`, row.status[i] + (row.beyond[i] ? ` (${row.beyond[i]})` : ""),
      ];
    });
    const caption = el("caption"); // its text stays in view while the table scrolls sideways
    caption.append(el("span", x === undefined ? "" : `at ${x} tok/s/user, ${state.price} prices (${prices(mine.map((row) => series[row.series].hardware))}), against ${state.base === null ? "nothing" : name(state.base)}`));
    $("iso-table").prepend(caption);
    $("iso-fine").textContent = `Interpolated (${data.method}) between measured points, throughput and concurrency follow from the cost; not measured: outside the measured range; not reached: a single user is slower; no gain: measured, and beaten by the end of the frontier. Whole node: with the idle GPUs of the node paid. Intervals: over server starts, over runs of one start, or over the requests of one run; only starts can show that two systems differ. Steps and intervals of ratios are those against the report's own baseline.`;
  }

  function point() {
    const i = state.chosen;
    if (i < 0) return;
    const s = series[points.series[i]], known = data.details[points.digest[i]] || {};
    const facts = [
      ["arm", name(s.id)], ["recipe", `${s.checkpoint} ${s.precision}, speculative ${s.speculative}, TP ${points.tp[i] ?? "?"}, ${points.gpus[i] || "?"} of ${points.gpus_per_node[i] || "?"} GPUs paid for, ${s.engine} ${points.engine_version[i]} ${points.image[i]}`],
      ["concurrency", `${points.concurrency[i] ?? "?"} sent${points.mean_concurrency[i] === null ? "" : `, ${fixed(points.mean_concurrency[i], 1)} in flight`}${points.running_mean[i] === null ? "" : `, ${fixed(points.running_mean[i], 1)} ran in the server`}`],
      ["throughput", `${fixed(points.total_tput_per_gpu_tok_s[i], 1)} total tok/s/GPU${points.interval[i] ? ` [${fixed(points.total_tput_per_gpu_tok_s_low[i], 1)}, ${fixed(points.total_tput_per_gpu_tok_s_high[i], 1)}], over ${points.interval[i]}` : ""}`],
      ["interactivity", `${fixed(points.interactivity_tok_s_user[i], 2)} tok/s/user, TPOT ${fixed(points.tpot_ms[i], 2)} ms, median TTFT ${fixed(points.ttft_median_ms[i], 0) || "unknown"}${points.ttft_median_ms[i] === null ? "" : " ms"}`],
      ["acceptance length", (fixed(points.acceptance_length[i], 2) || "unknown") + (points.acceptance_p10[i] === null ? "" : `, of the answers from ${fixed(points.acceptance_p10[i], 2)} (p10) to ${fixed(points.acceptance_p90[i], 2)} (p90)`)],
      ["the server's metrics", [points.kv_usage_max[i] === null ? "" : `KV cache at most ${percent(points.kv_usage_max[i])} full`, points.queued_max[i] === null ? "" : `at most ${fixed(points.queued_max[i], 0)} waited`, points.cache_hit_share[i] === null ? "" : `${percent(points.cache_hit_share[i])} of the prompt tokens from its prefix cache`].filter(Boolean).join(", ") || "not read"],
      ["energy", points.gpu_power_w[i] === null ? "not read" : `${fixed(points.energy_per_output_token_j[i], 2)} J/output token, ${fixed(points.gpu_power_w[i], 0)} W/GPU, by the GPUs' own account`], ["validity", points.validity[i] + (points.reasons[i] ? `: ${points.reasons[i]}` : "")],
      ["runs", String(points.n_repeats[i])], ["where", `${points.node[i] ? `job ${points.job[i]} on ${points.node[i]}, ` : ""}${points.origin[i]}`], ["key", `${points.key[i]} ${points.digest[i]}`],
      ["server", known.command || "its command line stands in the file"],
    ];
    $("facts").replaceChildren(...facts.flatMap(([term, text]) => [el("dt", term), el("dd", text, term === "server" ? { class: "command" } : {})]));
    document.querySelector("#point .pair").hidden = !(known.ttft || known.itl || known.running || []).length; // before anything is drawn in it
    const dist = [["ttft", "TTFT"], ["itl", "ITL, between chunks"]].filter(([key]) => (known[key] || []).length)
      .map(([key, label], k) => ({ type: "scatter", mode: "lines+markers", x: known[key], y: data.quantiles, name: label, line: { color: (isDark() ? DARK : COLORS)[k], shape: "linear", dash: k ? "dash" : "solid" }, marker: { symbol: SYMBOLS[k], size: 6 } }));
    const look = layout("ms", "% of values below");
    logarithmic(look.xaxis); look.showlegend = true; look.legend = { x: 1, y: 0, xanchor: "right", yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" };
    Plotly.react("distribution", dist, look, CONFIG);
    const running = known.running || [];
    Plotly.react("timeline", running.length ? [{ type: "scatter", mode: "lines", x: running.map((p) => p[0]), y: running.map((p) => p[1]), line: { color: color(s.id), shape: "hv" }, fill: "tozeroy" }] : [], { ...layout(s.source === "simulated" ? "s of the simulation" : "s", "running requests"), yaxis: { ...layout("", "").yaxis, title: { text: "running requests" }, rangemode: "tozero" } }, CONFIG);
    for (const [id, words, values, factor] of [["power-line", "W, all GPUs", known.power || [], 1], ["cache-line", "% of the KV cache", known.kv_usage || [], 100]]) {
      $(id).hidden = !values.length;
      if (values.length) Plotly.react(id, [{ type: "scatter", mode: "lines", x: values.map((p) => p[0]), y: values.map((p) => p[1] * factor), line: { color: color(s.id) } }], { ...layout(s.source === "simulated" ? "s of the simulation" : "s", words), yaxis: { ...layout("", "").yaxis, title: { text: words }, rangemode: "tozero" } }, CONFIG);
    }
    $("point-fine").textContent = dist.length ? ((known.power || []).length ? "" : "No power was read beside it.") : "Its times are not in this page: they are for the points of frontiers of files that hold raw times.";
  }

  function lists() {
    const arm = (r) => `${r.title}, ${r.isl_tokens ?? "?"}/${r.osl_tokens ?? "?"}`;
    const dearer = (hardware) => priceOf(state.price, hardware) / priceOf(data.price, hardware);
    const by = (r) => dearer(r.baseline_hardware) / dearer(r.hardware);
    table($("bands-table"), [["arm"], ["against"], ["peak", "number"], ["at tok/s/user", "number"], ["band", "number"], ["defined, tok/s/user", "number"]], data.bands, (r) => [arm(r), r.baseline, `${fixed(r.peak * by(r), 2)}×`, `${r.peak_at_tok_s_user}`, `${fixed(r.low * by(r), 2)}× to ${fixed(r.high * by(r), 2)}×`, `${fixed(r.from_tok_s_user, 1)} to ${fixed(r.to_tok_s_user, 1)}`]);
    $("bands").hidden = !data.bands.length;
    table($("speculation-table"), [["arm"], ["tok/s/user", "number"], ["tok/s/GPU off", "number"], ["with", "number"], ["ratio", "number"], ["$/Mtok off", "number"], ["with", "number"], ["acceptance length", "number"]], data.speculation, (r) => [
      arm(r), r.interactivity_tok_s_user, fixed(r.off_tput_per_gpu_tok_s, 1), fixed(r.total_tput_per_gpu_tok_s, 1), fixed(r.throughput_ratio, 2) + "×", ...[r.off_cost_usd_per_mtok, r.cost_usd_per_mtok].map((c) => (c === null ? "" : fixed(c * dearer(r.hardware), 2))),
      r.acceptance_length_low === null ? "unknown" : r.acceptance_length_high - r.acceptance_length_low < 0.005 ? fixed(r.acceptance_length_low, 2) : `${fixed(r.acceptance_length_low, 2)} to ${fixed(r.acceptance_length_high, 2)}`]);
    $("speculation").hidden = !data.speculation.length;
    table($("saturation-table"), [["arm"], ["TP", "number"], ["saturated at", "number"], ["total tok/s/GPU", "number"], ["grows most"], ["limit"]], data.saturation, (r) => [
      arm(r), r.tp ?? "?", r.is_saturated ? r.concurrency : `not up to ${r.concurrency}`, fixed(r.total_tput_per_gpu_tok_s, 1),
      r.gives ? `${r.gives} ${fixed(r.gives_from_ms, 1)} to ${fixed(r.gives_to_ms, 1)} ms at ${r.gives_at_concurrency}` : "", r.why || (!r.is_saturated ? "" : r.planned_limit ? `${r.planned_limit} (planned)` : "unknown")]);
    $("saturation").hidden = !data.saturation.length;
    table($("energy-table"), [["arm"], ["TP", "number"], ["conc.", "number"], ["W/GPU", "number"], ["J/output token", "number"], ["J/input token", "number"], ["J/token", "number"], ["J/request", "number"], ["tok/s/MW, boards", "number"], ["tok/s/MW, assumed all-in", "number"], ["SM MHz", "number"], ["hottest C", "number"], ["used", "number"], ["GiB/GPU", "number"], ["capped", "number"], ["ECC errors", "number"]], data.energy, (r) => [
      arm(r), r.tp ?? "?", r.concurrency ?? "?", fixed(r.gpu_power_w, 0), fixed(r.energy_per_output_token_j, 2), fixed(r.energy_per_input_token_j, 3), fixed(r.energy_per_total_token_j, 3), fixed(r.energy_per_request_j, 0), fixed(r.total_tput_per_gpu_mw_tok_s, 0), fixed(r.assumed_tput_per_mw_tok_s, 0),
      fixed(r.sm_clock_mean_mhz, 0), fixed(r.temperature_max_c, 0), percent(r.utilisation_mean), fixed(r.gpu_memory_max_gib, 1), percent(r.power_capped_share), fixed(r.ecc_uncorrected_errors, 0)]);
    $("energy").hidden = !data.energy.length;
    table($("startup-table"), [["arm"], ["TP", "number"], ["starts", "number"], ["start s", "number"], ["image", "number"], ["load", "number"], ["compile", "number"], ["graphs", "number"], ["$ a start", "number"], ["weights GiB/GPU", "number"], ["KV GiB/GPU", "number"], ["graphs GiB/GPU", "number"], ["KV tokens", "number"], ["planned", "number"]], data.startup, (r) => [
      arm(r), r.tp ?? "?", r.n_starts, ...["start_s", "image_s", "load_s", "compile_s", "graphs_s"].map((k) => fixed(r[k], 0)), r.start_cost_usd === null ? "" : fixed(r.start_cost_usd * dearer(r.hardware), 2), ...["weights_gib", "kv_gib", "graphs_gib"].map((k) => fixed(r[k], 1)), fixed(r.kv_tokens, 0), fixed(r.kv_tokens_predicted, 0)]);
    $("startup").hidden = !data.startup.length;
    const axes = { memory_gib: "memory", bandwidth_tb_s: "bandwidth", bf16_tflop_s: "BF16", fp8_tflop_s: "FP8", fp4_tflop_s: "FP4", scale_up_gb_s: "interconnect" };
    const names = Object.keys(data.specifications);
    $("hardware").hidden = !names.length; $("bounds").hidden = !data.bounds.length;
    if (names.length) {
      const look = layout("", "");
      look.showlegend = true; look.polar = { bgcolor: "rgba(0,0,0,0)", radialaxis: { range: [0, 1], gridcolor: css("--line"), tickformat: ".0%" }, angularaxis: { gridcolor: css("--line") } };
      look.margin = { l: 60, r: 60, t: 30, b: 30 };
      Plotly.react("radar", names.map((id, k) => ({ type: "scatterpolar", r: [...Object.keys(axes), "memory_gib"].map((a) => data.specifications[id][a]), theta: [...Object.values(axes), "memory"], name: entities(id), line: { color: (isDark() ? DARK : COLORS)[k % COLORS.length], dash: ["solid", "dash", "dot", "dashdot"][k % 4] }, marker: { symbol: SYMBOLS[k % SYMBOLS.length] }, mode: "lines+markers" })), look, CONFIG);
    }
    table($("specifications-table"), [["hardware"], ...Object.values(axes).map((a) => [a, "number"])], names, (id) => [id, ...Object.keys(axes).map((a) => `${Math.round(100 * data.specifications[id][a])} %`)]);
    table($("bounds-table"), [["hardware"], ["against"], ["precision"], ["compute", "number"], ["bandwidth", "number"], ["interconnect", "number"]], data.bounds, (r) => [r.hardware, r.baseline, r.precision, ...["compute", "bandwidth", "interconnect"].map((b) => (r[b] === null ? "" : fixed(r[b], 2) + "×"))]);
    sessions();
    searches();
    $("sources").replaceChildren(...data.sourceTables.flatMap((t) => {
      const made = el("table"), names = Object.keys(t.rows[0] || {});
      table(made, names.map((h) => [h]), t.rows, (row) => names.map((h) => row[h]));
      const around = el("div", null, { class: "scroll", tabindex: "0", role: "region", "aria-label": t.name });
      around.append(made);
      return [el("h2", `As its source has it: ${t.name}`), around];
    }));
    const bad = [...data.bad.map((b) => ({ what: b.path, why: b.reason }))];
    for (let i = 0; runs.series && i < runs.series.length; i++) if (runs.validity[i] === "invalid") bad.push({ what: `${name(runs.series[i])}, TP ${runs.tp[i] ?? "?"}, concurrency ${runs.concurrency[i] ?? "?"}, ${runs.origin[i]}`, why: runs.reasons[i] });
    table($("invalid-table"), [["what", "path"], ["why"]], bad, (b) => [b.what, b.why]);
    $("invalid").hidden = !bad.length;
  }

  function sessions() { // agent sessions: speed against sessions, hits against their ideal, and a table
    const rows = data.sessions, arm = (r) => `${r.system}, TP ${r.tp ?? "?"}`;
    for (const part of document.querySelectorAll(".of-frontiers")) part.hidden = !n && rows.length > 0;
    $("sessions").hidden = !rows.length;
    if (!rows.length) return;
    const of = new Map();
    for (const r of rows) of.set(arm(r), [...(of.get(arm(r)) || []), r]);
    const each = (draw) => [...of].flatMap(([title, mine], i) => draw(title, mine, (isDark() ? DARK : COLORS)[i % COLORS.length], SYMBOLS[i % SYMBOLS.length]));
    const front = layout("tok/s of a whole request, P90 (open marker: P50, too few requests for P90)", "sessions/h/GPU"), cache = layout("live sessions", "share of prompt tokens");
    logarithmic(front.yaxis);
    logarithmic(cache.xaxis);
    const say = (title, r) => `<b>${entities(title)}</b><br>${r.concurrency} live sessions<br>${fixed(r.sessions_per_h, 1)} sessions/h<br>hit ${percent(r.hit_share)}, ideal ${percent(r.ideal_hit_share)}`;
    Plotly.react("sessions-front", each((title, mine, own, mark) => [{
      type: "scatter", mode: "lines+markers+text", name: entities(title), x: mine.map((r) => r.normalised_p90_tok_s ?? r.normalised_median_tok_s), y: mine.map((r) => r.sessions_per_h / r.gpus),
      text: mine.map((r) => String(r.concurrency)), textposition: "top center", hovertext: mine.map((r) => say(title, r)), hoverinfo: "text", line: { color: own }, marker: { color: own, size: 8, symbol: mine.map((r) => (r.normalised_p90_tok_s === null ? `${mark}-open` : mark)) },
    }]), { ...front, showlegend: of.size > 1, legend: { orientation: "h", y: 1.12 } }, CONFIG);
    Plotly.react("sessions-cache", each((title, mine, own, mark) => {
      const x = mine.map((r) => r.concurrency), same = { type: "scatter", x };
      return [
        { ...same, mode: "lines", name: entities(`${title}: ideal`), y: mine.map((r) => r.ideal_hit_share), line: { color: own, dash: "dot" } },
        { ...same, mode: "lines+markers", name: entities(`${title}: hit`), y: mine.map((r) => r.hit_share), line: { color: own }, marker: { color: own, size: 8, symbol: mark } },
        { ...same, mode: "lines", name: "KV cache in use, most", showlegend: title === [...of.keys()][0], y: mine.map((r) => r.kv_usage_max), line: { color: css("--soft"), width: 1 } },
      ];
    }), { ...cache, yaxis: { ...cache.yaxis, range: [0, 1.05] }, showlegend: true, legend: { orientation: "h", y: 1.2 } }, CONFIG);
    const marks = each((title, mine, own, mark) => mine.map((r) => ({ r, told: (data.details[r.digest] || {}).ttft_of_fresh || [] })).filter(({ told }) => told.length).map(({ r, told }) => ({
      type: "scatter", mode: "markers", name: entities(`${title}, ${r.concurrency} live`), x: told.map(([fresh]) => Math.max(1, fresh)), y: told.map(([, ttft]) => ttft),
      marker: { color: own, symbol: mark, size: 5, opacity: 0.35 + 0.5 * mine.indexOf(r) / mine.length },
    })));
    $("sessions-ttft").hidden = !marks.length;
    if (marks.length) {
      const look = layout("computed prompt tokens of a request", "TTFT ms");
      logarithmic(look.xaxis);
      logarithmic(look.yaxis);
      Plotly.react("sessions-ttft", marks, { ...look, showlegend: true, legend: { orientation: "h", y: 1.2 } }, CONFIG);
    }
    table($("sessions-table"), [["arm"], ["sessions", "number"], ["sessions/h", "number"], ["$ a session", "number"], ["P50 tok/s", "number"], ["P90 tok/s", "number"], ["hit", "number"], ["ideal", "number"], ["computed tok/s/GPU", "number"], ["cached tok/s/GPU", "number"], ["output tok/s/GPU", "number"], ["TTFT ms", "number"], ["J a session", "number"], ["late ms", "number"], ["reasons"]], rows, (r) => [
      arm(r), r.concurrency ?? "?", fixed(r.sessions_per_h, 1), fixed(priceOf(state.price, r.hardware) * r.gpus / r.sessions_per_h, 4), fixed(r.normalised_median_tok_s, 1), fixed(r.normalised_p90_tok_s, 1), r.hit_share === null ? "" : `${fixed(100 * r.hit_share, 1)} %`, r.ideal_hit_share === null ? "" : `${fixed(100 * r.ideal_hit_share, 1)} %`,
      ...["fresh_tput_per_gpu_tok_s", "cached_tput_per_gpu_tok_s", "window_output_tput_per_gpu_tok_s"].map((k) => fixed(r[k], 0)), fixed(r.ttft_median_ms, 0), fixed(r.energy_per_session_j, 0), fixed(r.lateness_p99_ms, 1), r.reasons]);
  }

  function searches() { // the calibrated curves with their claims as bands, and the curves through the points as dots
    const parts = data.searches.flatMap((s, k) => {
      const text = el("p", s.text, { class: "lines" }), plot = el("div", null, { class: "plot", id: `search-${k}`, role: "img", "aria-label": "Calibrated cost against interactivity; `glm5bench answer` prints the same" });
      return [el("h2", "What a search knows"), text, ...(s.curves.length ? [plot, el("p", `Line: calibrated, prices ${s.price}. Band: the claim. Dots: interpolated through the measured points.`, { class: "fine" })] : [])];
    });
    $("searches").replaceChildren(...parts);
    $("searches").hidden = !parts.length;
    data.searches.forEach((s, k) => {
      if (!s.curves.length) return;
      const look = layout("tok/s/user", "$/Mtok");
      logarithmic(look.yaxis);
      Plotly.react(`search-${k}`, s.curves.flatMap((c, i) => {
        const own = (isDark() ? DARK : COLORS)[(i + 2) % COLORS.length], same = { type: "scatter", name: entities(c.name), x: c.x };
        return [
          { ...same, y: c.low, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false },
          { ...same, y: c.high, mode: "lines", line: { width: 0 }, fill: "tonexty", fillcolor: `${own}33`, hoverinfo: "skip", showlegend: false },
          { ...same, y: c.cost, mode: "lines", line: { color: own } },
          { ...same, y: c.through, mode: "markers", marker: { color: own, symbol: SYMBOLS[(i + 2) % SYMBOLS.length], size: 6 }, showlegend: false },
        ];
      }), { ...look, showlegend: true, legend: { orientation: "h", y: 1.12 } }, CONFIG);
    });
  }

  function provenance() {
    const words = $("filter").value.toLowerCase(), found = [];
    const total = runs.series ? runs.series.length : 0;
    let matching = 0;
    for (let i = 0; i < total; i++) {
      const row = [name(runs.series[i]), runs.tp[i] ?? "?", runs.concurrency[i] ?? "?", runs.repeat[i], runs.engine_version[i], runs.image[i], runs.node[i], runs.job[i], runs.started[i], runs.validity[i], runs.reasons[i], runs.key[i], runs.digest[i], runs.origin[i]];
      if (words && !row.join(" ").toLowerCase().includes(words)) continue;
      matching++;
      if (found.length < MOST) found.push(row);
    }
    table($("provenance-table"), [["arm"], ["TP", "number"], ["conc.", "number"], ["repeat", "number"], ["engine"], ["image", "path"], ["node"], ["job"], ["started"], ["validity"], ["reasons"], ["key"], ["digest"], ["file", "path"]], found, (row) => row);
    $("provenance-count").textContent = `${matching} of ${total} points${matching > found.length ? `, the first ${found.length}` : ""}`;
  }

  function arms() {
    const box = $("arms");
    box.replaceChildren(box.querySelector("legend"));
    for (const s of ofWorkload()) {
      const label = el("label"), tick = el("input", undefined, { type: "checkbox", "data-series": s.id });
      tick.checked = state.shown.has(s.id);
      tick.addEventListener("change", () => { tick.checked ? state.shown.add(s.id) : state.shown.delete(s.id); draw(); });
      const key = document.createElementNS("http://www.w3.org/2000/svg", "svg"), line = document.createElementNS("http://www.w3.org/2000/svg", "line");
      key.setAttribute("class", "key"); key.setAttribute("aria-hidden", "true");
      for (const [a, v] of Object.entries({ x1: 0, x2: 30, y1: 7, y2: 7, stroke: color(s.id), "stroke-width": 3, "stroke-dasharray": { measured: "", published: "7 4", simulated: "2 3" }[s.source] || "" })) line.setAttribute(a, v);
      key.append(line);
      const mark = el("span", (s.source === "measured" ? FULL : EMPTY)[SYMBOLS.indexOf(symbol(s.id))], { "aria-hidden": "true", class: "mark" });
      mark.style.color = color(s.id);
      const words = el("span", name(s.id), { class: "name" });
      label.append(tick, key, mark, words);
      box.append(label);
    }
    const bases = ofWorkload().filter((s) => isoOf.has(s.id));
    $("base").replaceChildren(...(state.base === null ? [el("option", "none", { value: "" })] : []), ...bases.map((s) => el("option", name(s.id), { value: s.id })));
    $("base").value = state.base ?? "";
    const choice = $("chosen"), of = [];
    for (const front of [true, false]) for (let i = 0; i < n && of.length < MOST; i++) if (points.front[i] === front && series[points.series[i]].workload === state.workload) of.push(i);
    choice.replaceChildren(...of.map((i) => el("option", `${name(points.series[i])}, TP ${points.tp[i] ?? "?"}, concurrency ${points.concurrency[i] ?? "?"}`, { value: i })));
    state.chosen = of.includes(state.chosen) ? state.chosen : of.length ? of[0] : -1;
    if (state.chosen >= 0) choice.value = state.chosen;
    $("point").hidden = !of.length;
  }

  function draw() { curves(); iso(); }
  function everything() { arms(); draw(); point(); lists(); }

  function choose(i) {
    state.chosen = i;
    if (![...$("chosen").options].some((o) => Number(o.value) === i)) $("chosen").append(el("option", `${name(points.series[i])}, TP ${points.tp[i] ?? "?"}, concurrency ${points.concurrency[i] ?? "?"}`, { value: i }));
    $("chosen").value = i;
    point();
  }

  $("title").textContent = data.title;
  $("made").textContent = `glm5bench ${data.version}, ${data.madeUtc}; ${runs.series ? runs.series.length : 0} points, ${series.length} series`;
  if (data.notes.length) { $("notes").hidden = false; $("notes").replaceChildren(...data.notes.map((text) => el("p", text))); }
  const workloads = [...new Set(series.map((s) => s.workload))];
  const size = (w) => { let most = 0; for (let i = 0; i < n; i++) if (points.front[i] && series[points.series[i]].workload === w) most++; return most; };
  const RANK = ["measured", "simulated", "published"]; // the page opens on what the user measured
  const rank = (w) => RANK.indexOf(series.find((s) => s.workload === w).source);
  workloads.sort((a, b) => rank(a) - rank(b) || size(b) - size(a));
  $("workload").replaceChildren(...workloads.map((w) => el("option", w, { value: w })));
  $("price").replaceChildren(...Object.keys(data.prices).map((p) => el("option", p, { value: p })));
  $("price").value = state.price;
  const middle = (of) => { // of the interactivities that most arms reach
    const reach = data.grid.map((_, i) => of.filter((s) => isoOf.get(s.id).total_tput_per_gpu_tok_s[i] !== null).length), most = Math.max(...reach);
    const best = data.grid.map((_, i) => i).filter((i) => reach[i] === most);
    return best.length ? best[best.length >> 1] : 0;
  };
  $("at").max = Math.max(0, data.grid.length - 1);
  const pick = (w) => { state.workload = w; const of = ofWorkload().filter((s) => isoOf.has(s.id)); state.shown = new Set((of.length > 24 ? of.slice(0, 24) : of).map((s) => s.id)); state.base = of.length ? isoOf.get(of[0].id).baseline : null; state.at = middle(of); $("at").value = state.at; };
  if (workloads.length) pick(workloads[0]);
  $("workload").addEventListener("change", (e) => { pick(e.target.value); everything(); });
  $("base").addEventListener("change", (e) => { state.base = e.target.value === "" ? null : Number(e.target.value); iso(); });
  $("price").addEventListener("change", (e) => { state.price = e.target.value; draw(); lists(); });
  $("log-x").addEventListener("change", (e) => { state.logX = e.target.checked; curves(); });
  $("log-y").addEventListener("change", (e) => { state.logY = e.target.checked; curves(); });
  $("limit").addEventListener("change", (e) => { state.limit = e.target.checked; curves(); });
  $("limit").closest("label").hidden = !data.limits.length;
  let waiting = 0;
  $("at").addEventListener("input", (e) => { state.at = Number(e.target.value); iso(); if (!waiting) waiting = requestAnimationFrame(() => { waiting = 0; curves(); }); });
  $("chosen").addEventListener("change", (e) => choose(Number(e.target.value)));
  $("filter").addEventListener("input", provenance);
  $("controls").addEventListener("submit", (e) => e.preventDefault());
  for (const change of [dark, printing]) change.addEventListener("change", everything);
  everything();
  provenance();
  for (const id of ["throughput", "cost"]) {
    $(id).on("plotly_click", (e) => { const i = e.points[0].customdata; if (i !== undefined) choose(i); });
    $(id).on("plotly_hover", (e) => { // of very many points the words are made when they are wanted
      const p = e.points[0];
      if (p.customdata !== undefined && p.text === String(p.customdata)) { const text = p.data.text.slice(); text[p.pointIndex] = hover(p.customdata); Plotly.restyle(id, { text: [text] }, [p.curveNumber]); }
    });
  }
  document.documentElement.dataset.ready = "yes";
})();
