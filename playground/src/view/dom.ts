/** Small helpers for the page's elements. */

export function find<T extends Element>(selector: string, kind: new () => T): T {
  const element = document.querySelector(selector);
  if (!(element instanceof kind)) throw new Error(`the page has no ${selector}`);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(name: string, attributes: Readonly<Record<string, string | number>>, ...children: (Node | string)[]): SVGElement {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  element.append(...children);
  return element;
}

export function html<K extends keyof HTMLElementTagNameMap>(
  name: K,
  properties: Partial<HTMLElementTagNameMap[K]> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** A colour of the page's palette, as it is now, light or dark. */
export const colour = (name: "paper" | "ink" | "muted" | "line" | "data" | "kan" | "mlp"): string =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Steps to the right and down by arrow keys. */
export const ARROWS: Readonly<Record<string, readonly [number, number]>> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export const onClick = (selector: string, action: () => void): void => find(selector, HTMLButtonElement).addEventListener("click", action);

/** Gives a file to the person who uses the page. */
export function download(name: string, type: string, content: string): void {
  const address = URL.createObjectURL(new Blob([content], { type }));
  html("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

/** Round numbers from low to high, about as many as wanted. */
export function ticks(low: number, high: number, wanted: number): number[] {
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= 0.7 * raw) ?? 10);
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: Math.max(0, count) }, (_, n) => Number(((first + n) * step).toPrecision(12)));
}

/** A number with so many digits, and a true minus sign. */
export const digits = (value: number, count: number): string => value.toPrecision(count).replace("-", "−");

/** A whole number with commas between thousands. */
export const whole = (value: number): string => value.toLocaleString("en");
