// The little of Markdown that cards are written in, as elements: headings, paragraphs, lists, tables, code, bold, links as text.
// Everything ends up in text nodes.

import { el } from "./dom.js";

export function markdown(text) {
  const blocks = [];
  const lines = text.replace(/\r/g, "").split("\n");
  for (let at = 0; at < lines.length;) {
    const from = at;
    const line = lines[at];
    const many = (matches) => {
      while (at < lines.length && matches(lines[at])) at += 1;
      return lines.slice(from, at);
    };
    if (line.trim() === "") at += 1;
    else if (line.startsWith("```")) {
      at += 1;
      const code = many((each) => !each.startsWith("```")).slice(1);
      at += 1;
      blocks.push(el("pre", { class: "mono scroll", tabindex: "0" }, code.join("\n")));
    } else if (/^#{1,6} /.test(line)) {
      at += 1;
      const level = Math.min(6, line.indexOf(" ") + 2);
      blocks.push(el(`h${level}`, {}, inline(line.slice(line.indexOf(" ") + 1))));
    } else if (line.startsWith("|")) blocks.push(table(many((each) => each.startsWith("|"))));
    else if (/^[-*] /.test(line)) blocks.push(el("ul", {}, many((each) => /^([-*] | {2,})/.test(each)).map((each) => el("li", {}, inline(each.replace(/^\s*[-*] /, ""))))));
    else blocks.push(el("p", {}, inline(many((each) => each.trim() !== "" && !/^(#{1,6} |\||[-*] |```)/.test(each)).join(" "))));
  }
  return el("div", { class: "markdown" }, blocks);
}

function table(lines) {
  const rows = lines.map((line) => line.replace(/^\||\|\s*$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|")));
  const isRule = (row) => row.every((cell) => /^:?-+:?$/.test(cell));
  const head = rows[1] && isRule(rows[1]) && rows[0].some(Boolean) ? rows[0] : null;
  const body = rows.filter((row, at) => !isRule(row) && !(at === 0 && rows[1] && isRule(rows[1])));
  return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Table" }, el("table", { class: "plain" },
    head ? el("thead", {}, el("tr", {}, head.map((cell) => el("th", { scope: "col" }, inline(cell))))) : null,
    el("tbody", {}, body.map((row) => el("tr", {}, row.map((cell, at) =>
      (at === 0 && !head ? el("th", { scope: "row" }, inline(cell)) : el("td", {}, inline(cell)))))))));
}

const unescaped = (text) => text.replace(/\\([!-/:-@[-`{-~])/g, "$1");

// `code`, **bold**, and [text](address) as its text.
function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*|\[[^\]]+\]\([^)]*\))/).map((part) => {
    if (/^`.+`$/.test(part)) return el("code", {}, part.slice(1, -1));
    if (/^\*\*.+\*\*$/.test(part)) return el("strong", {}, unescaped(part.slice(2, -2)));
    return /^\[.+\]\(.*\)$/.test(part) ? unescaped(part.slice(1, part.indexOf("]("))) : unescaped(part);
  });
}
