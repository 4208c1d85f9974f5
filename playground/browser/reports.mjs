/**
 * Reads pages of every kind in Chromium, as playground/pages.py makes them: nothing goes over the
 * edge, everything can be read, in the light, in the dark and on paper. Pictures go beside the pages.
 */

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import axe from "axe-core";
import { chromium } from "playwright-core";

const FOLDER = resolve(process.argv[2]);
const PAGES = {
  "many-models": "many-models/report.html",
  "short-study": "short-study/report.html",
  explanation: "explanation/explanation.html",
  table: "table/tables.html",
  lab: "lab/truth-lab.html",
};
const LEAST_LETTERS = 8.9;
const PAPER = { width: 680, height: 1010 }; // what A4 has within its margins
const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];

const profile = mkdtempSync(join(tmpdir(), "pages-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: FLAGS,
});
const PICTURES = join(FOLDER, "screenshots");
mkdirSync(PICTURES, { recursive: true });
let passed = 0;

/** What goes over the page's edge: the first element that is wider than its box may be. */
const overflow = (page) => page.evaluate(() => {
  const wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= wide) return "";
  const rolls = (element) => element !== null && (/(auto|scroll|hidden)/.test(getComputedStyle(element).overflowX) || rolls(element.parentElement));
  const over = [...document.querySelectorAll("body *")].find((e) => e.getBoundingClientRect().right > wide + 1 && !rolls(e.parentElement));
  return `${document.documentElement.scrollWidth} of ${wide} pixels, by ${over?.outerHTML.slice(0, 120)}`;
});

/** Sizes of letters as they are drawn, in pixels: of the page, and of its pictures by their source. */
const smallest = (page) => page.evaluate(async () => {
  const found = [];
  const seen = (element) => element.getClientRects().length > 0;
  for (const element of document.querySelectorAll("body *")) {
    if (!seen(element) || ![...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
    const matrix = element.getScreenCTM?.();
    const size = parseFloat(getComputedStyle(element).fontSize) * (matrix ? Math.hypot(matrix.a, matrix.b) : 1);
    found.push([size, `${element.tagName} '${element.textContent.trim().slice(0, 30)}'`]);
  }
  for (const image of document.querySelectorAll("figure img")) {
    if (!seen(image) || !image.currentSrc.startsWith("data:image/svg")) continue;
    const text = new TextDecoder().decode(Uint8Array.from(atob(image.currentSrc.split(",")[1]), (c) => c.charCodeAt(0)));
    const svg = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
    const scale = image.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    for (const label of svg.querySelectorAll("text")) {
      const size = /([\d.]+)px/.exec(label.style.font || label.style.fontSize);
      const own = /scale\(([\d.]+)/.exec(label.getAttribute("transform") ?? "");
      if (size) found.push([size[1] * scale * (own ? own[1] : 1), `'${label.textContent}' of '${image.alt}'`]);
    }
  }
  return found.sort((a, b) => a[0] - b[0])[0];
});

/** Figures, and everything, that has to be rolled; and what rolls without a fading edge, or fades and does not roll. */
const rolling = (page) => page.evaluate(() => {
  const boxes = [...document.querySelectorAll(".view, .scroll, .formula .set")].filter((box) => box.getClientRects().length);
  const rolls = (box) => box.scrollWidth > box.clientWidth + 1;
  const fades = (box) => getComputedStyle(box, "::after").opacity > 0.5;
  const name = (box) => box.querySelector("img")?.alt ?? box.querySelector("table")?.ariaLabel ?? box.textContent;
  return {
    figures: boxes.filter((box) => box.matches(".view") && rolls(box)).map(name),
    unsaid: boxes.filter((box) => rolls(box) !== fades(box)).map(name),
  };
});

/** Canvases whose pixels are not as high as they are wide, as they are seen. */
const distorted = (page) => page.$$eval("canvas", (canvases) => canvases
  .filter((canvas) => Math.abs(canvas.width / canvas.height - canvas.clientWidth / canvas.clientHeight) > 0.02)
  .map((canvas) => `${canvas.ariaLabel}: ${canvas.width} × ${canvas.height}`));

/** What axe-core finds that keeps somebody out; the title of all parts is the heading of the first. */
async function accessible(page) {
  await page.evaluate(axe.source);
  const rules = { "page-has-heading-one": { enabled: false } };
  const found = await page.evaluate(async (rules) => (await globalThis.axe.run(document, { rules })).violations.map(({ id, nodes }) => `${id}: ${nodes[0].html} ${nodes[0].failureSummary}`), rules);
  assert.deepEqual(found, []);
}

async function check(name, run) {
  const problems = [];
  const page = await context.newPage();
  page.on("console", (line) => ["error", "warning"].includes(line.type()) && problems.push(line.text()));
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("request", (request) => /^(file|data|blob):/.test(request.url()) || problems.push(request.url()));
  try {
    await run(page);
    assert.deepEqual(problems, [], "the console is silent and nothing is fetched");
    passed++;
    console.log(`ok   ${name}`);
  } catch (error) {
    process.exitCode = 1;
    console.log(`FAIL ${name}: ${error.message}`);
  }
  await page.close();
}

for (const [name, file] of Object.entries(PAGES)) {
  const address = pathToFileURL(join(FOLDER, file)).href;

  for (const [width, scheme] of [[390, "light"], [390, "dark"], [1400, "light"], [1400, "dark"]]) {
    await check(`${name} at ${width} pixels, ${scheme}`, async (page) => {
      await page.setViewportSize({ width, height: width === 390 ? 844 : 1000 });
      await page.emulateMedia({ colorScheme: scheme });
      await page.goto(address);
      const parts = await page.$$eval("nav.pages a", (links) => links.map((link) => link.hash));
      for (const part of parts.length ? parts : [""]) {
        if (part) await page.evaluate((hash) => { location.hash = hash; }, part);
        await page.waitForTimeout(50);
        const where = `${name}${part.replace("#", "-")}-${width}-${scheme}`;
        await page.screenshot({ path: join(PICTURES, `${where}.png`), fullPage: true });
        assert.equal(await overflow(page), "", where);
        const [size, letters] = await smallest(page);
        assert.ok(size >= LEAST_LETTERS, `${size.toFixed(1)} pixels: ${letters}, ${where}`);
        const wide = await page.$$eval("table", (tables) => tables.map((table) => [...table.tHead.rows[0].cells].filter((cell) => cell.getClientRects().length).length));
        assert.ok(Math.max(0, ...wide) <= 6, `a table of ${Math.max(...wide)} columns, ${where}`);
        const { figures, unsaid } = await rolling(page);
        assert.deepEqual(figures.filter((what) => width > 390 || !/diagram/.test(what)), [], `rolled figures, ${where}`);
        assert.deepEqual(unsaid, [], `the edge of what rolls, ${where}`);
        assert.deepEqual(await distorted(page), [], where);
        await accessible(page);
      }
      const covered = await page.evaluate(() => (document.querySelector("nav.pages")?.getBoundingClientRect().height ?? 0) / innerHeight);
      assert.ok(covered < 0.08, `tabs cover ${covered} of the window`);
    });
  }

  await check(`${name}: folds open`, async (page) => {
    await page.setViewportSize({ width: 390, height: 844 });
    await page.goto(address);
    await page.evaluate(() => document.querySelectorAll("details").forEach((fold) => { fold.open = true; }));
    assert.equal(await overflow(page), "");
  });

  await check(`${name} on paper`, async (page) => {
    await page.setViewportSize(PAPER);
    await page.emulateMedia({ media: "print", colorScheme: "dark" });
    await page.goto(address);
    assert.equal(await overflow(page), "");
    const cut = await page.$$eval("figure img, svg", (pictures, { width, height }) => pictures
      .map((picture) => [picture.getBoundingClientRect(), picture.alt ?? picture.id])
      .filter(([box]) => box.right > width + 1 || box.height > height).map(([box, what]) => `${what}: ${box.right} × ${box.height}`), PAPER);
    assert.deepEqual(cut, []);
    const [paper, ink] = await page.evaluate(() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]);
    assert.match(paper, /0, 0, 0, 0|255, 255, 255/);
    assert.match(ink, /34, 38, 43/);
    const pdf = await page.pdf({ path: join(PICTURES, `${name}.pdf`), format: "A4", printBackground: true, preferCSSPageSize: true });
    assert.ok(pdf.length > 10_000);
  });
}

await context.close();
rmSync(profile, { recursive: true, force: true });
console.log(`${passed} passed, ${process.exitCode ? "some" : 0} failed`);
