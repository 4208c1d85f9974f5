/**
 * The file of a model, which kan_diffusion.web reads and writes alike: the denoiser's settings,
 * its state dict as base64 of little-endian float32 numbers, the process, the standardisation and,
 * where known, what it was trained on. A file that cannot be shown is refused in one sentence.
 */

import type { Standardizer } from "./data/densities";
import { Denoiser, type DenoiserSettings, type GatedSettings, type Network, type StateDict } from "./model/denoiser";
import { GatedDenoiser } from "./model/gated";
import { PREDICTIONS, type ProcessSettings, SCHEDULES } from "./model/process";

export const FORMAT = "kan-diffusion-web";
export const VERSION = 1;

export interface TrainedOn {
  readonly toy: string | null;
  readonly points: readonly (readonly [number, number])[];
  readonly spread: number;
}

export interface SavedModel {
  readonly denoiser: Network;
  readonly process: ProcessSettings;
  readonly standardizer: Standardizer;
  readonly columns: readonly [string, string];
  readonly data: TrainedOn | null;
}

/** Something a person can mend, said in one sentence. */
export class Refusal extends Error {}

export function toBase64(values: Float32Array): string {
  const bytes = new Uint8Array(values.length * 4);
  const view = new DataView(bytes.buffer);
  values.forEach((value, n) => view.setFloat32(4 * n, value, true));
  let text = "";
  for (let start = 0; start < bytes.length; start += 8192) {
    text += String.fromCharCode(...bytes.subarray(start, start + 8192));
  }
  return btoa(text);
}

export function fromBase64(text: string): Float32Array {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  if (bytes.length % 4 !== 0) throw new Refusal("its numbers are damaged");
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, n) => view.getFloat32(4 * n, true));
}

export function saveModel(model: SavedModel): string {
  const weights = Object.fromEntries(
    Object.entries(model.denoiser.stateDict()).map(([name, { shape, values }]) => [
      name,
      { shape, float32: toBase64(values) },
    ]),
  );
  const { standardizer, columns, process, data } = model;
  return `${JSON.stringify(
    { format: FORMAT, version: VERSION, denoiser: model.denoiser.settings, process, standardizer, columns, data, weights },
    null,
    2,
  )}\n`;
}

type Unknown = Readonly<Record<string, unknown>>;

const isObject = (value: unknown): value is Unknown => typeof value === "object" && value !== null && !Array.isArray(value);
const isFinite = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value);
const isPair = (value: unknown): value is readonly [number, number] =>
  Array.isArray(value) && value.length === 2 && value.every(isFinite);
const isCount = (value: unknown, low: number, high: number): value is number =>
  Number.isInteger(value) && (value as number) >= low && (value as number) <= high;
const oneOf = (...known: readonly unknown[]) => (value: unknown): boolean => known.includes(value);
const isBoolean = (value: unknown): boolean => typeof value === "boolean";
const isText = (value: unknown): value is string => typeof value === "string";

const WIDEST = 512;
const MOST_PARAMETERS = 200_000;

type Settings = DenoiserSettings | GatedSettings;

const CHECKS: Record<Settings["_class_name"], Record<string, (value: unknown) => boolean>> = (() => {
  const everybody = {
    data_dim: oneOf(2),
    hidden: (value: unknown) => Array.isArray(value) && value.length <= 16 && value.every((w) => isCount(w, 1, WIDEST)),
    num_train_timesteps: (value: unknown) => isCount(value, 2, 100_000),
    num_time_frequencies: (value: unknown) => isCount(value, 1, 32),
    num_classes: oneOf(0, undefined), // older files have it; points have no classes
    residual: isBoolean,
    blocks: (value: unknown) => Array.isArray(value) && value.length === 0,
  };
  const shared = {
    ...everybody,
    time_encoding: oneOf("raw", "fourier"),
    num_input_frequencies: (value: unknown) => isCount(value, 0, 16),
    modulated: isBoolean,
  };
  const grids = {
    grid_size: (value: unknown) => isCount(value, 1, 256),
    order: (value: unknown) => isCount(value, 1, 5),
    grid_range: (value: unknown) => isPair(value) && value[0] < value[1],
  };
  return {
    KANDenoiser: {
      ...shared,
      bias: isBoolean,
      basis: oneOf("bspline"),
      ...grids,
      extrapolation: oneOf("linear", "clamp"),
      base_activation: oneOf("silu", "auto", null),
      edge_scale: oneOf(false),
      init: isText,
      scaled_inputs: isBoolean,
    },
    MLPDenoiser: { ...shared, activation: oneOf("silu", "relu"), init: isText },
    GatedDenoiser: {
      ...everybody,
      ...grids,
      learned_inputs: isBoolean,
      num_input_frequencies: (value) => value === null || isCount(value, 0, 16),
      input_grid_size: (value) => isCount(value, 1, 256),
      learned_functions: isBoolean,
      num_functions: (value) => isCount(value, 1, WIDEST),
      function_rate: (value) => isFinite(value) && value > 0,
      gated: isBoolean,
      rank: (value) => value === null || isCount(value, 1, 64),
    },
  };
})();

const isKnown = (name: unknown): name is Settings["_class_name"] => isText(name) && Object.hasOwn(CHECKS, name);

function readNetwork(given: unknown): Network {
  if (!isObject(given)) throw new Refusal("it has no settings of a denoiser");
  const name = given["_class_name"];
  if (!isKnown(name)) throw new Refusal(`it is a ${String(name)}, and this page shows KANs of B-splines and MLPs`);
  const checks = CHECKS[name];
  // Python writes all settings; those of a later version that this page does not know change what it is.
  for (const key of Object.keys(given)) {
    if (key !== "_class_name" && !Object.hasOwn(checks, key)) throw new Refusal(`this page does not know its setting ${key}`);
  }
  for (const [key, check] of Object.entries(checks)) {
    if (!check(given[key])) throw new Refusal(`this page shows no denoiser with ${key} = ${JSON.stringify(given[key])}`);
  }
  const settings = given as unknown as Settings;
  const { hidden } = settings;
  const perEdge = settings._class_name === "KANDenoiser" ? settings.grid_size + settings.order + 1 : 1;
  const numEdges = hidden.reduce((sum, width, i) => sum + width * (hidden[i + 1] ?? 2), 0);
  if (numEdges * perEdge > MOST_PARAMETERS) throw new Refusal("its network is too large for this page");
  if (settings._class_name === "GatedDenoiser") {
    if (hidden.length === 0) throw new Refusal("a gated denoiser needs a hidden layer");
    return new GatedDenoiser(settings);
  }
  if (settings._class_name === "KANDenoiser" && settings.scaled_inputs && !settings.modulated) {
    throw new Refusal("its inputs are scaled and it is not modulated");
  }
  return new Denoiser(settings);
}

function readProcess(given: unknown): ProcessSettings {
  if (!isObject(given)) throw new Refusal("it has no noising process");
  const { name, num_timesteps, schedule, beta_start, beta_end, prediction_type, loss } = given;
  const known = isText(name) && isCount(num_timesteps, 2, 100_000) && isFinite(beta_start) && isFinite(beta_end);
  const fits = oneOf(...SCHEDULES)(schedule) && oneOf(...PREDICTIONS)(prediction_type) && oneOf("mse", "huber")(loss);
  if (!known || !fits || (schedule === "flow") !== (prediction_type === "flow")) {
    throw new Refusal("this page does not know its noising process");
  }
  return given as unknown as ProcessSettings;
}

function readWeights(given: unknown, denoiser: Network): StateDict {
  if (!isObject(given)) throw new Refusal("it has no weights");
  const state: StateDict = {};
  for (const [name, shape] of denoiser.shapes) {
    const tensor = given[name];
    if (!isObject(tensor) || !isText(tensor["float32"]) || JSON.stringify(tensor["shape"]) !== JSON.stringify(shape)) {
      throw new Refusal(`its weights are not those of its network (${name})`);
    }
    let values: Float32Array;
    try {
      values = fromBase64(tensor["float32"]);
    } catch {
      throw new Refusal(`the numbers of ${name} are damaged`);
    }
    if (values.length !== shape.reduce((a, b) => a * b, 1) || !values.every(Number.isFinite)) {
      throw new Refusal(`the numbers of ${name} are damaged`);
    }
    state[name] = { shape, values };
  }
  const extra = Object.keys(given).find((name) => !denoiser.shapes.has(name));
  if (extra !== undefined) throw new Refusal(`its weights are not those of its network (${extra})`);
  return state;
}

function readData(given: unknown): TrainedOn | null {
  if (given === null || given === undefined) return null;
  if (!isObject(given)) throw new Refusal("its data are damaged");
  const { toy = null, points = [], spread = 0 } = given;
  const drawn = Array.isArray(points) && points.length <= 10_000 && points.every(isPair);
  if ((toy !== null && !isText(toy)) || !drawn || !isFinite(spread) || spread < 0) throw new Refusal("its data are damaged");
  return { toy, points: points as [number, number][], spread };
}

/** Reads a saved model; every reason against it is a Refusal. */
export function openModel(text: string): SavedModel {
  let given: unknown;
  try {
    given = JSON.parse(text);
  } catch {
    throw new Refusal("it is not JSON");
  }
  if (!isObject(given) || given["format"] !== FORMAT) {
    throw new Refusal("it is not a model of this playground; save one here or with kan-diffusion export");
  }
  if (given["version"] !== VERSION) {
    throw new Refusal(
      `it is of version ${String(given["version"])} of the format and this page reads version ${VERSION}; ` +
        "open it in the playground that comes with the kan-diffusion that wrote it",
    );
  }
  const denoiser = readNetwork(given["denoiser"]);
  denoiser.loadStateDict(readWeights(given["weights"], denoiser));
  const process = readProcess(given["process"]);
  if (process.num_timesteps !== denoiser.settings.num_train_timesteps) {
    throw new Refusal("its denoiser and its process count timesteps differently");
  }
  const standardizer = given["standardizer"];
  if (!isObject(standardizer) || !isPair(standardizer["mean"]) || !isPair(standardizer["scale"]) || Math.min(...standardizer["scale"]) <= 0) {
    throw new Refusal("its standardisation is damaged");
  }
  const columns = given["columns"];
  const named = Array.isArray(columns) && columns.length === 2 && columns.every(isText);
  return {
    denoiser,
    process,
    standardizer: { mean: standardizer["mean"], scale: standardizer["scale"] },
    columns: named ? [columns[0], columns[1]] : ["x0", "x1"],
    data: readData(given["data"]),
  };
}
