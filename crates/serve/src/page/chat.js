// The page's state lives in localStorage: "herd.chats" and "herd.settings". Nothing leaves for any host but this one.
const $ = (id) => document.getElementById(id);
const DEFAULTS = { system: "", temperature: 0.7, top_p: 0.95, min_p: 0, repetition_penalty: 1, top_k: 0, max_tokens: 512, seed: "", key: "", theme: "system", folded: false };
const IDEAS = ["Explain how a bicycle stays upright", "Write a function that reverses a list", "Tell a story in three sentences"];
const LLAMA = document.querySelector(".brand path").getAttribute("d");

const load = (name, otherwise) => { try { return JSON.parse(localStorage.getItem(name)) ?? otherwise; } catch { return otherwise; } };
const settings = { ...DEFAULTS, ...load("herd.settings", {}) };
let chats = load("herd.chats", []);
let now = chats[0] ?? null;      // the conversation that is shown
let running = null;              // { chat, controller } while an answer streams
let follow = true;               // keep the end in view
let draft = new Map();           // unsent text by conversation

function keep() {
  try {
    localStorage.setItem("herd.chats", JSON.stringify(chats));
    localStorage.setItem("herd.settings", JSON.stringify(settings));
  } catch { toast("This browser has no room left for conversations; delete some."); }
}
function toast(text, undo) {
  const [words, button] = $("toast").children, hide = () => $("toast").classList.remove("shown");
  words.textContent = text;
  button.hidden = !undo;
  button.onclick = () => { hide(); undo(); };
  $("toast").classList.add("shown");
  clearTimeout(toast.timer);
  toast.timer = setTimeout(hide, undo ? 8000 : 3500);
}
function element(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
}
function icon(path) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const d = document.createElementNS("http://www.w3.org/2000/svg", "path");
  d.setAttribute("d", path);
  svg.append(d);
  return svg;
}
function tool(label, path, act) {
  const button = element("button");
  button.type = "button";
  button.append(icon(path), element("span", "", label));
  button.addEventListener("click", () => act(button));
  return button;
}

// ---- the list of conversations ----
function showChats() {
  const day = 86400e3, start = new Date().setHours(0, 0, 0, 0);
  const group = (t) => t >= start ? "Today" : t >= start - day ? "Yesterday" : t >= start - 7 * day ? "This week" : "Earlier";
  const nodes = [];
  let last = "";
  // A few conversations need no search.
  $("filter").hidden = chats.length < 8 && !$("filter").value;
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = (chat) => [chat.title, ...chat.turns.map((t) => t.content)].join(" ").toLowerCase();
  const found = words.length ? chats.filter((c) => { const all = text(c); return words.every((w) => all.includes(w)); }) : chats;
  if (!found.length && words.length) nodes.push(element("p", "none", "No conversation has these words."));
  for (const chat of found) {
    const g = group(chat.touched);
    if (g !== last) { nodes.push(element("h3", "", g)); last = g; }
    const row = element("div", "chat" + (chat === now ? " now" : ""));
    const open = element("button", "", chat.title);
    if (chat === now) open.setAttribute("aria-current", "true");
    open.addEventListener("click", () => { select(chat); if (narrow()) fold(true); });
    const drop = element("button", "icon drop");
    drop.setAttribute("aria-label", "Delete “" + chat.title + "”");
    drop.append(icon("M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13"));
    drop.addEventListener("click", () => remove(chat));
    row.append(open, drop);
    nodes.push(row);
  }
  $("chats").replaceChildren(...nodes);
  $("title").textContent = now?.title ?? "New conversation";
  $("rename").hidden = $("save").hidden = !now;
  document.title = (now ? now.title + " · " : "") + "Herd";
}
function select(chat) {
  draft.set(now, $("input").value);
  now = chat;
  $("input").value = draft.get(now) ?? "";
  follow = true;
  fit();
  showChats();
  showThread();
  if (!narrow()) $("input").focus();
}
function remove(chat) {
  if (running?.chat === chat) running.controller.abort();
  const at = chats.indexOf(chat), shown = now === chat;
  chats = chats.filter((c) => c !== chat);
  if (shown) now = null;
  const show = () => { keep(); showChats(); showThread(); };
  show();
  toast("Deleted “" + chat.title + "”", () => {
    chats.splice(at, 0, chat);
    if (shown && !now) now = chat;
    show();
  });
}

function rename() {
  const title = $("title");
  if (!now || title.isContentEditable) return;
  title.contentEditable = "plaintext-only";
  title.focus();
  getSelection().selectAllChildren(title);
}
function renamed(keepIt) {
  const title = $("title"), text = title.textContent.replace(/\s+/g, " ").trim().slice(0, 80);
  if (!title.isContentEditable) return;
  title.contentEditable = "false";
  if (keepIt && now && text) now.title = text;
  keep();
  showChats();
}
function save() {
  const who = { user: "You", assistant: $("model").textContent };
  const text = "# " + now.title + "\n\n" + now.turns.map((t) => "**" + who[t.role] + "**\n\n" + t.content + "\n").join("\n");
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/markdown" }));
  link.download = now.title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40) + ".md";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// ---- the thread ----
function showThread() {
  const thread = $("thread");
  if (!now) {
    const welcome = element("div", "welcome");
    const svg = icon(LLAMA);
    const ideas = element("div", "ideas");
    for (const idea of IDEAS) {
      const button = element("button", "", idea);
      button.addEventListener("click", () => send(idea));
      ideas.append(button);
    }
    welcome.append(svg, element("h2", "", "What shall we talk about?"), element("p", "", "Everything stays on this server and in this browser."), ideas);
    thread.replaceChildren(welcome);
  } else {
    thread.replaceChildren(...now.turns.map(turnNode));
  }
  busy();
  scrollDown();
}
function turnNode(turn, index) {
  const node = element("article", "turn " + turn.role);
  const text = element("div", "text");
  const tools = element("div", "tools");
  node.setAttribute("aria-label", turn.role === "user" ? "You" : "Answer");
  node.append(text, tools);
  node.turn = turn;
  if (turn.role === "user") {
    text.textContent = turn.content;
    tools.append(
      tool("Edit", "M4 20h4L19 9l-4-4L4 16z", () => edit(index)),
      tool("Copy", "M9 9h10v10H9zM5 15V5h10", (b) => copyText(turn.content, b)),
    );
  } else fill(node);
  return node;
}
// Draws an answer as far as it has come.
function fill(node) {
  const { turn } = node, [text, tools] = node.children;
  const streaming = running?.turn === turn;
  if (turn.content) markdown(turn.content, text);
  else {
    text.replaceChildren();
    if (streaming) { const dots = element("span", "waiting"); dots.setAttribute("aria-label", "Waiting"); dots.append(element("i"), element("i"), element("i")); text.append(dots); }
  }
  node.querySelector(".error")?.remove();
  if (turn.error) {
    const error = element("div", "error");
    error.setAttribute("role", "alert");
    const again = element("button", "", "Retry");
    again.addEventListener("click", () => retry());
    error.append(element("span", "", turn.error), again);
    tools.before(error);
  }
  tools.replaceChildren();
  if (!streaming && turn.content) tools.append(tool("Copy", "M9 9h10v10H9zM5 15V5h10", (b) => copyText(turn.content, b)));
  if (!streaming && turn.content && ["length", "stopped"].includes(turn.end) && now.turns.at(-1) === turn) tools.append(tool("Continue", "M5 5v14l9-7zM18 5v14", () => answer(turn)));
  if (!streaming && !turn.error && now.turns.at(-1) === turn) tools.append(tool("Retry", "M4 12a8 8 0 1 1 2.5 5.8M4 20v-5h5", () => retry()));
  if (turn.tokens) {
    const rate = turn.seconds > 0 && turn.tokens > 1 ? " · " + ((turn.tokens - 1) / turn.seconds).toFixed(1) + " tokens/s" : "";
    const wait = turn.wait ? " · first after " + turn.wait.toFixed(turn.wait < 1 ? 2 : 1) + " s" : "";
    const end = { length: " · stopped at the longest answer", stopped: " · stopped" }[turn.end] ?? "";
    const left = turn.forgot ? " · the first " + turn.forgot + " messages no longer fit and were left out" : "";
    tools.append(element("span", "stats", turn.tokens + (turn.tokens === 1 ? " token" : " tokens") + rate + wait + end + left));
  }
}
function scrollDown() { if (follow) $("scroll").scrollTop = $("scroll").scrollHeight; }
function busy() {
  const on = running !== null;
  $("app").classList.toggle("busy", on);
  $("send").disabled = !on && !$("input").value.trim();
  $("send").setAttribute("aria-label", on ? "Stop" : "Send");
  $("send").title = on ? "Stop (Esc)" : "Send (Enter)";
}

// ---- asking ----
function send(text) {
  text = text.trim();
  if (!text || running) return;
  if (!now) { now = { id: Date.now(), title: text.replace(/\s+/g, " ").slice(0, 60), turns: [] }; draft.delete(null); }
  now.touched = Date.now();
  now.turns.push({ role: "user", content: text });
  chats = [now, ...chats.filter((c) => c !== now)];
  $("input").value = "";
  fit();
  answer();
}
function retry() {
  if (running || !now) return;
  if (now.turns.at(-1)?.role === "assistant") now.turns.pop();
  answer();
}
function edit(index) {
  if (running) return;
  $("input").value = now.turns[index].content;
  now.turns.length = index;
  if (!index) { chats = chats.filter((c) => c !== now); now = null; }
  keep();
  fit();
  showChats();
  showThread();
  $("input").focus();
}
// What is sent: all of the conversation but its first `forgot` messages; `begun` is an answer that is to go on.
function request(chat, forgot, begun) {
  const messages = chat.turns.filter((t) => t === begun || t !== running.turn).slice(forgot).map(({ role, content }) => ({ role, content }));
  if (settings.system.trim()) messages.unshift({ role: "system", content: settings.system });
  const body = { messages, stream: true, stream_options: { include_usage: true } };
  for (const name of ["temperature", "top_p", "min_p", "repetition_penalty", "top_k", "max_tokens"]) body[name] = Number(settings[name]);
  if (begun) body.continue_final_message = true;
  if (settings.seed !== "") body.seed = Number(settings.seed);
  return body;
}
async function answer(begun) {
  if (running) return;
  const chat = now, controller = new AbortController();
  const turn = begun ?? { role: "assistant", content: "", tokens: 0, seconds: 0 };
  if (!begun) chat.turns.push(turn);
  const before = { tokens: turn.tokens, seconds: turn.seconds };
  delete turn.end;
  delete turn.error;
  running = { chat, turn, controller };
  follow = true;
  keep();
  showChats();
  showThread();
  const asked = performance.now();
  let first = 0, drawing = 0;
  const redraw = () => {
    drawing = 0;
    const node = [...$("thread").children].find((n) => n.turn === turn);
    if (node) { fill(node); scrollDown(); }
  };
  try {
    const headers = { "Content-Type": "application/json", ...(settings.key && { Authorization: "Bearer " + settings.key }) };
    let response;
    for (let forgot = turn.forgot ?? 0; ; forgot += 2) {
      const body = JSON.stringify(request(chat, forgot, begun));
      response = await fetch("/v1/chat/completions", { method: "POST", headers, body, signal: controller.signal });
      if (response.ok) { if (forgot) turn.forgot = forgot; break; }
      const problem = await response.json().catch(() => null);
      // A conversation that outgrew the model goes on without its beginning.
      const more = chat.turns.length - 1 - forgot > 2;
      if (problem?.error?.code !== "context_length_exceeded" || !more) throw new Error(problem?.error?.message ?? "The server answered " + response.status + ".");
    }
    for await (const data of events(response.body)) {
      if (data === "[DONE]") { turn.done = true; break; }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      if (chunk.usage) turn.tokens = before.tokens + chunk.usage.completion_tokens;
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) {
        first ||= performance.now();
        turn.wait ||= (first - asked) / 1000;
        turn.content += choice.delta.content;
        turn.tokens++;
      }
      if (choice?.finish_reason) turn.end = choice.finish_reason;
      if (first) turn.seconds = before.seconds + (performance.now() - first) / 1000;
      drawing ||= requestAnimationFrame(redraw);
    }
    if (!turn.done) throw new Error("The connection to the server was lost.");
    if (!turn.content) turn.error = "The model ended its answer at once.";
  } catch (error) {
    if (controller.signal.aborted) turn.end = "stopped";
    else turn.error = error instanceof TypeError ? "The server cannot be reached." : error.message;
  }
  delete turn.done;
  running = null;
  cancelAnimationFrame(drawing);
  keep();
  if (chat === now) { redraw(); }
  busy();
}
// The data of server-sent events.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
  }
}
function stop() { running?.controller.abort(); }

// ---- settings, theme, layout ----
const dark = matchMedia("(prefers-color-scheme: dark)");
function applyTheme() {
  const chosen = settings.theme === "system" ? (dark.matches ? "dark" : "light") : settings.theme;
  document.documentElement.dataset.theme = chosen;
  $("theme-name").textContent = { system: "System theme", light: "Light theme", dark: "Dark theme" }[settings.theme];
}
const FIELDS = Object.keys(DEFAULTS).filter((name) => $("s-" + name));
function showSettings() {
  for (const name of FIELDS) {
    const field = $("s-" + name);
    field.value = settings[name];
    const shown = document.querySelector(`output[for="s-${name}"]`);
    if (shown) shown.textContent = Number(settings[name]).toFixed(2);
  }
}
for (const name of FIELDS) {
  $("s-" + name).addEventListener("input", (event) => {
    const field = event.target;
    if (field.type !== "text" && field.validity && !field.validity.valid) return;
    const number = field.type === "range" || field.type === "number";
    settings[name] = number && field.value !== "" ? Number(field.value) : field.value;
    if (number && field.value === "" && name !== "seed") settings[name] = DEFAULTS[name];
    const shown = document.querySelector(`output[for="s-${name}"]`);
    if (shown) shown.textContent = Number(settings[name]).toFixed(2);
    keep();
  });
}
const narrow = () => matchMedia("(max-width: 760px)").matches;
function fold(on) {
  $("app").classList.toggle("folded", on);
  $("side").inert = on;
  if (!narrow()) { settings.folded = on; keep(); }
}
function fit() {
  const input = $("input");
  input.style.height = "auto";
  input.style.height = input.scrollHeight + "px";
  busy();
}

$("composer").addEventListener("submit", (event) => { event.preventDefault(); running ? stop() : send($("input").value); });
$("input").addEventListener("input", fit);
$("input").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); if (!running) send($("input").value); }
});
$("filter").addEventListener("input", showChats);
$("filter").addEventListener("keydown", (event) => { if (event.key === "Escape") { event.stopPropagation(); $("filter").value = ""; showChats(); $("input").focus(); } });
$("new").addEventListener("click", () => { select(null); if (narrow()) fold(true); $("input").focus(); });
$("rename").addEventListener("click", rename);
$("title").addEventListener("dblclick", rename);
$("title").addEventListener("blur", () => renamed(true));
$("title").addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === "Escape") { event.preventDefault(); event.stopPropagation(); renamed(event.key === "Enter"); $("input").focus(); }
});
$("save").addEventListener("click", save);
$("side-close").addEventListener("click", () => fold(true));
$("side-open").addEventListener("click", () => fold(false));
$("shade").addEventListener("click", () => fold(true));
$("open-settings").addEventListener("click", () => { showSettings(); $("settings").showModal(); });
$("settings").addEventListener("click", (event) => { if (event.target === $("settings")) $("settings").close(); });
$("defaults").addEventListener("click", () => { for (const name of FIELDS) if (name !== "key") settings[name] = DEFAULTS[name]; showSettings(); keep(); });
$("erase").addEventListener("click", () => {
  if (!confirm("Delete all conversations from this browser?")) return;
  stop();
  chats = [];
  now = null;
  keep();
  showChats();
  showThread();
  $("settings").close();
});
$("theme").addEventListener("click", () => {
  settings.theme = { system: "light", light: "dark", dark: "system" }[settings.theme];
  applyTheme();
  keep();
});
dark.addEventListener("change", applyTheme);
$("scroll").addEventListener("scroll", () => {
  const s = $("scroll"), away = s.scrollHeight - s.scrollTop - s.clientHeight;
  follow = away < 40;
  $("jump").hidden = away < 200;
});
$("jump").addEventListener("click", () => { follow = true; scrollDown(); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running && !$("settings").open) { event.preventDefault(); stop(); }
  if (event.key === "F2") { event.preventDefault(); rename(); }
  if (event.altKey && event.code === "KeyN") { event.preventDefault(); $("new").click(); }
  const typing = /^(TEXTAREA|INPUT)$/.test(document.activeElement?.tagName) || document.activeElement?.isContentEditable;
  if (event.key === "/" && !typing && !$("settings").open) { event.preventDefault(); $("input").focus(); }
});

fetch("/v1/models", { headers: settings.key ? { Authorization: "Bearer " + settings.key } : {} })
  .then((r) => r.json())
  .then((list) => { $("model").textContent = list.data?.[0]?.id ?? "needs a key"; $("s-max_tokens").max = list.data?.[0]?.context_length ?? ""; })
  .catch(() => { $("model").textContent = "not reachable"; });
applyTheme();
fold(narrow() || settings.folded);
showChats();
showThread();
fit();
if (!narrow()) $("input").focus();
