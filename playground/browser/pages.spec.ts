/**
 * Reads pages of every kind in Chromium, as pages.py makes them in screenshots/pages: nothing goes over
 * the edge, everything can be read, in the light, in the dark and on paper. Pictures go beside the pages.
 */

import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { expect, expectAccessible, expectNothingSideways, type Page, test } from "./test";

const FOLDER = resolve("screenshots/pages");
const PAGES = {
  "many-models": "report.html",
  "short-study": "report.html",
  pictures: "report.html",
  explanation: "explanation.html",
  table: "tables.html",
};
const LEAST_LETTERS = 8.9;
const MOST_COLUMNS = 6;
const PAPER = { width: 680, height: 1010 }; // what A4 has within its margins

/** The smallest letters, in pixels as they are drawn, those of figures too. */
const smallestLetters = (page: Page) =>
  page.evaluate(() => {
    const sizes: [number, string][] = [];
    const isShown = (element: Element): boolean => element.getClientRects().length > 0;
    for (const element of document.querySelectorAll("body *")) {
      if (!isShown(element) || ![...element.childNodes].some((node) => node.nodeType === 3 && node.textContent?.trim())) continue;
      const matrix = element instanceof SVGGraphicsElement ? element.getScreenCTM() : null;
      const scale = matrix === null ? 1 : Math.hypot(matrix.a, matrix.b);
      sizes.push([scale * parseFloat(getComputedStyle(element).fontSize), `${element.tagName} '${element.textContent.trim().slice(0, 30)}'`]);
    }
    return sizes.sort((a, b) => a[0] - b[0])[0];
  });

/** Figures that have to be rolled. */
const rolling = (page: Page) =>
  page.$$eval("figure, .diagram", (boxes) => boxes.filter((box) => box.scrollWidth > box.clientWidth + 1).map((box) => box.className));

/** Canvases whose pixels are not as high as they are wide, as they are seen. */
const distorted = (page: Page) =>
  page.$$eval("canvas", (canvases) =>
    canvases
      .filter(({ width, height, clientWidth, clientHeight }) => Math.abs(width / height - clientWidth / clientHeight) > 0.02)
      .map((canvas) => `${canvas.ariaLabel}: ${canvas.width} × ${canvas.height}`),
  );

for (const [name, file] of Object.entries(PAGES)) {
  const address = pathToFileURL(join(FOLDER, name, file)).href;

  for (const width of [390, 1400]) {
    for (const colorScheme of ["light", "dark"] as const) {
      test(`${name} at ${width} pixels, ${colorScheme}`, async ({ page }) => {
        await page.setViewportSize({ width, height: 900 });
        await page.emulateMedia({ colorScheme });
        await page.goto(address);
        await page.screenshot({ path: join(FOLDER, `${name}-${width}-${colorScheme}.png`), fullPage: true });
        await expectNothingSideways(page);
        const [size, letters] = await smallestLetters(page);
        expect(size, letters).toBeGreaterThanOrEqual(LEAST_LETTERS);
        const columns = await page.$$eval("table tr:first-child", (rows) => rows.map((row) => [...row.children].filter((cell) => cell.getClientRects().length > 0).length));
        expect(Math.max(0, ...columns)).toBeLessThanOrEqual(MOST_COLUMNS);
        expect((await rolling(page)).filter((box) => width > 390 || box !== "diagram")).toEqual([]);
        expect(await distorted(page)).toEqual([]);
        await expectAccessible(page);
        const covered = await page.evaluate(() => (document.querySelector("nav")?.clientHeight ?? 0) / innerHeight);
        expect(covered).toBeLessThan(0.08);
      });
    }
  }

  test(`${name}: folds open, and on paper`, async ({ page }) => {
    await page.setViewportSize({ width: 390, height: 844 });
    await page.goto(address);
    await page.$$eval("details", (folds) => folds.forEach((fold) => (fold.open = true)));
    await expectNothingSideways(page);
    await page.setViewportSize(PAPER);
    await page.emulateMedia({ media: "print", colorScheme: "dark" });
    await page.reload();
    await expectNothingSideways(page);
    const boxes = await page.$$eval("figure img, svg", (pictures) => pictures.map((picture) => picture.getBoundingClientRect().toJSON() as DOMRect));
    expect(boxes.filter(({ right, height }) => right > PAPER.width + 1 || height > PAPER.height)).toEqual([]);
    const body = page.locator("body");
    await expect(body).toHaveCSS("background-color", /0, 0, 0, 0|255, 255, 255/);
    await expect(body).toHaveCSS("color", /34, 38, 43/);
    const pdf = await page.pdf({ path: join(FOLDER, `${name}.pdf`), format: "A4", printBackground: true, preferCSSPageSize: true });
    expect(pdf.length).toBeGreaterThan(10_000);
  });
}
