/** Features of timesteps and points, as kan_diffusion.denoisers.features has them. */

export type TimeEncoding = "raw" | "fourier";

/** Rows of features of the timesteps 0, 1, ... */
export function timeFeatures(encoding: TimeEncoding, numTimesteps: number, frequencies: number): Float64Array {
  const width = encoding === "raw" ? 1 : 2 * frequencies;
  const out = new Float64Array(numTimesteps * width);
  for (let t = 0; t < numTimesteps; t++) {
    const share = (t + 1) / numTimesteps;
    if (encoding === "raw") {
      out[t] = share;
      continue;
    }
    for (let m = 0; m < frequencies; m++) {
      const angle = 2 ** (m - 1) * Math.PI * share;
      out[t * width + m] = Math.cos(angle);
      out[t * width + frequencies + m] = Math.sin(angle);
    }
  }
  return out;
}

/** Points (rows, dim) with, for each of the frequencies, their cosines, then their sines. */
export function pointFeatures(points: Float64Array, rows: number, dim: number, frequencies: number): Float64Array {
  if (frequencies === 0) return points;
  const width = dim * (1 + 2 * frequencies);
  const out = new Float64Array(rows * width);
  for (let row = 0; row < rows; row++) {
    for (let d = 0; d < dim; d++) {
      const x = points[row * dim + d];
      out[row * width + d] = x;
      for (let m = 0; m < frequencies; m++) {
        const angle = 2 ** (m - 2) * Math.PI * x;
        out[row * width + dim + d * frequencies + m] = Math.cos(angle);
        out[row * width + dim + dim * frequencies + d * frequencies + m] = Math.sin(angle);
      }
    }
  }
  return out;
}
