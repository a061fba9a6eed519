// A measure over the trials: a dot for each, and a line through those that were better than all before.

const WIDTH = 440, HEIGHT = 250, LEFT = 46, RIGHT = 8, TOP = 8, BOTTOM = 26;

function drawn(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Limits that include the best trials; the worst few may be cut off so as not to flatten the rest.
function limits(values, higher) {
  const sorted = [...values].sort((a, b) => (higher ? a - b : b - a));
  const usual = sorted[Math.floor(sorted.length / 40)];
  const good = sorted.at(-1);
  const bad = Math.abs(good - sorted[0]) > 1.6 * Math.abs(good - usual) ? (higher ? Math.min : Math.max)(usual, values[0]) : sorted[0];
  const pad = 0.06 * Math.abs(good - bad) || 0.05 * Math.abs(good) || 0.5;
  return [Math.min(good, bad) - pad, Math.max(good, bad) + pad];
}

// Round numbers inside the limits, at most `most`.
function ticks(low, high, most, smallest) {
  for (let power = Math.floor(Math.log10((high - low) / most)); ; power += 1) {
    for (const digit of [1, 2, 2.5, 5]) {
      const step = digit * 10 ** power;
      if (step < smallest || (high - low) / step > most) continue;
      const first = Math.ceil(low / step);
      return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => (first + i) * step);
    }
  }
}

export function chart(trials, values, measure, improvements, best) {
  const [low, high] = limits(values, measure.higher);
  const last = Math.max(trials.at(-1), trials[0] + 1);
  const x = (trial) => LEFT + ((trial - trials[0]) / (last - trials[0])) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - ((Math.min(high, Math.max(low, value)) - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const point = (i) => `${x(trials[i]).toFixed(1)} ${y(values[i]).toFixed(1)}`;
  const shown = (value) => `${value.toFixed(measure.digits)}${measure.unit}`;
  const at = trials.indexOf(best);

  const label = `${measure.name} of ${trials.length} trials: ${shown(values[0])} at the start, ${shown(values[at])} for the best template`;
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label, class: "curve" });
  for (const value of ticks(low, high, 5, 10 ** -measure.digits)) {
    svg.append(drawn("path", { class: "grid", d: `M${LEFT} ${y(value)}H${WIDTH - RIGHT}` }));
    svg.append(drawn("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, String(+value.toFixed(measure.digits + 1))));
  }
  for (const trial of ticks(trials[0], last, 6, 1)) {
    svg.append(drawn("text", { x: x(trial), y: HEIGHT - 6, "text-anchor": "middle" }, String(trial)));
  }
  const improved = improvements.map((trial) => trials.indexOf(trial));
  const line = improved.map((i, n) => (n ? `H${x(trials[i]).toFixed(1)}V${y(values[i]).toFixed(1)}` : `M${point(i)}`)).join("");
  const better = improved.map((i) => `M${point(i)}h0`).join("");
  const dots = values.map((_, i) => `M${point(i)}h0`).join("");
  svg.append(
    drawn("path", { class: values.length > 400 ? "dots many" : "dots", d: dots }),
    drawn("path", { class: "start", d: `M${LEFT} ${y(values[0])}H${WIDTH - RIGHT}` }),
    drawn("path", { class: "record", d: `${line}H${x(last)}` }),
    drawn("path", { class: "better", d: better }),
    drawn("circle", { class: "ring", cx: x(trials[at]), cy: y(values[at]), r: 6.5 }),
  );
  return svg;
}
