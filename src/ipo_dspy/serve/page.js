// Send pictures to the server and show its answers. Each picture is one request, so an error is the error of one
// picture; the server encodes requests that wait as one batch.

import { bar, byId, element, prompt } from "./dom.js";

const AT_ONCE = 8; // requests under way
const BARS = 5; // always visible
const CLASSES_SHOWN = 60; // more classes are folded away
let token = ""; // in memory only
let underWay = 0;
const waiting = []; // pictures that are not sent yet
const rows = [];

const login = byId("login");

// Response of the server as JSON; the message of any error is one for people.
async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "omit" });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  const content = await response.json().catch(() => null);
  if (response.ok && content) return content;
  const fault = new Error(
    typeof content?.error === "string" ? content.error : `The server answered with status ${response.status}.`,
  );
  fault.status = response.status;
  throw fault;
}

function askForToken() {
  if (!login.hidden) return; // it is asked for already
  byId("refused").hidden = !token;
  login.hidden = false;
  byId("token").focus();
}

login.addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value.trim();
  byId("token").value = "";
  login.hidden = true;
  describe();
  send();
});

async function describe() {
  let program;
  try {
    program = await ask("program");
  } catch (error) {
    if (error.status === 401) askForToken();
    else byId("model").textContent = error.message;
    return;
  }
  byId("template").replaceChildren(prompt(program.template));
  byId("classes").replaceChildren(...program.classes.flatMap((name) => [element("span", "", name), " "]));
  byId("class-count").textContent = program.classes.length;
  byId("class-list").open = program.classes.length <= CLASSES_SHOWN;
  const weights = program.pretrained ? `, weights ${program.pretrained}` : "";
  const rejected = program.threshold_score === "confidence"
    ? program.threshold ? ` Below a confidence of ${percent(program.threshold)} a picture counts as unknown.` : ""
    : " A picture that is like none of the classes counts as unknown.";
  byId("model").textContent = `Model: ${program.model}${weights}.${rejected}`;
  byId("program").hidden = false;
}

const nameOf = (file) => file.name || "pasted picture";
// A sentence of the server about the image of a request, with the name that people know.
const about = (file, error) =>
  error.startsWith("the image ") ? nameOf(file) + error.slice(9) : `${nameOf(file)} was not classified: ${error}`;
const percent = (share) => `${(100 * share).toFixed(1)} %`;

function table(scores, shown) {
  const body = element("tbody");
  for (const [name, share] of scores) {
    const value = element("td", "num", percent(share));
    body.append(element("tr", shown.includes(name) ? "first" : "", element("th", "", name), element("td", "", bar(share)), value));
  }
  return element("table", "scores", body);
}

function answer(result) {
  const labels = result.labels ?? [result.label]; // null if the program answers that it does not know
  const scores = Object.entries(result.scores).sort((a, b) => b[1] - a[1]);
  const name = labels.map((label) => label ?? "unknown").join(", ") || "no class";
  const isKnown = result.label in result.scores; // the confidence of a rejected image is that of its best class
  const sure = result.confidence == null || !isKnown ? [] : [" ", element("span", "muted", percent(result.confidence))];
  const made = [element("p", "label", name, ...sure), table(scores.slice(0, BARS), labels)];
  if (scores.length > BARS) {
    const more = element("details", "", element("summary", "", `${scores.length - BARS} more`));
    more.append(table(scores.slice(BARS), labels));
    made.push(more);
  }
  return made;
}

async function classify({ file, outcome }) {
  outcome.replaceChildren(element("p", "muted", "classifying"));
  const form = new FormData();
  form.append("files", file, file.name || "pasted");
  const { results } = await ask("classify", { method: "POST", body: form });
  outcome.replaceChildren(...answer(results[0]));
}

function count() {
  const left = underWay + waiting.length;
  const all = rows.length === 1 ? "1 picture" : `${rows.length} pictures`;
  byId("count").textContent = rows.length ? (left ? `${all}, ${left} in progress` : all) : "";
  byId("clear").hidden = !rows.length;
}

function send() {
  while (underWay < AT_ONCE && waiting.length && login.hidden) {
    const row = waiting.shift();
    underWay += 1;
    classify(row)
      .catch((error) => {
        if (error.status === 401) {
          if (rows.includes(row)) waiting.unshift(row); // sent again with the token
          askForToken();
        } else {
          const faulty = [413, 422].includes(error.status); // the picture is too large or cannot be read
          const text = faulty ? `${about(row.file, error.message)}.` : error.message;
          row.outcome.replaceChildren(element("p", "notice", text));
        }
      })
      .finally(() => {
        underWay -= 1;
        send();
      });
  }
  count();
}

function preview(file) {
  const image = element("img");
  const url = URL.createObjectURL(file);
  image.alt = "";
  image.onload = () => URL.revokeObjectURL(url);
  image.onerror = () => {
    URL.revokeObjectURL(url);
    image.replaceWith(element("span", "absent", "no preview")); // the server may read it nevertheless
  };
  image.src = url;
  return image;
}

function add(files) {
  for (const file of files) {
    const outcome = element("div", "outcome", element("p", "muted", "waiting"));
    const name = element("p", "name muted", nameOf(file));
    const item = element("li", "card", preview(file), element("div", "", name, outcome));
    byId("results").prepend(item);
    const row = { file, outcome };
    rows.push(row);
    waiting.push(row);
  }
  send();
}

for (const id of ["choose", "photo"]) {
  byId(id).addEventListener("change", (event) => {
    add([...event.target.files]);
    event.target.value = ""; // the same picture can be chosen again
  });
}
byId("clear").addEventListener("click", () => {
  waiting.length = rows.length = 0;
  byId("results").replaceChildren();
  count();
});

const drop = byId("drop");
const over = (event) => {
  event.preventDefault(); // a picture that is dropped next to the zone must not replace the page
  drop.classList.toggle("over", event.type === "dragover");
};
for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, over);
document.addEventListener("drop", (event) => {
  const files = [...event.dataTransfer.files];
  if (files.length) add(files);
  else byId("count").textContent = "Nothing was classified: only files can be dropped here, not links.";
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) add([...event.clipboardData.files]);
});

describe();
