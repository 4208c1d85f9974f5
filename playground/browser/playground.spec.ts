/**
 * Drives the built page in Chromium as a person would: draws, trains, samples, follows edges, opens
 * and saves. Pictures go into screenshots/.
 */

import { readFileSync } from "node:fs";
import { expect, expectAccessible, expectNothingSideways, type Page, test } from "./test";

const TRAINED = /^Trained for/;
type Pair = readonly [number, number];

async function open(page: Page, hash = ""): Promise<void> {
  await page.goto(`/${hash}`);
  await expect(page.locator("#tiles canvas")).toHaveCount(10);
}

const message = (page: Page) => page.locator("#message");

/** Samples of a network, as its button saves them. */
async function savedPoints(page: Page, side: string): Promise<Pair[]> {
  const [file] = await Promise.all([page.waitForEvent("download"), page.click(`#${side} button`)]);
  const [header, ...rows] = readFileSync(await file.path(), "utf8").trim().split("\n");
  expect(header).toBe("x,y");
  return rows.map((row) => row.split(",").map(Number) as unknown as Pair);
}

/** Energy distance, written once more. */
function energyDistance(x: readonly Pair[], y: readonly Pair[]): number {
  const mean = (a: readonly Pair[], b: readonly Pair[]): number =>
    a.reduce((sum, p) => sum + b.reduce((s, q) => s + Math.hypot(p[0] - q[0], p[1] - q[1]), 0), 0) / (a.length * b.length);
  return 2 * mean(x, y) - mean(x, x) - mean(y, y);
}

const LETTER: readonly Pair[][] = [[[0.3, 0.2], [0.3, 0.8]], [[0.72, 0.2], [0.3, 0.52], [0.72, 0.8]]];

async function drawLetter(page: Page): Promise<void> {
  const box = (await page.locator("#data canvas").boundingBox())!;
  for (const [first, ...rest] of LETTER) {
    await page.mouse.move(box.x + box.width * first[0], box.y + box.height * first[1]);
    await page.mouse.down();
    for (const [x, y] of rest) await page.mouse.move(box.x + box.width * x, box.y + box.height * y, { steps: 12 });
    await page.mouse.up();
  }
}

/** Points on the letter, in the drawing's units from -1.5 to 1.5. */
const onLetter = (mirrored: boolean): Pair[] =>
  LETTER.flatMap((stroke) => stroke.slice(1).flatMap((end, n) => {
    const begin = stroke[n];
    const count = Math.round(200 * Math.hypot(end[0] - begin[0], end[1] - begin[1]));
    return Array.from({ length: count }, (_, k): Pair => {
      const at = (d: 0 | 1): number => begin[d] + ((end[d] - begin[d]) * k) / count;
      return [(mirrored ? -3 : 3) * (at(0) - 0.5), 3 * (0.5 - at(1))];
    });
  }));

test("a drawn letter comes back as samples", async ({ page }) => {
  await open(page);
  await page.click("label.tile:first-of-type");
  await drawLetter(page);
  await expect(page.locator("#data .facts")).toHaveText(/\d+ of at most 2,000 points/);
  const began = performance.now();
  await page.click("#train");
  for (const side of ["kan", "mlp"]) await expect(page.locator(`#${side} canvas`)).toHaveAttribute("data-distance", /\d/);
  console.log(`first samples after ${((performance.now() - began) / 1000).toFixed(1)} s`);
  await expect(page.locator("#kan button")).toBeEnabled(); // what is learned so far can be saved
  await page.click("#train");
  await expect(page.locator("#train")).toHaveText("Go on");
  await page.waitForTimeout(600); // a report may be on its way
  const step = (await page.textContent("#kan .note"))!;
  await page.waitForTimeout(600);
  await expect(page.locator("#kan .note")).toHaveText(step);
  await page.click("#train");
  await expect(message(page)).toHaveText(TRAINED);
  for (const side of ["kan", "mlp"]) {
    const samples = await savedPoints(page, side);
    expect(samples).toHaveLength(500);
    const [drawn, mirrored] = [false, true].map((flag) => energyDistance(samples, onLetter(flag)));
    console.log(`${side}: energy distance to the letter ${drawn.toFixed(4)}, to its mirror image ${mirrored.toFixed(4)}`);
    expect(drawn).toBeLessThan(0.02);
    expect(drawn).toBeLessThan(mirrored / 5);
  }
  await expect(page.locator("#play")).toHaveAttribute("aria-pressed", "false"); // less motion is wanted here
  await page.screenshot({ path: "screenshots/letter.png", fullPage: true });
});

test("a link brings back data, training and the chosen edge", async ({ page }) => {
  await open(page, "#data=drawing&steps=500&trained=1&edge=1-2-3&points=5kjg6y6t8cic9q9bb4h8cibtdwg4faebgof0i2gtjgdwkujb");
  const samples = [];
  for (let n = 0; n < 2; n++) {
    await expect(page.locator("#data .facts")).toHaveText(/^12 of/);
    await expect(message(page)).toHaveText(TRAINED);
    await expect(page.locator("#edges .detail h3")).toHaveText("From unit 3 of layer 1 to unit 4 of layer 2");
    samples.push(await savedPoints(page, "kan"));
    await page.reload(); // by the address that the page keeps
  }
  expect(samples[0]).toEqual(samples[1]);
});

test("motion plays, losses end near the floor, and edges are followed by mouse and keyboard", async ({ page }) => {
  await page.emulateMedia({ reducedMotion: "no-preference" });
  await open(page, "#data=moons&steps=500");
  await page.click("#train");
  await expect(page.locator("#play")).toHaveAttribute("aria-pressed", "true");
  const levels = new Set<string | null>();
  await expect(async () => {
    levels.add(await page.textContent("#level"));
    expect(levels.size).toBe(4);
  }).toPass();
  await expect(message(page)).toHaveText(TRAINED);
  const label = (await page.getAttribute("#loss svg", "aria-label"))!;
  const [kan, mlp, floor] = ["KAN", "MLP", "floor"].map((name) => Number(new RegExp(`${name} ([\\d.]+)`).exec(label)?.[1]));
  for (const loss of [kan, mlp]) {
    expect(loss).toBeGreaterThan(floor);
    expect(loss).toBeLessThan(floor + 0.15);
  }
  const title = page.locator("#edges .detail h3");
  await page.locator(".matrix >> nth=0 >> .edge >> nth=4").click();
  await expect(title).toHaveText("From x to unit 3 of layer 1");
  await page.locator("#edges .neighbours button >> nth=0").click();
  await expect(title).toHaveText(/^From unit 3 of layer 1 to unit \d of layer 2$/);
  await page.focus(".edge.chosen");
  await page.keyboard.press("Enter");
  await expect(title).toHaveText(/the [xy] output/);
  const followed = (await title.textContent())!;
  await page.keyboard.press(/unit 1 /.test(followed) ? "ArrowRight" : "ArrowLeft");
  await page.keyboard.press("Enter");
  await expect(title).not.toHaveText(followed);
  await expect(page.locator(".edge.chosen")).toHaveCount(1);
});

test("at 390 and at 1,400 pixels, in the light and in the dark", async ({ page }) => {
  await page.setViewportSize({ width: 390, height: 844 });
  await open(page, "#data=two-spirals&steps=500&trained=1&edge=1-4-4&time=24");
  await expect(message(page)).toHaveText(TRAINED);
  const firstLayer = page.locator(".matrix >> nth=0");
  for (const width of [390, 1400]) {
    await page.setViewportSize({ width, height: 1000 });
    // The first layer lies on its side where the page is narrow.
    const box = (await firstLayer.boundingBox())!;
    expect(box.width > box.height).toBe(width === 390);
    for (const colorScheme of ["light", "dark"] as const) {
      await page.emulateMedia({ colorScheme });
      await page.waitForTimeout(300); // drawn again
      await expectNothingSideways(page);
      await expectAccessible(page);
      await page.screenshot({ path: `screenshots/${width}-${colorScheme}.png`, fullPage: true });
    }
  }
});

test("by keyboard alone", async ({ page }) => {
  await open(page, "#data=drawing");
  await expectAccessible(page);
  const train = async (): Promise<void> => {
    await page.focus("#train");
    await page.keyboard.press("Enter");
  };
  await page.focus("input[value=drawing]");
  await page.keyboard.press("Tab");
  await expect(page.locator("#train")).toBeFocused();
  await train();
  await expect(message(page)).toHaveText(/at least 10 points.*none yet/);
  await page.focus("#data canvas");
  await page.keyboard.press("Space");
  await train();
  await expect(message(page)).toHaveText(/at least 10 points.*there is one/);
  await page.focus("#data canvas");
  for (let n = 0; n < 12; n++) {
    await page.keyboard.press(n % 2 ? "ArrowRight" : "Shift+ArrowUp");
    await page.keyboard.press("Space");
  }
  await page.keyboard.press("Backspace");
  await expect(page.locator("#data .facts")).toHaveText(/^12 of/);
  await page.selectOption("#steps", "500");
  await train();
  await expect(message(page)).toHaveText(TRAINED);
  await page.focus("#time");
  await page.keyboard.press("Home");
  await expect(page.locator("#level")).toHaveText(/t = 1000 of 1000/);
});

test("by finger", async ({ page, context }) => {
  await page.setViewportSize({ width: 390, height: 844 });
  await open(page, "#data=drawing");
  const canvas = page.locator("#data canvas");
  await canvas.scrollIntoViewIfNeeded();
  const box = (await canvas.boundingBox())!;
  const finger = await context.newCDPSession(page);
  const touch = (type: "touchStart" | "touchMove" | "touchEnd", x: number) =>
    finger.send("Input.dispatchTouchEvent", {
      type,
      touchPoints: type === "touchEnd" ? [] : [{ x: box.x + box.width * x, y: box.y + box.height / 2 }],
    });
  await touch("touchStart", 0.2);
  for (let n = 3; n < 9; n++) await touch("touchMove", n / 10);
  await touch("touchEnd", 0.8);
  await expect(page.locator("#data .facts")).toHaveText(/^[5-9]\d of/);
});

test("a file of points is opened, and of a bad one nothing is taken", async ({ page }) => {
  await open(page, "#data=moons");
  const give = async (name: string, content: string, said: RegExp): Promise<void> => {
    await page.setInputFiles("#file", { name, mimeType: "text/plain", buffer: Buffer.from(content) });
    await expect(message(page)).toHaveText(said);
  };
  const address = page.url();
  await give("decimals.csv", "x;y\n1,5;2,5\n", /^decimals.csv cannot be opened: line 2 has a decimal comma.*write decimals with a point/);
  await give("few.csv", "x,y\n1,2\n", /^few.csv cannot be opened: it has one row/);
  expect(page.url()).toBe(address);
  const many = Array.from({ length: 100_000 }, (_, n) => `${Math.cos(n)},${Math.sin(n)}`).join("\n");
  await give("many.csv", `x,y\n${many}\n`, /^Opened many.csv: 2,000 of its 100,000 points/);
  await expect(page.locator("#data .facts")).toHaveText(/^2,000 of/);
  expect(page.url()).toContain("data=drawing");
});
