"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const make = (tag, text, properties = {}) => {
  const element = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) element.textContent = text;
  return element;
};
const hundredths = new Intl.NumberFormat("en", {minimumFractionDigits: 2, maximumFractionDigits: 2, roundingMode: "halfEven", useGrouping: false});
const percent = share => hundredths.format(100 * share) + "\u00a0%";
const press = (button, isPressed) => button.setAttribute("aria-pressed", isPressed);

function table(caption, head, rows, own = -1) {
  const element = make("table"), top = make("thead"), body = make("tbody");
  const line = (cells, tag, scope) => {
    const row = make("tr");
    row.append(...cells.map((text, n) => make(n ? tag : "th", text, n && tag === "td" ? {} : {scope: n ? "col" : scope})));
    return row;
  };
  top.append(line(head, "th", "col"));
  body.append(...rows.map((cells, n) => Object.assign(line(cells, "td", "row"), {className: n === own ? "own" : ""})));
  element.append(make("caption", caption), top, body);
  return element;
}

// The score

function showScore({score, benchmark}) {
  const place = at("score"), tables = make("div", undefined, {className: "tables"});
  place.hidden = false;
  place.append(make("h2", "Score"));
  if (!score) {
    place.append(make("p", "The solutions are not known, so there is no score."));
    return;
  }
  const {per_task, per_output} = score;
  tables.append(table(`${score.num_tasks} tasks, ${score.num_outputs} test outputs`, ["metric", "per task", "per output"],
    Object.keys(per_task).map(name => [name.replace("_", " "), percent(per_task[name]), percent(per_output[name])])));
  const column = {"ARC-AGI-1": 1, "ARC-AGI-2": 2}[benchmark], known = data.published.filter(row => !column || row[column]);
  const own = [`this run, per task / per output`, `${percent(per_task["pass@2"])} / ${percent(per_output["pass@2"])}`];
  tables.append(column
    ? table(`Published, ${benchmark} evaluation, pass@2`, ["system", "%", "source"], [[...own, "its votes"], ...known.map(row => [row[0], row[column], row[3]])], 0)
    : table("Published, pass@2", ["system", "ARC-AGI-1 %", "ARC-AGI-2 %", "source"], known));
  place.append(tables, make("p", `${score.solved_outputs} of ${score.num_outputs} test outputs solved in two attempts` +
    (score.solved_by_votes === null ? "." : `, ${score.solved_by_votes} of them by votes of the model.`)));
  if (!column) place.append(make("p", "Published scores are of all evaluation tasks of their benchmark, which these tasks are not: they do not compare.", {className: "soft"}));
}

/* TRAINING */

// Grids

let hasDigits = false;
const inkOn = color => data.with_light_ink.includes(+color) ? "#fff" : "#000";
function draw(grid, solution = null) {
  const rows = grid.split("|"), wanted = solution === null ? null : solution.split("|");
  const height = rows.length, width = rows[0].length, longest = Math.max(height, width);
  const cell = Math.max(Math.min(24, 168 / longest), hasDigits ? 13 : 0);
  const compared = wanted && wanted.length === height && wanted[0].length === width;
  const parts = [];
  let numWrong = 0;
  rows.forEach((row, y) => {
    for (let x = 0, end; x < width; x = end) {
      for (end = x + 1; end < width && row[end] === row[x]; end++);
      parts.push(`<rect x="${x}" y="${y}" width="${end - x}" height="1" fill="${data.colors[row[x]]}"/>`);
    }
  });
  let lines = "";
  for (let x = 0; x <= width; x++) lines += `M${x} 0V${height}`;
  for (let y = 0; y <= height; y++) lines += `M0 ${y}H${width}`;
  parts.push(`<path d="${lines}" stroke="#777" stroke-width=".04" fill="none"/>`);
  rows.forEach((row, y) => [...row].forEach((color, x) => {
    const isWrong = compared && wanted[y][x] !== color, ink = inkOn(color);
    if (hasDigits) parts.push(`<text x="${x + .5}" y="${y + .75}" font-size=".7" text-anchor="middle" fill="${ink}">${color}</text>`);
    if (!isWrong) return;
    numWrong++;
    const mark = hasDigits ? `M${x + .1} ${y + .1}h.8v.8h-.8z` : `M${x + .15} ${y + .15}l.7 .7m0 -.7l-.7 .7`;
    parts.push(`<path d="${mark}" stroke="${ink}" stroke-width=".12" fill="none"/>`);
  }));
  const holder = make("div"), wrong = numWrong ? `, ${numWrong} cells wrong` : "";
  holder.innerHTML = `<svg width="${width * cell}" height="${height * cell}" viewBox="0 0 ${width} ${height}" ` +
    `shape-rendering="crispEdges" role="img" aria-label="${height} rows of ${width} cells${wrong}: ${rows.join(", ")}">` +
    parts.join("") + "</svg>";
  return holder.firstChild;
}
function thumbnail(grid) {
  const rows = grid.split("|"), canvas = make("canvas", undefined, {width: rows[0].length, height: rows.length});
  const context = canvas.getContext("2d");
  rows.forEach((row, y) => [...row].forEach((color, x) => {
    context.fillStyle = data.colors[color];
    context.fillRect(x, y, 1, 1);
  }));
  canvas.setAttribute("aria-hidden", "true");
  return canvas;
}
function figure(caption, grid, solution, share) {
  const element = make("figure");
  element.append(draw(grid, solution), make("figcaption", caption));
  if (share !== undefined) {
    const trough = make("div", undefined, {className: "trough"}), bar = make("div", undefined, {className: "share"});
    bar.style.width = 100 * share + "%";
    trough.append(bar);
    element.append(trough);
  }
  return element;
}

// The task that is open

const [FIRST, SECOND] = data.outcomes;
const describe = outcome => outcome ?? "solution not known";
const kindOf = outcome => outcome === null ? "" : outcome === FIRST || outcome === SECOND ? "solved" : "missed";
const count = (number, one, many = one + "s") => `${number} ${number === 1 ? one : many}`;
let open = null;
function whyDropped(task, test) {
  const lines = [], side = data.predictions.canvas_side;
  if (test.dropped.length) lines.push(`${count(test.dropped.length, "prediction")} dropped, as no grid could be cut out of the predicted canvas ` +
    `(its first cell held no color): of ${test.dropped.length === 1 ? "view" : "views"} ${test.dropped.join(", ")}.`);
  if (!test.votes) lines.push(side && task.longest_side > side
    ? `No view was predicted: the longest side of a grid is ${task.longest_side} cells, the weights have a canvas of ${side}.`
    : test.dropped.length ? "No view is left to vote." : "No view was predicted: stopped, or out of time.");
  return lines;
}
function show(task) {
  open = task;
  const place = at("task");
  place.hidden = false;
  place.replaceChildren(make("h2", `Task ${task.id}: ${describe(task.outcome)}`, {className: kindOf(task.outcome)}),
    make("button", "Close", {type: "button", onclick: hide}));
  const inRow = figures => { const row = make("div", undefined, {className: "row"}); row.append(...figures); return row; };
  const row = (...figures) => place.append(inRow(figures));
  row(...task.train.map(([input, output], n) => inRow([figure(`demonstration ${n}`, input), figure("its output", output)])));
  task.tests.forEach((test, n) => {
    place.append(make("h3", `Test ${n}: ${describe(test.outcome)}`, {className: kindOf(test.outcome)}));
    const attempts = test.attempts.map((grid, k) => figure(
      `attempt ${k + 1}` + (test.solution === null ? "" : grid === test.solution ? ", right" : ", wrong") +
      (test.candidates.some(c => c.grid === grid) ? "" : "; a fallback, no view voted for it"), grid, test.solution));
    row(figure("input", test.input), ...attempts, ...(test.solution === null ? [] : [figure("solution", test.solution)]));
    if (test.votes) place.append(make("p", `${count(test.votes, "vote")} for ${count(test.num_candidates, "grid")}` +
      (test.solution === null ? "." : test.rank === null ? ", none of them the solution." : `; the solution is number ${test.rank + 1} among them.`)));
    for (const line of whyDropped(task, test)) place.append(make("p", line));
    if (test.candidates.length) row(...test.candidates.map((c, k) => {
      const parts = [`${k + 1}. ${count(c.votes, "vote")}${c.is_older ? " of older weights" : ", " + percent(c.votes / test.votes)}`, `q\u00a0${c.q.toFixed(2)}`];
      if (c.reproduced !== null) parts.push(`${percent(c.reproduced)} of demonstrations reproduced`);
      if (c.grid === test.solution) parts.push("right");
      return figure(parts.join(", "), c.grid, test.solution, c.is_older ? undefined : c.votes / test.votes);
    }));
    const rest = test.num_candidates + test.num_older - test.candidates.length;
    if (rest) place.append(make("p", `${count(rest, "more grid")} with fewer votes.`, {className: "soft"}));
  });
  mark();
  history.replaceState(null, "", "#" + encodeURIComponent(task.id));
}
function go(task) {
  show(task);
  at("task").focus({preventScroll: true});
  at("task").scrollIntoView();
}
function hide() {
  const task = open;
  open = null;
  at("task").hidden = true;
  mark();
  [...at("list").querySelectorAll("button")].find(button => button.task === task)?.focus();
  history.replaceState(null, "", "#");
}
function mark() {
  for (const button of at("list").querySelectorAll("button")) press(button, button.task === open);
}

// The list

const byText = value => (a, b) => value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0;
const ORDERS = {
  "as in the file": null, "task": byText(t => t.id), "outcome": byText(t => data.outcomes.indexOf(t.outcome)),
  "size": byText(t => t.cells), "votes": byText(t => -t.votes), "agreement": byText(t => -t.agreement), "mean q": byText(t => -t.mean_q),
};
let outcomeShown, isReversed = false;
function solvedPart({tests}) {
  const solved = tests.filter(test => kindOf(test.outcome) === "solved").length;
  return solved && solved < tests.length ? `${solved} of ${tests.length} tests solved, ` : "";
}
function list() {
  const text = at("search").value.trim().toLowerCase(), order = ORDERS[at("order").value];
  const matching = data.predictions.tasks.filter(t => (outcomeShown === undefined || t.outcome === outcomeShown) && t.id.toLowerCase().includes(text));
  if (order) matching.sort(order);
  if (isReversed) matching.reverse();
  at("count").textContent = `${matching.length} of ${count(data.predictions.tasks.length, "task")}`;
  at("list").replaceChildren(...matching.map(task => {
    const item = make("li"), button = make("button", undefined, {type: "button", task, onclick: () => go(task)});
    button.append(thumbnail(task.tests[0].input), make("span", task.id), make("span", describe(task.outcome), {className: kindOf(task.outcome)}),
      make("small", solvedPart(task) + `${count(task.cells, "cell")}, ${count(task.votes, "vote")}, agreement ${percent(task.agreement)}, q\u00a0${task.mean_q.toFixed(2)}`));
    press(button, task === open);
    item.append(button);
    return item;
  }));
}
function filters() {
  const tasks = data.predictions.tasks, choices = [[undefined, "all", tasks.length]];
  for (const outcome of [...data.outcomes, null]) {
    const number = tasks.filter(task => task.outcome === outcome).length;
    if (number) choices.push([outcome, describe(outcome), number]);
  }
  at("filters").replaceChildren(...choices.map(([outcome, name, number]) => {
    const button = make("button", `${name}: ${number}`, {type: "button", onclick: () => {
      outcomeShown = outcome;
      for (const other of at("filters").children) press(other, other === button);
      list();
    }});
    press(button, outcome === outcomeShown);
    return button;
  }));
}
function showTasks() {
  at("tasks").hidden = false;
  at("order").append(...Object.keys(ORDERS).map(name => make("option", name)));
  at("search").oninput = at("order").onchange = list;
  at("reverse").onclick = () => { isReversed = !isReversed; press(at("reverse"), isReversed); list(); };
  at("digits").onclick = () => {
    const isInside = at("task").contains(document.activeElement);
    hasDigits = !hasDigits;
    press(at("digits"), hasDigits);
    if (open) show(open);
    if (isInside) at("task").focus();
  };
  at("tasks").addEventListener("keydown", event => {
    if (/INPUT|SELECT/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "d") return at("digits").click();
    if (event.key === "Escape" && open) return hide();
    const step = {j: 1, k: -1}[event.key], buttons = [...at("list").querySelectorAll("button")];
    if (!step || !buttons.length) return;
    const now = buttons.findIndex(button => button.task === open);
    go(buttons[Math.min(buttons.length - 1, Math.max(0, now + step))].task);
  });
  filters();
  list();
  const follow = () => {
    const linked = data.predictions.tasks.find(task => "#" + encodeURIComponent(task.id) === location.hash);
    if (linked) go(linked);
  };
  addEventListener("hashchange", follow);
  follow();
}

const root = document.documentElement;
root.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
at("theme").onclick = () => { root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark"; };
at("name").textContent = document.title = `Run ${data.name}`;
at("versions").textContent = Object.entries(data.versions).map(([stage, version]) => `${stage} with code ${version}`).join(", ");
if (data.predictions) showScore(data.predictions);
if (data.training.length) showTraining();
if (data.predictions) showTasks();
