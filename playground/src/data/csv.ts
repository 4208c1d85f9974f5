/** Files of two columns of numbers. What is not one is refused in a sentence that says what to do. */

export type Point = readonly [number, number];

/** Something that the reader of the page can mend, said in one sentence. */
export class Refusal extends Error {}

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,2})?$/i;
const DECIMAL_COMMA = /^[+-]?[\d.]*,\d+$/;

/** Cells of a line, without quotes and spaces around them. */
function cellsOf(line: string, delimiter: string): string[] {
  if (delimiter === " ") return line.trim().split(/\s+/);
  const outsideQuotes = line.includes('"') ? new RegExp(`${delimiter}(?=(?:[^"]*"[^"]*")*[^"]*$)`) : delimiter;
  return line.split(outsideQuotes).map((cell) => cell.replaceAll('"', "").trim());
}

/** What stands between the cells of a line: a semicolon, a tab, spaces or a comma. */
function delimiterOf(line: string): string {
  const outsideQuotes = line.trim().replace(/"[^"]*"/g, '""').replace(/\s*,\s*/g, ",");
  return [";", "\t", " "].find((delimiter) => outsideQuotes.includes(delimiter)) ?? ",";
}

function reasonAgainst(cells: readonly string[], number: number): string | null {
  const shown = (cell: string): string => `'${cell.slice(0, 20)}'`;
  const comma = cells.find((cell) => DECIMAL_COMMA.test(cell));
  if (comma !== undefined) return `line ${number} has a decimal comma, ${shown(comma)}; write decimals with a point`;
  if (cells.length > 2) {
    return `line ${number} has ${cells.length} columns; keep the two that are the coordinates, without an index, and write decimals with a point`;
  }
  if (cells.length < 2) return `line ${number} has one column; two are needed, with a comma between them`;
  if (cells.includes("")) return `line ${number} has an empty cell; fill it, or leave the line out`;
  const word = cells.find((cell) => !NUMBER.test(cell));
  return word === undefined ? null : `line ${number} holds ${shown(word)}, which is no number; replace it, or leave the line out`;
}

/**
 * Points of a file of two columns, separated by commas, semicolons, tabs or spaces. The first line may
 * name the columns; empty lines and those that begin with # are left out.
 *
 * @throws Refusal Where a line does not hold two numbers.
 */
export function readPoints(text: string): Point[] {
  const lines = text.split(/\r\n|\r|\n/).map((line, n) => ({ line, number: n + 1 }));
  const rows = lines.filter(({ line }) => line.trim() !== "" && !line.startsWith("#"));
  const delimiter = delimiterOf(rows.at(-1)?.line ?? "");
  const points: Point[] = [];
  rows.forEach(({ line, number }, n) => {
    const cells = cellsOf(line, delimiter);
    const isHeader = n === 0 && cells.length === 2 && cells.every((cell) => /\p{L}/u.test(cell) && !NUMBER.test(cell));
    if (isHeader) return;
    const reason = reasonAgainst(cells, number);
    if (reason !== null) throw new Refusal(reason);
    points.push([Number(cells[0]), Number(cells[1])]);
  });
  return points;
}
