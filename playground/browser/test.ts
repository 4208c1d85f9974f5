/** A test in which the console must stay silent and nothing is fetched from elsewhere; and what is asked of every page. */

import { test as base, expect, type Page } from "@playwright/test";
import axe from "axe-core";

export { expect, type Page };

export const test = base.extend<{ silence: void }>({
  silence: [
    async ({ context, baseURL }, use) => {
      const problems: string[] = [];
      context.on("console", (line) => ["error", "warning"].includes(line.type()) && problems.push(line.text()));
      context.on("weberror", (error) => problems.push(String(error.error())));
      context.on("request", (request) => {
        const address = request.url();
        if (!address.startsWith(baseURL ?? "") && !/^(file|data|blob):/.test(address)) problems.push(address);
      });
      await use();
      expect(problems).toEqual([]);
    },
    { auto: true },
  ],
});

/** What axe-core finds that keeps somebody out. */
export async function expectAccessible(page: Page, without: readonly string[] = []): Promise<void> {
  await page.evaluate(axe.source);
  const violations = await page.evaluate(async (ids) => {
    const rules = Object.fromEntries(ids.map((id) => [id, { enabled: false }]));
    const { axe } = globalThis as unknown as { axe: typeof import("axe-core") };
    return (await axe.run(document, { rules })).violations.map(({ id, nodes }) => `${id}: ${nodes[0].html} ${nodes[0].failureSummary}`);
  }, without);
  expect(violations).toEqual([]);
}

/** Nothing is wider than the page, but in a box that can be rolled. */
export async function expectNothingSideways(page: Page): Promise<void> {
  const wide = await page.evaluate(() => {
    const { clientWidth, scrollWidth } = document.documentElement;
    if (scrollWidth <= clientWidth) return "";
    const rolls = (element: Element | null): boolean =>
      element !== null && (/auto|scroll|hidden/.test(getComputedStyle(element).overflowX) || rolls(element.parentElement));
    const over = [...document.querySelectorAll("body *")].find((element) => element.getBoundingClientRect().right > clientWidth + 1 && !rolls(element.parentElement));
    return `${scrollWidth} of ${clientWidth} pixels, by ${over?.outerHTML.slice(0, 120)}`;
  });
  expect(wide).toBe("");
}
