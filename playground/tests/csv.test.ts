/** Files of points: two columns of numbers are read as they are, and anything else is refused. */

import { describe, expect, test } from "vitest";
import { readPoints, Refusal } from "../src/data/csv";

describe("a file of two columns is read", () => {
  test.each([
    ["commas", "x,y\n1.5,-2\n3e1,.25\n"],
    ["spaces after commas, no header", "1.5, -2\n30, 0.25"],
    ["semicolons and Windows' line ends", "x;y\r\n1.5;-2\r\n\r\n30;0.25\r\n"],
    ["tabs", "first name\tsecond\n1.5\t-2\n30\t0.25\n"],
    ["spaces and a comment", "# x y\n 1.5   -2\n 30 +0.25\n"],
    ["quotes", '"mass, in kg","y"\n"1.5","-2"\n30,0.25\n'],
  ])("%s", (_, text) => {
    expect(readPoints(text)).toEqual([[1.5, -2], [30, 0.25]]);
  });
});

describe("a file is refused, and its first bad line named, with", () => {
  test.each([
    ["decimal commas", "x;y\n1,5;2,5\n", /^line 2 has a decimal comma, '1,5'; write decimals with a point$/],
    ["decimal commas among whole numbers", "1;2\n3;4\n5;-,6\n", /^line 3 has a decimal comma, '-,6'/],
    ["decimal commas between tabs", "1,5\t2,5\n", /^line 1 has a decimal comma/],
    ["decimal commas between spaces", "x y\n1,5 2,5\n", /^line 2 has a decimal comma/],
    ["decimal commas in quotes", '"1,5","2,5"\n', /^line 1 has a decimal comma/],
    ["decimal commas between commas", "1,5,2,5\n", /^line 1 has 4 columns; .* write decimals with a point$/],
    ["an empty first cell", "1,2\n,3.2\n", /^line 2 has an empty cell; fill it, or leave the line out$/],
    ["an empty second cell", "x;y\n1;\n", /^line 2 has an empty cell/],
    ["an empty cell between two", "1,,2\n", /^line 1 has 3 columns/],
    ["an index", ",x,y\n0,1.5,2.5\n", /^line 1 has 3 columns; keep the two that are the coordinates, without an index/],
    ["an index beside one column", ",x\n0,1.5\n1,2.5\n", /^line 1 has an empty cell/],
    ["a column more in one line", "x,y\n1,2\n1,2,3\n", /^line 3 has 3 columns/],
    ["one column", "x\n1\n2\n", /^line 1 has one column; two are needed/],
    ["words", "x,y\n1,2\n3,unknown\n", /^line 3 holds 'unknown', which is no number/],
    ["a missing value", "x,y\nnan,2\n", /^line 2 holds 'nan'/],
    ["half a header", "x,1\n1,2\n", /^line 1 holds 'x'/],
    ["what JavaScript takes for numbers", "0x10,2\n", /^line 1 holds '0x10'/],
    ["numbers beyond all measure", "1e300,2\n", /^line 1 holds '1e300'/],
    ["a model of former days", '{\n  "format": "kan-diffusion-web"\n}\n', /^line 1 has one column/],
  ])("%s", (_, text, reason) => {
    expect(() => readPoints(text)).toThrow(Refusal);
    expect(() => readPoints(text)).toThrow(reason);
  });
});
