// Ask for the state of the run each second and show it.

import { chart } from "./chart.js";
import { bar, byId, element, prompt } from "./dom.js";

const PAUSE = 1000, LONG_PAUSE = 5000; // milliseconds; the longer one after an error
let seen = "";

function duration(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 10) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

function fact(name, value, share) {
  return element("div", "", element("dt", "", name), element("dd", "", value, ...(share === undefined ? [] : [bar(share)])));
}

const title = (state) => (state.data ? `Prompt search: ${state.data}` : "Prompt search");

function head(state) {
  const waiting = state.phase === "waiting";
  byId("title").textContent = title(state);
  byId("badge").textContent = waiting ? "waiting for the run to begin" : state.phase === "killed" ? "stopped" : state.status;
  byId("badge").className = state.phase === "running" ? "badge live" : "badge";
  byId("folder").textContent = state.folder;
  byId("pending").textContent = state.pending.join("; ");
  byId("pending").hidden = !state.pending.length;
  const { seconds, max_seconds: allowed, left } = state;
  const facts = [
    allowed === null
      ? fact(waiting ? "Waiting for" : "Time", duration(seconds))
      : fact("Time", `${duration(seconds)} of ${duration(allowed)}`, seconds / allowed),
  ];
  if (left !== null) facts.push(fact("Search", left ? `up to ${duration(Math.max(1, left))} left` : "done; comparing and testing"));
  if (state.spending) facts.push(fact("Language models", state.spending));
  facts.push(...state.limits.map((limit) => fact(limit.name, limit.text, limit.share)));
  byId("facts").replaceChildren(...facts);

  const texts = {
    over: ["The run is over", "The report has the whole result: test images, confusions, and how to use the template."],
    killed: ["The run was stopped", `${state.status[0].toUpperCase()}${state.status.slice(1)}.`],
  };
  byId("next").hidden = !(state.phase in texts);
  [byId("next-title").textContent, byId("next-text").textContent] = texts[state.phase] ?? ["", ""];
}

function side(name, row, measures, className) {
  const loss = measures.slice(1).map((measure, i) => element("p", "muted", `${measure.name.toLowerCase()} ${row.figures[i + 1]}`));
  return element("div", `side ${className}`, element("p", "kicker", `${name}, on training images`), prompt(row.template), element("p", "big", row.figures[0]), ...loss);
}

function table(heads, rows) {
  const cells = (kind, values, numbers) => values.map((value, i) => element(kind, numbers.includes(i) ? "num" : "", value));
  const numbers = heads.flatMap((name, i) => (name.endsWith(">") ? [i] : []));
  const names = heads.map((name) => name.replace(">", ""));
  const body = rows.map(({ marked, values }) => element("tr", marked ? "marked" : "", ...cells("td", values, numbers)));
  return element(
    "div", "scroll",
    element("table", "", element("thead", "", element("tr", "", ...cells("th", names, numbers))), element("tbody", "", ...body)),
  );
}

function card(title, note, ...children) {
  return element("section", "card", element("h3", "", title, " ", element("span", "muted", note)), ...children);
}

function curves(search) {
  const figures = search.measures.map((measure, i) =>
    element("figure", "", element("figcaption", "", `${measure.name} on the training images, by trial`),
      chart(search.trials, search.values[i], measure, search.improvements, search.best.index)));
  const keys = [["key-dot", "a trial"], ["key-line", "best so far"], ["key-start", "start template"], ["key-ring", search.chosen ? "chosen template" : "best template"]];
  const legend = keys.map(([key, text]) => element("span", "", element("i", key), text));
  return element("section", "card", element("div", "curves", ...figures), element("p", "legend", ...legend));
}

function progress(search) {
  const planned = typeof search.steps === "number";
  const parts = [`step ${search.step}${planned ? ` of ${search.steps}` : ""}`, `${counted(search.tried, "template")} tried`];
  if (search.described) parts.push(`${counted(search.described, "training image")} described`);
  const text = parts.join(", ");
  return element("div", "progress", element("p", "", text), ...(planned && search.steps ? [bar(search.step / search.steps)] : []));
}

function show(search) {
  const about = `${search.classes} classes, ${counted(search.images, "training image")}`;
  const parts = [element("h2", "", search.name || about), progress(search)];
  if (search.name) parts.push(element("p", "muted", about));
  if (search.best) {
    const hero = element(
      "section", "card hero",
      side("Start", search.start, search.measures, ""), element("span", "arrow", "→"),
      side(search.chosen ? "Chosen" : "Best so far", search.best, search.measures, "best"),
    );
    if (search.result) {
      const { name, start, best, interval } = search.result;
      hero.append(element("p", "on", `${name[0].toUpperCase()}${name.slice(1)}: ${start} with the start template, ${best} with the chosen one${interval && ` (${interval})`}`));
    }
    for (const sentence of search.outcome) hero.append(element("p", "on", `${sentence[0].toUpperCase()}${sentence.slice(1)}.`));
    const [first, ...others] = search.measures.map((measure) => measure.name);
    const rows = search.recent.map(({ step, template, figures, better }) => {
      const small = others.map((other, i) => element("small", "", `${other.toLowerCase()} ${figures[i + 1]}`));
      return { marked: better, values: [String(step), prompt(template), element("span", "", figures[0], ...small)] };
    });
    const trials = table(["Step>", "Template", `${first}>`], rows);
    parts.push(hero, curves(search), card("Latest trials", "shaded: better than all before", trials));
  }
  if (search.rejected.length) {
    const counts = search.rejected.map(({ reason, count }) => `${reason} ${count}`).join(", ");
    const rows = search.rejections.map(({ step, text, reason, message, count }) => {
      const why = element("small", "", (message ? `${reason}: ${message}` : reason) + (count > 1 ? ` (${count} times)` : ""));
      return { values: [String(step), element("span", "", prompt(text), why)] };
    });
    parts.push(card("Latest rejected texts", counts, table(["Step>", "Text"], rows)));
  }
  if (search.errors) parts.push(element("p", "notice", `${counted(search.errors, "error")}, the last: ${search.error}`));
  return parts;
}

function name(searches) {
  const shown = searches.findLast((search) => search.best);
  return shown ? `${shown.best.figures[0]} · step ${shown.step} · ` : "";
}

async function look() {
  let pause = PAUSE;
  try {
    const response = await fetch(`state?seen=${encodeURIComponent(seen)}`);
    const state = await response.json();
    if (!response.ok) throw new Error(state.error);
    head(state);
    if (state.searches) {
      byId("searches").replaceChildren(...state.searches.flatMap(show));
      document.title = `${name(state.searches)}${title(state)}`;
      seen = state.version;
    }
    byId("problem").hidden = true;
  } catch (error) {
    pause = LONG_PAUSE;
    const lost = "No answer: ipo-dspy watch was stopped. The page shows the last known state.";
    byId("problem").textContent = error instanceof TypeError ? lost : error.message;
    byId("problem").hidden = false;
    byId("badge").className = "badge";
  }
  setTimeout(look, pause);
}

look();
