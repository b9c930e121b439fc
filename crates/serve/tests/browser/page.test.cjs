// Drives the chat page in headless Chromium. See README.md.
"use strict";
const assert = require("node:assert");
const { spawn } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");
const { chromium } = require("playwright-core");

const root = path.join(__dirname, "../../../..");
const shots = process.argv[2];

function startServer(...args) {
  const server = spawn(path.join(root, "target/release/examples/tiny_server"), ["0", ...args]);
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.stderr.on("data", (data) => {
      const address = /http:\/\/\S+/.exec(data);
      if (address) resolve({ address: address[0], stop: () => server.kill("SIGKILL") });
    });
  });
}

const SAMPLE = `Here is a function that reverses a list in place, and why it works.

\`\`\`rust
fn reverse<T>(list: &mut [T]) {
    let n = list.len();
    for i in 0..n / 2 {
        list.swap(i, n - 1 - i); // each pair once
    }
}
\`\`\`

Three things to notice:

1. The loop stops at **half** of the length, so no pair is swapped back.
2. \`swap\` needs no temporary copy.
3. An odd list keeps its *middle* element.

| list | swaps |
|------|-------|
| 4    | 2     |
| 5    | 2     |

> The empty list takes no step at all.`;

async function main() {
  const server = await startServer();
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
  const context = await browser.newContext({ viewport: { width: 1180, height: 800 } });
  const page = await context.newPage();
  const foreign = [], failures = [];
  page.on("request", (r) => { if (!r.url().startsWith(server.address) && !r.url().startsWith("data:")) foreign.push(r.url()); });
  page.on("pageerror", (e) => failures.push(String(e)));
  const shot = async (name) => { if (shots) await page.screenshot({ path: path.join(shots, name + ".png") }); };
  const check = (name) => console.log("ok  " + name);
  const answers = page.locator(".turn.assistant");
  const idle = () => page.waitForSelector("#app:not(.busy)");
  const setting = async (name, value) => {
    await page.click("#open-settings");
    await page.fill("#s-" + name, value);
    await page.keyboard.press("Escape");
  };

  await page.goto(server.address);
  await page.waitForFunction(() => document.getElementById("model").textContent === "tiny");
  assert(await page.locator("#send").isDisabled());
  await shot("welcome");
  check("the page opens, names the model and waits for a message");

  await setting("max_tokens", "40");
  await page.fill("#input", "the cat sat on the mat");
  await page.keyboard.press("Enter");
  await idle();
  assert.match(await answers.last().locator(".stats").textContent(), /^\d+ tokens? · [\d.]+ tokens\/s/);
  const first = await page.evaluate(() => JSON.parse(localStorage["herd.chats"])[0].turns);
  assert.deepEqual(first.map((t) => t.role), ["user", "assistant"]);
  assert(first[1].content.length > 0);
  check("Enter sends, the answer streams in and its speed is shown");

  await setting("max_tokens", "3000");
  await setting("temperature", "0");
  await page.fill("#input", "go on");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelectorAll(".turn.assistant")[1]?.querySelector(".text").textContent.length > 20);
  await page.keyboard.press("Escape");
  await idle();
  const stopped = await page.evaluate(() => JSON.parse(localStorage["herd.chats"])[0].turns[3]);
  assert.equal(stopped.end, "stopped");
  assert(stopped.tokens < 3000 && !stopped.error);
  check("Escape stops a streaming answer and keeps what came");

  await setting("max_tokens", "30");
  await answers.last().getByText("Retry").click();
  await idle();
  const retried = await page.evaluate(() => JSON.parse(localStorage["herd.chats"])[0].turns);
  assert.equal(retried.length, 4);
  assert(retried[3].tokens <= 31 && retried[3].end !== "stopped");
  check("Retry replaces the last answer");

  await setting("temperature", "0.7");
  await page.evaluate(() => { now.turns.at(-1).end = "length"; showThread(); });
  await answers.last().getByText("Continue").click();
  await idle();
  const longer = await page.evaluate(() => JSON.parse(localStorage["herd.chats"])[0].turns);
  assert.equal(longer.length, 4);
  assert(longer[3].content.startsWith(retried[3].content) && longer[3].tokens > retried[3].tokens);
  check("Continue makes the same answer longer");

  await page.keyboard.press("Alt+n");
  await page.locator(".ideas button").first().click();
  await idle();
  assert.equal(await page.locator(".chat").count(), 2);
  await page.locator(".chat").nth(1).locator("button").first().click();
  assert.equal(await page.locator(".turn").count(), 4);
  assert.equal(await page.textContent("#title"), "the cat sat on the mat");
  await page.locator(".turn.user").first().hover();
  await page.locator(".turn.user").first().getByText("Edit").click();
  assert.equal(await page.inputValue("#input"), "the cat sat on the mat");
  await page.fill("#input", "the dog sat on the log");
  await page.click("#send");
  await idle();
  assert.equal(await page.locator(".turn").count(), 2);
  check("conversations are listed, switched between and edited");

  await page.keyboard.press("F2");
  await page.keyboard.type("A dog  and its log");
  await page.keyboard.press("Enter");
  assert.equal(await page.locator(".chat.now button").first().textContent(), "A dog and its log");
  await page.keyboard.press("F2");
  await page.keyboard.type("no");
  await page.keyboard.press("Escape");
  assert.equal(await page.textContent("#title"), "A dog and its log");
  const [file] = await Promise.all([page.waitForEvent("download"), page.click("#save")]);
  assert.equal(file.suggestedFilename(), "A-dog-and-its-log.md");
  assert.match(fs.readFileSync(await file.path(), "utf8"), /^# A dog and its log\n\n\*\*You\*\*\n\nthe dog sat on the log\n/);
  check("a conversation is renamed and saved as a file");

  await page.reload();
  assert.equal(await page.textContent("#title"), "A dog and its log");
  assert.equal(await page.locator(".chat").count(), 2);
  assert.equal(await page.locator(".turn").count(), 2);
  await page.locator(".chat.now").hover();
  await page.locator(".chat.now .drop").click();
  assert.equal(await page.locator(".chat").count(), 1);
  await page.waitForTimeout(300);
  await shot("undo");
  await page.locator(".toast button").click();
  assert.equal(await page.locator(".chat").count(), 2);
  assert.equal(await page.textContent("#title"), "A dog and its log");
  await page.locator(".chat.now").hover();
  await page.locator(".chat.now .drop").click();
  assert.equal(await page.locator(".chat").count(), 1);
  check("a reload keeps everything, and a conversation can be deleted, and brought back");

  await page.evaluate(() => {
    const chats = Array.from({ length: 12 }, (_, i) => ({ id: i, title: "Talk " + i, touched: Date.now(), turns: [{ role: "user", content: i === 7 ? "About Llamas" : "x" }] }));
    localStorage["herd.chats"] = JSON.stringify(chats);
  });
  await page.reload();
  await page.fill("#filter", "llamas about");
  assert.deepEqual(await page.locator(".chat").allTextContents(), ["Talk 7"]);
  await shot("search");
  await page.keyboard.press("Escape");
  assert.equal(await page.locator(".chat").count(), 12);
  check("many conversations are searched by their words");

  // More than the context: whole exchanges of the beginning are left out until the rest fits.
  await page.evaluate(() => {
    const turns = Array.from({ length: 40 }, (_, i) => ({ role: i % 2 ? "assistant" : "user", content: "the cat sat on the mat and the dog sat on the log ".repeat(40) }));
    localStorage["herd.chats"] = JSON.stringify([{ id: 1, title: "Long", touched: Date.now(), turns }]);
  });
  await page.reload();
  await page.fill("#input", "and now?");
  await page.keyboard.press("Enter");
  await idle();
  const last = await page.evaluate(() => now.turns.at(-1));
  assert(!last.error && last.forgot > 0 && last.forgot % 2 === 0, JSON.stringify(last));
  await shot("forgot");
  assert.match(await answers.last().textContent(), /no longer fit and were left out/);
  check("a conversation that outgrew the model goes on without its beginning");

  const hostile = "<img src=x onerror=\"window.broken=1\"><script>window.broken=1</script> [x](javascript:window.broken=1)";
  await page.evaluate(([sample, hostile]) => {
    const turns = [
      { role: "user", content: "How do I reverse a list in Rust without a copy? " + hostile },
      { role: "assistant", content: sample + "\n\n" + hostile, tokens: 187, seconds: 4.2, end: "stop" },
    ];
    const chats = [{ id: 1, title: "Reverse a list in Rust", touched: Date.now(), turns }, ...["Words for snow", "Trip to Lisbon", "Sourdough that rises"].map((title, i) => ({ id: 2 + i, title, touched: Date.now() - i * 9e7, turns: [] }))];
    localStorage["herd.chats"] = JSON.stringify(chats);
  }, [SAMPLE, hostile]);
  await page.reload();
  assert.equal(await page.locator(".code pre").count(), 1);
  assert.equal(await page.locator(".code .remark").textContent(), "// each pair once");
  assert.deepEqual(await page.locator(".code .word").allTextContents(), ["fn", "mut", "let", "for", "in"]);
  assert.equal(await page.locator(".code pre").textContent(), SAMPLE.split("```")[1].slice(5, -1));
  assert.equal(await page.locator(".text ol li").count(), 3);
  assert.equal(await page.locator(".text td").count(), 4);
  assert.equal(await page.locator(".text img, .text script, .text a").count(), 0);
  assert.equal(await page.evaluate(() => window.broken), undefined);
  check("Markdown becomes code blocks, lists and tables; HTML in an answer stays text");

  await page.evaluate(() => {
    const chats = JSON.parse(localStorage["herd.chats"]);
    chats[0].turns[0].content = "How do I reverse a list in Rust without a copy?";
    chats[0].turns[1].content = chats[0].turns[1].content.split("\n\n<img")[0];
    localStorage["herd.chats"] = JSON.stringify(chats);
  });
  await page.emulateMedia({ colorScheme: "light" });
  await page.reload();
  await shot("light");
  await page.emulateMedia({ colorScheme: "dark" });
  assert.equal(await page.getAttribute("html", "data-theme"), "dark");
  await shot("dark");
  await page.click("#theme");
  assert.equal(await page.getAttribute("html", "data-theme"), "light");
  await page.click("#open-settings");
  await shot("settings");
  await page.keyboard.press("Escape");
  check("the theme follows the system or the choice");

  await page.route("**/v1/chat/completions", (route) => route.fulfill({ status: 429, headers: { "Retry-After": "1" }, json: { error: { message: "the queue is full: 3 requests have no token of their answers yet; try again later" } } }));
  await page.fill("#input", "hello");
  await page.keyboard.press("Enter");
  await idle();
  assert.match(await page.textContent(".error"), /queue is full/);
  await shot("error");
  await page.unroute("**/v1/chat/completions");
  await page.route("**/v1/chat/completions", (route) => route.abort());
  await page.locator(".error button").click();
  await idle();
  assert.match(await page.textContent(".error"), /cannot be reached/);
  await page.unroute("**/v1/chat/completions");
  await page.locator(".error button").click();
  await idle();
  assert.equal(await page.locator(".error").count(), 0);
  await setting("temperature", "2");
  await page.evaluate(() => { settings.temperature = 9; });
  await page.fill("#input", "hot");
  await page.keyboard.press("Enter");
  await idle();
  assert.match(await page.textContent(".error"), /`temperature` must be a number between 0 and 2/);
  check("an error is shown with its reason, and a retry recovers");

  await page.setViewportSize({ width: 390, height: 844 });
  await page.evaluate(() => { settings.temperature = 0.7; settings.theme = "light"; keep(); });
  await page.locator(".chat").nth(0).locator("button").first().waitFor({ state: "attached" });
  await page.reload();
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  assert(width <= 390, "nothing is wider than the phone: " + width);
  await page.evaluate(() => { document.getElementById("scroll").scrollTop = 0; });
  await page.waitForSelector("#jump", { state: "visible" });
  const covered = await page.evaluate(() => {
    const button = document.getElementById("jump").getBoundingClientRect();
    const apart = (b) => b.right <= button.left || b.left >= button.right || b.bottom <= button.top || b.top >= button.bottom;
    return ["scroll", "input", "send"].filter((id) => !apart(document.getElementById(id).getBoundingClientRect()));
  });
  assert.deepEqual(covered, [], "the way to the end covers nothing");
  await shot("phone");
  await page.click("#side-open");
  await page.waitForTimeout(300);
  await shot("phone-side");
  await page.locator(".chat").nth(1).locator("button").first().click();
  assert(await page.locator("#app.folded").count(), "the list folds away after a choice");
  check("it fits a phone");

  assert.deepEqual(foreign, []);
  assert.deepEqual(failures, []);
  check("no request to any other host, no error in the page");
  await browser.close();
  server.stop();
}

main().then(() => console.log("all good"), (error) => { console.error(error); process.exit(1); });
