// Training

const CURVES = {loss: "loss", exact_accuracy: "exact accuracy", eval_loss: "held-out loss", eval_exact_accuracy: "held-out exact accuracy", "eval_pass@2": "held-out pass@2", supervision_steps: "halting step", examples_per_second: "examples a second", lr: "learning rate"};
const DASHES = ["", "6 3", "2 3", "8 3 2 3", "12 4", "1 5"];
const dashOf = n => DASHES[(n + Math.floor(n / 6)) % 6];  // another one when colors come again
const hiddenRuns = new Set();
const brief = value => value === null || value === undefined ? "–" : Math.abs(value) >= 1e6 || (value && Math.abs(value) < 1e-3) ? value.toExponential(1) : String(+value.toPrecision(4));
function ticks(low, high) {
  const rough = (high - low) / 4, power = 10 ** Math.floor(Math.log10(rough)), unit = [1, 2, 5, 10].find(n => n * power >= rough) * power;
  const ticks = [];
  for (let n = Math.ceil(low / unit - 1e-9); n * unit <= high + unit * 1e-9; n++) ticks.push(n * unit);
  return ticks;
}
function chart(name, along) {
  const runs = data.training.map((run, n) => ({...run, n})).filter(run => !hiddenRuns.has(run.n));
  const width = 390, height = 210, left = 56, right = 22, top = 8, bottom = 24;
  const values = runs.flatMap(run => run[name]).filter(value => value !== null);
  const element = make("figure"), caption = make("figcaption", CURVES[name]), readout = make("p", "", {className: "soft readout"});
  if (!values.length) { element.append(caption, make("p", "nothing measured", {className: "soft"})); return element; }
  const low = Math.min(0, ...values), high = Math.max(0, ...values) || (low ? 0 : 1);
  const last = Math.max(1, ...runs.map(run => run[along][run[along].length - 1] ?? 0));
  const X = value => left + (width - left - right) * value / last, Y = value => height - bottom - (height - top - bottom) * (value - low) / (high - low);
  const parts = ticks(low, high).map(v => `<path d="M${left} ${Y(v)}H${width - right}" stroke="var(--line)"/><text x="${left - 5}" y="${Y(v) + 4}" text-anchor="end">${brief(v)}</text>`);
  parts.push(...ticks(0, last).map(v => `<text x="${X(v)}" y="${height - 7}" text-anchor="middle">${brief(v)}</text>`));
  for (const run of runs) {
    let line = "", pen = "M";
    run[name].forEach((value, n) => {
      if (value === null) return void (pen = "M");
      line += `${pen}${X(run[along][n]).toFixed(1)} ${Y(value).toFixed(1)}h0`;  // a dot where it stands alone
      pen = "L";
    });
    parts.push(`<path d="${line}" fill="none" stroke="var(--run${run.n % 6})" stroke-width="1.8" stroke-linecap="round" stroke-dasharray="${dashOf(run.n)}"/>`);
  }
  const holder = make("div");
  holder.innerHTML = `<svg viewBox="0 0 ${width} ${height}" role="img">${parts.join("")}<path id="${name}-cursor" stroke="var(--soft)"/></svg>`;
  const svg = holder.firstChild, cursor = svg.lastChild;
  svg.setAttribute("aria-label", `${CURVES[name]} along ${along === "step" ? "steps" : "FLOP"}; ` + runs.map(run => `${run.name}: from ${brief(run[name][0])} to ${brief(run.last[name])}`).join("; "));
  svg.onpointermove = event => {
    const box = svg.getBoundingClientRect(), x = ((event.clientX - box.left) * width / box.width - left) / (width - left - right) * last;
    cursor.setAttribute("d", x < 0 || x > last ? "" : `M${X(x)} ${top}V${height - bottom}`);
    readout.textContent = `at ${brief(x)}: ` + runs.map(run => {
      const n = run[along].findIndex(value => value >= x);
      return `${run.name} ${brief(n < 0 ? null : run[name][n])}`;
    }).join("; ");
  };
  svg.onpointerleave = () => { readout.textContent = ""; cursor.setAttribute("d", ""); };
  element.append(caption, svg, readout);
  return element;
}
function showTraining() {
  at("training").hidden = false;
  at("runs").replaceChildren(...data.training.map((run, n) => {
    const button = make("button", "", {type: "button", onclick: () => {
      hiddenRuns.has(n) ? hiddenRuns.delete(n) : hiddenRuns.add(n);
      press(button, !hiddenRuns.has(n));
      drawCharts();
    }});
    button.innerHTML = `<svg width="36" height="8" aria-hidden="true" style="display:inline"><path d="M1 4H35" stroke="var(--run${n % 6})" stroke-width="2.5" stroke-dasharray="${dashOf(n)}"/></svg> `;
    button.append(run.name);
    press(button, true);
    return button;
  }));
  at("along").onchange = drawCharts;
  at("last").append(table("Last figures", ["run", "step", ...Object.values(CURVES), "FLOP"], data.training.map(run =>
    [run.name, String(run.step.at(-1) ?? "–"), ...Object.keys(CURVES).map(name => brief(run.last[name])), brief(run.flop.at(-1))])));
  drawCharts();
}
function drawCharts() {
  at("charts").replaceChildren(...Object.keys(CURVES).map(name => chart(name, at("along").value)));
}
