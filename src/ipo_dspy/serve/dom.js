// Elements from text. Text of a journal, a program, a file or a server is never parsed as markup.

export const byId = (id) => document.getElementById(id);

export function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children); // strings become text nodes
  return made;
}

// A template, one line each, with <CLASS> in bold.
export function prompt(text) {
  const lines = text.split("\n").map((line) => {
    const [first, ...rest] = line.split("<CLASS>");
    return element("span", "", first, ...rest.flatMap((part) => [element("b", "", "<CLASS>"), part]));
  });
  return element("code", "prompt", ...lines);
}

// A bar whose length is a share from 0 to 1.
export function bar(share) {
  const fill = element("i");
  fill.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
  const track = element("span", "bar", fill);
  track.setAttribute("aria-hidden", "true"); // the number is next to it
  return track;
}
