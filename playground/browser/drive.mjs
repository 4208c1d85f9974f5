/**
 * Drives the built page in Chromium as a person would: draws, trains, samples, follows edges, opens
 * and saves. What it shows is measured; pictures go into the folder given, or playground/screenshots.
 */

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import axe from "axe-core";
import { chromium } from "playwright-core";

const HERE = fileURLToPath(new URL("..", import.meta.url));
const DIST = join(HERE, "dist");
const PICTURES = process.argv[2] ?? join(HERE, "screenshots");
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css" };
const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];

const server = createServer((request, response) => {
  const path = normalize(decodeURIComponent(new URL(request.url, "http://page").pathname)).replace(/\/$/, "/index.html");
  try {
    const content = readFileSync(join(DIST, path));
    response.writeHead(200, { "content-type": TYPES[extname(path)] ?? "application/octet-stream" }).end(content);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));
const HOME = `http://127.0.0.1:${server.address().port}/`;

mkdirSync(PICTURES, { recursive: true });
const profile = mkdtempSync(join(tmpdir(), "playground-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: FLAGS,
  viewport: { width: 1400, height: 1000 },
  acceptDownloads: true,
});

const problems = [];
let passed = 0;

/** A fresh page, whose console must stay silent and which asks nobody but its own server. */
async function open(hash = "", { width = 1400, height = 1000, dark = false, still = true, init = null } = {}) {
  const page = await context.newPage();
  await page.setViewportSize({ width, height });
  await page.emulateMedia({ colorScheme: dark ? "dark" : "light", reducedMotion: still ? "reduce" : "no-preference" });
  page.on("console", (line) => ["error", "warning"].includes(line.type()) && problems.push(line.text()));
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("request", (request) => request.url().startsWith(HOME) || /^(data|blob):/.test(request.url()) || problems.push(request.url()));
  if (init !== null) await page.addInitScript(init);
  await page.goto(HOME + hash);
  await page.waitForSelector("#tiles canvas");
  return page;
}

const message = (page) => page.textContent("#message");

async function trained(page, seconds = 150) {
  await page.waitForFunction(() => /^Trained for/.test(document.querySelector("#message").textContent), null, { timeout: seconds * 1000 });
}

/** The bytes of what a button saves. */
async function saved(page, selector) {
  const [file] = await Promise.all([page.waitForEvent("download"), page.click(selector)]);
  return readFileSync(await file.path(), "utf8");
}

const rows = (text) => text.trim().split("\n").slice(1).map((line) => line.split(",").map(Number));

/** Energy distance, written once more. */
function energyDistance(x, y) {
  const mean = (a, b) => a.reduce((sum, p) => sum + b.reduce((s, q) => s + Math.hypot(p[0] - q[0], p[1] - q[1]), 0), 0) / (a.length * b.length);
  return 2 * mean(x, y) - mean(x, x) - mean(y, y);
}

async function drawLetter(page) {
  const box = await page.locator("#data canvas").boundingBox();
  const at = (x, y) => [box.x + box.width * x, box.y + box.height * y];
  for (const stroke of [[[0.3, 0.2], [0.3, 0.8]], [[0.72, 0.2], [0.3, 0.52], [0.72, 0.8]]]) {
    await page.mouse.move(...at(...stroke[0]));
    await page.mouse.down();
    for (const place of stroke.slice(1)) await page.mouse.move(...at(...place), { steps: 12 });
    await page.mouse.up();
  }
}

async function noSideways(page) {
  const [inner, whole] = await page.evaluate(() => [document.documentElement.clientWidth, document.documentElement.scrollWidth]);
  assert.ok(whole <= inner, `the page is ${whole} pixels wide in a window of ${inner}`);
}

/** Least contrast of text with what is behind it, by WCAG 2. */
async function leastContrast(page) {
  return page.evaluate(() => {
    const parse = (text) => text.match(/[\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
    let least = [Infinity, ""];
    for (const element of document.querySelectorAll("body *")) {
      const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
      if (!text || !element.getClientRects().length || element.disabled) continue;
      const style = getComputedStyle(element);
      const front = parse(element.namespaceURI.endsWith("svg") ? style.fill : style.color);
      let behind = element;
      while (behind && (parse(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
      const back = behind === null ? [255, 255, 255] : parse(getComputedStyle(behind).backgroundColor);
      const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
      const contrast = (a + 0.05) / (b + 0.05);
      if (contrast < least[0]) least = [contrast, `${element.tagName} '${element.textContent.trim().slice(0, 30)}'`];
    }
    return least;
  });
}

/** What axe-core finds that keeps somebody out. */
async function accessible(page) {
  await page.evaluate(axe.source);
  const found = await page.evaluate(async () => (await globalThis.axe.run(document)).violations.map(({ id, nodes }) => `${id}: ${nodes[0].html}`));
  assert.deepEqual(found, []);
}

async function check(name, run) {
  const began = performance.now();
  try {
    await run();
    assert.deepEqual(problems.splice(0), [], "the console is silent and nothing is fetched from elsewhere");
    passed++;
    console.log(`ok   ${name} (${((performance.now() - began) / 1000).toFixed(1)} s)`);
  } catch (error) {
    process.exitCode = 1;
    console.log(`FAIL ${name}: ${error.message}`);
  }
  for (const page of context.pages().slice(1)) await page.close();
}

await check("all files together have less than 100 kB", async () => {
  const bytes = readdirSync(DIST).reduce((sum, name) => sum + statSync(join(DIST, name)).size, 0);
  assert.ok(bytes < 100_000, `${bytes} bytes`);
});

let letterLink = "";
let kanFile = "";

await check("a drawn letter comes back as samples within ten seconds of training", async () => {
  const page = await open();
  await page.click("label.tile:first-of-type");
  await drawLetter(page);
  assert.match(await page.textContent("#data .facts"), /\d+ of at most 2,000 points/);
  const began = performance.now();
  await page.click("#train");
  await page.waitForFunction(() => Number(document.querySelector("#kan canvas").dataset.distance) > 0 && Number(document.querySelector("#mlp canvas").dataset.distance) > 0);
  console.log(`     first samples after ${((performance.now() - began) / 1000).toFixed(1)} s`);
  assert.ok(await page.isEnabled("#kan .json"), "what is learned so far can be saved");
  await page.click("#train");
  assert.equal(await page.textContent("#train"), "Go on");
  await page.waitForTimeout(600); // a report may be on its way
  const step = await page.textContent("#kan .note");
  await page.waitForTimeout(600);
  assert.equal(await page.textContent("#kan .note"), step);
  await page.click("#train");
  await trained(page);
  console.log(`     ${await message(page)}`);
  letterLink = await page.evaluate(() => location.hash);
  const drawing = JSON.parse((kanFile = await saved(page, "#kan .json"))).data.points;
  const left = drawing.map(([x, y]) => [-x, y]);
  for (const side of ["kan", "mlp"]) {
    const samples = rows(await saved(page, `#${side} .csv`));
    assert.equal(samples.length, 500);
    const [own, mirrored] = [energyDistance(samples, drawing), energyDistance(samples, left)];
    console.log(`     ${side}: energy distance to the drawing ${own.toFixed(4)}, to its mirror image ${mirrored.toFixed(4)}`);
    assert.ok(own < 0.02, `${side}: ${own}`);
    assert.ok(own < mirrored / 5);
  }
  assert.equal(await page.getAttribute("#play", "aria-pressed"), "false"); // less motion is wanted here
  await page.evaluate(() => scrollTo(0, 0));
  await page.screenshot({ path: join(PICTURES, "1400-light.png"), fullPage: true });
});

await check("a link brings back data, training and the chosen edge", async () => {
  const link = `${letterLink.replace("steps=2000", "steps=500")}&edge=1-2-3`;
  const files = [];
  for (let n = 0; n < 2; n++) {
    const page = await open(link);
    await trained(page);
    files.push(JSON.parse(await saved(page, "#kan .json")));
    assert.match(await page.textContent("#edges .detail h3"), /From unit 3 of layer 1 to unit 4 of layer 2/);
    assert.match(await page.evaluate(() => location.hash), /edge=1-2-3/);
    await page.close();
  }
  assert.deepEqual(files[0], files[1]);
  assert.deepEqual(files[0].data, JSON.parse(kanFile).data);
});

await check("loss ends near the floor, and edges are followed by mouse and keyboard", async () => {
  const page = await open("#data=moons&steps=500");
  await page.click("#train");
  await trained(page);
  const label = await page.getAttribute("#loss svg", "aria-label");
  const [kan, mlp, floor] = ["KAN", "MLP", "floor"].map((name) => Number(label.match(new RegExp(`${name} ([\\d.]+)`))[1]));
  assert.ok(kan > floor && kan < floor + 0.1 && mlp > floor && mlp < floor + 0.15, label);
  await page.click(".matrix >> nth=0 >> .edge >> nth=4");
  const first = await page.textContent("#edges .detail h3");
  await page.click("#edges .ways button >> nth=0");
  const second = await page.textContent("#edges .detail h3");
  assert.notEqual(first, second);
  assert.match(second, /layer 2/);
  await page.focus(".edge.chosen");
  await page.keyboard.press("Enter");
  assert.match(await page.textContent("#edges .detail h3"), /the [xy] output/);
  await page.keyboard.press("ArrowLeft");
  await page.keyboard.press("Enter");
  assert.equal(await page.locator(".edge.chosen").count(), 1);
});

await check("at 390 pixels, in the dark", async () => {
  const page = await open("#data=two-spirals&steps=500&trained=1&edge=1-4-4", { width: 390, height: 844, dark: true });
  await trained(page);
  await noSideways(page);
  const [contrast, where] = await leastContrast(page);
  assert.ok(contrast >= 4.5, `${contrast} at ${where}`);
  await accessible(page);
  await page.screenshot({ path: join(PICTURES, "390-dark.png"), fullPage: true });
});

await check("at 390 pixels, in the light, and at 1,400 in the dark", async () => {
  const page = await open("#data=checkerboard&steps=500&trained=1&time=24", { width: 390, height: 844 });
  await trained(page);
  await noSideways(page);
  await page.screenshot({ path: join(PICTURES, "390-light.png"), fullPage: true });
  await page.setViewportSize({ width: 1400, height: 1000 });
  await page.emulateMedia({ colorScheme: "dark" });
  await noSideways(page);
  // What was laid down on the narrow page stands up again: two columns of inputs.
  await page.waitForFunction(() => getComputedStyle(document.querySelector(".matrix")).gridTemplateColumns.split(" ").length === 2);
  await page.waitForTimeout(300);
  await page.screenshot({ path: join(PICTURES, "1400-dark.png"), fullPage: true });
  await page.emulateMedia({ colorScheme: "light" });
  const [contrast, where] = await leastContrast(page);
  assert.ok(contrast >= 4.5, `${contrast} at ${where}`);
});

await check("by keyboard alone", async () => {
  const page = await open("#data=drawing");
  await accessible(page);
  await page.focus("input[value=drawing]");
  await page.keyboard.press("Tab"); // train
  assert.equal(await page.evaluate(() => document.activeElement.id), "train");
  await page.keyboard.press("Enter");
  assert.match(await message(page), /at least 10 points.*none yet/);
  await page.focus("#data canvas");
  await page.keyboard.press("Space");
  await page.focus("#train");
  await page.keyboard.press("Enter");
  assert.match(await message(page), /at least 10 points.*there is one/);
  await page.focus("#data canvas");
  for (let n = 0; n < 12; n++) {
    await page.keyboard.press(n % 2 ? "ArrowRight" : "Shift+ArrowUp");
    await page.keyboard.press("Space");
  }
  await page.keyboard.press("Backspace");
  assert.match(await page.textContent("#data .facts"), /^12 of/);
  await page.selectOption("#steps", "500");
  await page.focus("#train");
  await page.keyboard.press("Enter");
  await trained(page);
  await page.focus("#time");
  await page.keyboard.press("Home");
  await page.waitForFunction(() => /t = 1000 of 1000/.test(document.querySelector("#level").textContent)); // drawn with the next frame
});

await check("by finger", async () => {
  const page = await open("#data=drawing", { width: 390, height: 844 });
  await page.locator("#data canvas").scrollIntoViewIfNeeded();
  const box = await page.locator("#data canvas").boundingBox();
  const finger = await context.newCDPSession(page);
  const touch = (type, x) => finger.send("Input.dispatchTouchEvent", { type, touchPoints: type === "touchEnd" ? [] : [{ x: box.x + box.width * x, y: box.y + box.height / 2 }] });
  await touch("touchStart", 0.2);
  for (let n = 3; n < 9; n++) await touch("touchMove", n / 10);
  await touch("touchEnd");
  await page.waitForFunction(() => parseInt(document.querySelector("#data .facts").textContent) > 50);
});

await check("motion plays from the first samples on", async () => {
  const page = await open("#data=circles", { still: false });
  await page.click("#train");
  assert.equal(await page.getAttribute("#play", "aria-pressed"), "true");
  await page.waitForFunction(() => Number(document.querySelector("#kan canvas").dataset.distance) > 0);
  const places = new Set();
  for (let n = 0; n < 100 && places.size < 4; n++) {
    places.add(await page.textContent("#level"));
    await page.waitForTimeout(200);
  }
  assert.equal(places.size, 4, [...places].join());
});

await check("bad files and many points: a sentence, and nothing is lost", async () => {
  const page = await open(letterLink.replace("trained=1", ""));
  const before = await page.evaluate(() => location.hash);
  const give = async (name, content) => {
    await page.setInputFiles("#file", { name, mimeType: "text/plain", buffer: Buffer.from(content) });
    await page.waitForFunction((name) => document.querySelector("#message").textContent.includes(name), name);
    return message(page);
  };
  const model = JSON.parse(kanFile);
  assert.match(await give("old.json", JSON.stringify({ ...model, version: 99 })), /version 99 .* reads version 1/);
  assert.match(await give("torn.json", kanFile.slice(0, 500)), /not JSON/);
  assert.match(await give("other.json", "{}"), /not a model of this playground/);
  assert.match(await give("few.csv", "x,y\n1,2\n"), /one row/);
  assert.equal(await page.evaluate(() => location.hash), before);
  const many = Array.from({ length: 100_000 }, (_, n) => `${Math.cos(n)},${Math.sin(n)}`).join("\n");
  assert.match(await give("many.csv", `x,y\n${many}\n`), /2,000 of its 100,000 points/);
  assert.match(await give("kan.json", kanFile), /Opened kan.json: a KAN of 1,458 parameters, trained on a drawing/);
  assert.deepEqual(JSON.parse(await saved(page, "#kan .json")), model);
  assert.doesNotMatch(await page.evaluate(() => location.hash), /trained/);
});

await check("a browser without workers", async () => {
  const page = await open(letterLink.replace("trained=1", ""), { init: () => delete globalThis.Worker });
  await page.click("#train");
  assert.match(await message(page), /no web workers/);
  assert.match(await page.textContent("#data .facts"), /\d+ of at most 2,000 points/);
});

await check("models of Python open, those without known data, too", async () => {
  const page = await open();
  for (const { name, saved: file } of JSON.parse(readFileSync(join(HERE, "tests/fixtures/denoisers.json"), "utf8"))) {
    await page.setInputFiles("#file", { name: `${name}.json`, mimeType: "application/json", buffer: Buffer.from(JSON.stringify(file)) });
    await page.waitForFunction((name) => document.querySelector("#message").textContent.startsWith(`Opened ${name}.json`), name);
    await page.waitForTimeout(250);
    const curves = await page.locator("#edges .edge").count();
    assert.equal(curves > 0, /-kan$|ungated/.test(name), `${name} has ${curves} curves`);
  }
});

if (process.env.KEEP_MODEL) writeFileSync(process.env.KEEP_MODEL, kanFile);
await context.close();
server.close();
rmSync(profile, { recursive: true, force: true });
console.log(`${passed} passed, ${process.exitCode ? "some" : 0} failed`);
