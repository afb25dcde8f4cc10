"use strict";
// Sorting, filters and the pages of single runs. Text from records only ever becomes text nodes.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const data = JSON.parse(document.getElementById("data").textContent);
  // results/packing.py: names of fields and repeated values are kept once.
  const unpack = (value) => {
    if (value === null || typeof value !== "object") return value;
    if (!Array.isArray(value)) return unpack(data.repeated[value.at]);
    const rest = value.slice(1).map(unpack);
    return value[0] === -1 ? rest : Object.fromEntries(data.shapes[value[0]].map((name, i) => [name, rest[i]]));
  };

  // Theme: the system's, until a person chooses.
  const theme = document.getElementById("theme");
  const stored = () => { try { return localStorage.getItem("robustft-theme") || "auto"; } catch { return "auto"; } };
  const setTheme = (name) => {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    theme.querySelector("b").textContent = name;
    theme.dataset.now = name;
  };
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const names = ["auto", "light", "dark"];
    const next = names[(names.indexOf(theme.dataset.now) + 1) % names.length];
    try { localStorage.setItem("robustft-theme", next); } catch { /* a file may have no storage */ }
    setTheme(next);
  });
  setTheme(stored());

  // Sorting: numbers start with the best or largest, text with A; the third press restores the given order.
  function makeSortable(table) {
    const body = table.tBodies[0];
    const given = [...body.rows];
    const begins = new Set(given.filter((row) => row.classList.contains("begins")));
    all("thead th", table).forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      const numeric = head.dataset.kind === "number";
      const small = /ECE|NLL|forgotten|seconds/.test(button.textContent);
      const first = !numeric || small ? "ascending" : "descending";
      const second = first === "ascending" ? "descending" : "ascending";
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const next = !now ? first : now === first ? second : null;
        all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
        let order = given;
        if (next) {
          head.setAttribute("aria-sort", next);
          const sign = next === "ascending" ? 1 : -1;
          const key = (row) => {
            const cell = row.cells[column];
            return numeric ? (cell.dataset.value === undefined ? null : Number(cell.dataset.value)) : cell.textContent.trim();
          };
          const keyed = given.map((row) => [key(row), row]);
          keyed.sort(([a], [b]) => {
            if (a === null || b === null) return (a === null) - (b === null);  // what was not measured comes last
            return sign * (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
          });
          order = keyed.map(([, row]) => row);
        }
        begins.forEach((row) => row.classList.toggle("begins", !next));
        body.append(...order);
      });
    });
  }
  all("table.sortable").forEach(makeSortable);

  // Filters of one section.
  function filter(form) {
    const part = form.parentElement;
    const chosen = Object.fromEntries(new FormData(form));
    const words = (chosen.text || "").toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0, total = 0;
    for (const view of all(".view", part)) {
      view.hidden = Boolean(form.elements.view) && view.dataset.view !== chosen.view;
      let here = 0;
      for (const row of all("tbody tr", view)) {
        const text = row.textContent.toLowerCase();
        const fits = (!chosen.backbone || row.dataset.backbone === chosen.backbone)
          && (!chosen.provenance || row.dataset.provenance === chosen.provenance)
          && words.every((word) => text.includes(word));
        row.hidden = !fits;
        here += fits;
        if (!view.hidden) { shown += fits; total += 1; }
      }
      view.querySelector(".nothing").hidden = here > 0;
      view.classList.toggle("changes", "change" in chosen);
    }
    form.querySelector(".count").textContent = shown === total ? `${total} rows` : `${shown} of ${total} rows`;
  }
  for (const form of all("form.filters")) {
    form.hidden = false;
    form.addEventListener("input", () => filter(form));
    form.addEventListener("submit", (event) => event.preventDefault());
    all(".view > h3", form.parentElement).forEach((title) => { title.hidden = Boolean(form.elements.view); });
    filter(form);
  }

  // The page of one run.
  function make(tag, attributes = {}, ...children) {
    const svg = ["svg", "line", "polyline", "circle", "text", "title"].includes(tag) && attributes.html !== true;
    const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (name !== "html") element.setAttribute(name, value);
    element.append(...children.filter((child) => child !== null));
    return element;
  }
  const show = (value) => value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
  const brief = (x) => x === 0 ? "0" : Math.abs(x) >= 1e5 || Math.abs(x) < 1e-3 ? x.toExponential(1) : String(Number(x.toPrecision(3)));
  const percent = (x) => typeof x === "number" ? (100 * x).toFixed(1) : "";
  const three = (x) => typeof x === "number" ? x.toFixed(3) : "";

  function tableOf(titles, rows, label) {
    const head = make("tr", {}, ...titles.map(([title, kind]) => make("th", { scope: "col", class: kind || "" }, title)));
    const lines = rows.map((row) => make("tr", {}, ...row.map((text, i) =>
      make(i ? "td" : "th", i ? { class: titles[i][1] || "" } : { scope: "row" }, show(text)))));
    return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
      make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines)));
  }

  function chart(title, xs, ys, unit) {
    const points = xs.map((x, i) => [x, ys[i]]).filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y));
    if (!points.length) return null;
    const [w, h, left, bottom] = [260, 130, 44, 18];
    const span = (values) => { const a = Math.min(...values), b = Math.max(...values); return a === b ? [a - 0.5, b + 0.5] : [a, b]; };
    const [x0, x1] = span(points.map(([x]) => x)), [y0, y1] = span(points.map(([, y]) => y));
    const place = ([x, y]) => [left + (w - left - 6) * (x - x0) / (x1 - x0), 8 + (h - bottom - 8) * (1 - (y - y0) / (y1 - y0))];
    const label = (x, y, text, anchor) => make("text", { x, y, "text-anchor": anchor }, text);
    const drawing = make("svg", { viewBox: `0 0 ${w} ${h}`, role: "img", "aria-label": `${title}: from ${brief(points[0][1])} to ${brief(points.at(-1)[1])}` },
      make("line", { x1: left, y1: h - bottom, x2: w - 6, y2: h - bottom }),
      make("line", { x1: left, y1: 8, x2: left, y2: h - bottom }),
      label(left - 4, 14, brief(y1), "end"), label(left - 4, h - bottom, brief(y0), "end"),
      label(left, h - 4, brief(x0), "start"), label(w - 6, h - 4, `${brief(x1)} ${unit}`.trim(), "end"),
      make("polyline", { points: points.map((p) => place(p).map((v) => v.toFixed(1)).join(",")).join(" ") }),
      ...(points.length <= 30 ? points.map((p) => { const [cx, cy] = place(p); return make("circle", { cx, cy, r: 2 }, make("title", {}, `${brief(p[0])}: ${brief(p[1])}`)); }) : []));
    return make("div", { class: "chart" }, make("b", {}, title), drawing);
  }

  function charts(title, list, empty) {
    const drawn = list.filter(Boolean);
    if (!drawn.length) return empty ? [make("h2", {}, title), make("p", { class: "note" }, empty)] : [];
    return [make("h2", {}, title), make("div", { class: "charts" }, ...drawn)];
  }

  function page(key) {
    const { provenance, record, curves } = unpack(data.values[key]);
    const { spec, sources, cost, environment, info, path, summary } = record;
    const flat = { ...spec, ...spec.hyper };
    delete flat.hyper;
    const settings = Object.keys(flat).sort((a, b) => (b in sources) - (a in sources) || a.localeCompare(b));
    const keys = Object.keys(data.values), at = keys.indexOf(key);
    const link = (other, text) => other ? make("a", { href: `#run/${other}` }, text) : null;
    const steps = curves.step || [];
    const training = Object.keys(curves).filter((name) => name !== "step").map((name) => chart(name, steps, curves[name], "steps"));
    const rows = (info.dynamics || []);
    const measured = [...new Set(rows.flatMap(Object.keys))].filter((name) => !["step", "fraction"].includes(name));
    const dynamics = measured.map((name) => chart(name, rows.map((r) => r.step), rows.map((r) => r[name]), "steps"));
    const role = (wanted) => Object.keys(record.sets).filter((name) => record.sets[name].role === wanted);
    const meanOf = (sets, names) => names.length ? names.reduce((sum, name) => sum + 100 * sets[name].accuracy, 0) / names.length : null;
    const along = path ? [["ID accuracy (%)", role("id")], ["OOD mean accuracy (%)", role("shift")]].map(([title, names]) =>
      chart(title, path.points.map((p) => p.value), path.points.map((p) => meanOf(p.sets, names)), path.parameter)) : [];
    const facts = Object.entries({ ...cost, ...environment }).map(([name, value]) => [name, value]);
    return [
      make("p", { class: "crumbs" }, make("a", { href: "#runs" }, "← all runs"), link(keys[at - 1], "previous"), link(keys[at + 1], "next")),
      make("h1", {}, `${record.method} on ${record.backbone}, seed ${record.seed}`),
      make("p", { class: "lead" }, `${record.benchmark} (${record.benchmark_version}), recipe ${record.recipe}, ${provenance}, run `, make("code", {}, record.run_id),
        `, finished ${record.finished}. Accuracy: ID ${percent(summary.acc_id)} %, OOD mean ${percent(summary.acc_ood_mean)} %.`),
      make("h2", {}, "Sets"),
      tableOf([["set"], ["role"], ["images", "number"], ["accuracy (%)", "number"], ["ECE", "number"], ["NLL (nats)", "number"], ["Brier", "number"]],
        [...Object.entries(record.sets), ...Object.entries(record.retention || {}).map(([name, m]) => [name, {...m, role: "retention"}])]
          .map(([name, m]) => [name, m.role, m.n === m.n_expected ? m.n : `${m.n} of ${m.n_expected}`, percent(m.accuracy), three(m.ece), three(m.nll), three(m.brier)]), "Sets"),
      ...charts("Curves", training, provenance === "reference" ? "Training curves are not part of the committed reference." : "This run has no training curves."),
      ...charts("Teacher and student", dynamics),
      ...charts("Path", along),
      make("h2", {}, "Spec"),
      tableOf([["key"], ["value"], ["source"]], settings.map((name) => [name, flat[name], sources[name] || ""]), "Spec"),
      make("h2", {}, "Cost and environment"),
      tableOf([["key"], ["value"]], facts, "Cost and environment"),
      make("details", {}, make("summary", {}, "The whole record"), make("pre", { tabindex: "0" }, JSON.stringify(record, null, 1))),
    ];
  }

  const article = document.getElementById("run"), overview = document.getElementById("overview");
  let last = null;
  function route() {
    const key = decodeURIComponent(location.hash).replace(/^#run\//, "");
    const found = location.hash.startsWith("#run/") && Object.hasOwn(data.values, key);
    article.hidden = !found;
    overview.hidden = found;
    article.replaceChildren(...(found ? page(key).filter((part) => part !== null) : []));
    if (found) {
      article.tabIndex = -1;
      article.focus({ preventScroll: true });
      scrollTo(0, 0);
      last = key;
    } else if (last !== null) {
      const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
      if (target) target.scrollIntoView();
      last = null;
    }
  }
  addEventListener("hashchange", route);
  addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "Escape" && !article.hidden) location.hash = "#runs";
    else if (event.key === "/" && !typing) {
      const field = all("input[type=search]").find((input) => input.getBoundingClientRect().bottom > 0 && input.offsetParent);
      if (field) { event.preventDefault(); field.focus(); }
    }
  });
  route();
})();
