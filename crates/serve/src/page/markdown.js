"use strict";
// A small, safe reader of Markdown: it builds nodes and never parses HTML, so that an answer cannot inject anything.
const markdown = (() => {
  const make = (tag, parent, text) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.append(node);
    return node;
  };

  // Inline marks, the first that matches wins.
  const marks = [
    [/(`+)([^]*?[^`])\1(?!`)/, (m, to) => make("code", to, m[2].trim())],
    [/\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/, (m, to) => { const a = make("a", to); a.href = m[2]; a.rel = "noopener noreferrer"; a.target = "_blank"; inline(m[1], a); }],
    [/\*\*(?=\S)([^]+?\S)\*\*/, (m, to) => inline(m[1], make("strong", to))],
    [/(^|[^\w*])\*(?=\S)([^*]+?)\*(?![\w*])/, (m, to) => { to.append(m[1]); inline(m[2], make("em", to)); }],
    [/(^|\W)_(?=\S)([^_]+?)_(?!\w)/, (m, to) => { to.append(m[1]); inline(m[2], make("em", to)); }],
    [/~~(?=\S)([^]+?)~~/, (m, to) => inline(m[1], make("s", to))],
  ];
  function inline(text, to) {
    while (text) {
      let best = null;
      for (const [pattern, act] of marks) {
        const m = pattern.exec(text);
        if (m && (!best || m.index < best.m.index)) best = { m, act };
      }
      if (!best) { to.append(text); return; }
      to.append(text.slice(0, best.m.index));
      best.act(best.m, to);
      text = text.slice(best.m.index + best.m[0].length);
    }
  }

  function codeBlock(language, code, to) {
    const box = make("div", to);
    box.className = "code";
    const head = make("header", box);
    make("span", head, language || "text");
    const copy = make("button", head, "Copy");
    copy.type = "button";
    copy.addEventListener("click", () => copyText(code, copy));
    paint(language, code, make("code", make("pre", box)));
  }

  // Colours for remarks, strings, numbers and the words that most languages share; no grammar, so a guess.
  const words = "abstract and as async await bool break case catch char class const continue def default defer del do double elif else end enum except export extends false final finally float fn for from func function go if impl import in int interface is lambda let long loop match mod mut new nil none not null or package pass private protected pub public raise return self static str string struct super switch this throw trait true try type typeof undefined union use var void where while with yield select insert update delete create table into values join group order by".split(" ");
  const known = new Set(words);
  function paint(language, code, to) {
    if (/^(|text|txt|plain|output|console|log)$/i.test(language)) { to.append(code); return; }
    const hash = !/^(rust|rs|c|cpp|c\+\+|java|js|javascript|ts|typescript|go|css|json|swift|kotlin|csharp|cs)$/i.test(language);
    const dash = /^(sql|lua|haskell|hs|ada)$/i.test(language);
    const remark = "\\/\\*[^]*?(?:\\*\\/|$)|\\/\\/.*" + (hash ? "|#.*" : "") + (dash ? "|--.*" : "");
    const token = new RegExp("(" + remark + ")|(\"(?:\\\\.|[^\"\\\\\\n])*\"?|'(?:\\\\.|[^'\\\\\\n])*'|`(?:\\\\[^]|[^`\\\\])*`)|\\b(\\d[\\w.]*)\\b|([A-Za-z_]\\w*)", "g");
    let done = 0;
    for (const m of code.matchAll(token)) {
      const kind = m[1] ? "remark" : m[2] ? "quote" : m[3] ? "number" : known.has(m[4]) || /^sql$/i.test(language) && known.has(m[4].toLowerCase()) ? "word" : "";
      if (!kind) continue;
      to.append(code.slice(done, m.index));
      make("span", to, m[0]).className = kind;
      done = m.index + m[0].length;
    }
    to.append(code.slice(done));
  }

  const fence = /^(\s*)(```+|~~~+)\s*([\w+#.-]*)[^`]*$/;
  const item = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;

  function list(lines, i, to) {
    const first = item.exec(lines[i]);
    const depth = first[1].length, ordered = /\d/.test(first[2]);
    const node = make(ordered ? "ol" : "ul", to);
    if (ordered) node.start = parseInt(first[2], 10);
    let last = null;
    while (i < lines.length) {
      const m = item.exec(lines[i]);
      if (m && m[1].length > depth + 1 && last) { i = list(lines, i, last); continue; }
      if (m && m[1].length < depth) break;
      if (m && /\d/.test(m[2]) !== ordered) break;
      if (m) { last = make("li", node); inline(m[3], last); i++; continue; }
      if (!lines[i].trim()) { if (i + 1 < lines.length && item.test(lines[i + 1])) { i++; continue; } break; }
      if (!/^\s/.test(lines[i])) break;
      last.append(" "); inline(lines[i].trim(), last); i++;
    }
    return i;
  }

  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((c) => c.trim());
  function table(lines, i, to) {
    const node = make("table", to);
    const row = (line, tag) => { const tr = make("tr", node); cells(line).forEach((c) => inline(c, make(tag, tr))); };
    row(lines[i], "th");
    for (i += 2; i < lines.length && lines[i].includes("|"); i++) row(lines[i], "td");
    return i;
  }

  return function render(text, to) {
    to.replaceChildren();
    const lines = text.split("\n");
    for (let i = 0; i < lines.length;) {
      const line = lines[i];
      let m;
      if ((m = fence.exec(line))) {
        const code = [];
        const closes = new RegExp("^\\s*" + m[2][0] + "{" + m[2].length + ",}\\s*$");
        for (i++; i < lines.length && !closes.test(lines[i]); i++) code.push(lines[i]);
        i++;
        codeBlock(m[3], code.join("\n"), to);
      } else if ((m = /^(#{1,6})\s+(.*)$/.exec(line))) {
        inline(m[2], make("h" + Math.min(m[1].length + 2, 5), to)); i++;
      } else if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(line)) {
        make("hr", to); i++;
      } else if (item.test(line)) {
        i = list(lines, i, to);
      } else if (/^\s*>/.test(line)) {
        const quote = [];
        for (; i < lines.length && /^\s*>/.test(lines[i]); i++) quote.push(lines[i].replace(/^\s*>\s?/, ""));
        inline(quote.join("\n"), make("blockquote", to));
      } else if (line.includes("|") && /^\s*\|?\s*:?-{2,}[\s|:-]*$/.test(lines[i + 1] || "") && lines[i + 1].includes("|")) {
        i = table(lines, i, to);
      } else if (!line.trim()) {
        i++;
      } else {
        const words = [];
        for (; i < lines.length && lines[i].trim() && !fence.test(lines[i]) && !item.test(lines[i]) && !/^(#{1,6}\s|\s*>)/.test(lines[i]); i++) words.push(lines[i]);
        if (!words.length) words.push(lines[i++]);
        const p = make("p", to);
        words.forEach((w, n) => { if (n) make("br", p); inline(w, p); });
      }
    }
  };
})();

function copyText(text, button) {
  const label = button.lastChild.textContent;
  const say = (word) => { button.lastChild.textContent = word; setTimeout(() => { button.lastChild.textContent = label; }, 1400); };
  if (navigator.clipboard) { navigator.clipboard.writeText(text).then(() => say("Copied"), () => say("Not allowed")); return; }
  // Plain HTTP from another machine has no clipboard interface.
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  say(document.execCommand("copy") ? "Copied" : "Not allowed");
  area.remove();
}
