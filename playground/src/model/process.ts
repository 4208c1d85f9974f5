/**
 * The noising process that the page trains with, "cosine" of kan_diffusion.processes:
 * x_t = alpha_t x_0 + sigma_t eps for t = 0, ..., 999. Networks predict the velocity
 * v = alpha_t eps - sigma_t x_0 (Salimans and Ho 2022), from which, as alpha² + sigma² = 1,
 * x_0 = alpha_t x_t - sigma_t v and eps = sigma_t x_t + alpha_t v.
 */

export const NUM_TIMESTEPS = 1000;

/** Signal and noise level of every timestep. */
export const ALPHA = new Float64Array(NUM_TIMESTEPS);
export const SIGMA = new Float64Array(NUM_TIMESTEPS);

const signalAt = (share: number): number => Math.cos((((share + 0.008) / 1.008) * Math.PI) / 2) ** 2;

let signal = 1;
for (let t = 0; t < NUM_TIMESTEPS; t++) {
  const beta = Math.min(1 - signalAt((t + 1) / NUM_TIMESTEPS) / signalAt(t / NUM_TIMESTEPS), 0.999);
  signal *= Math.fround(1 - Math.fround(beta)); // diffusers' schedules are of float32
  const rounded = Math.fround(signal);
  ALPHA[t] = Math.sqrt(rounded);
  SIGMA[t] = Math.sqrt(1 - rounded);
}

/** Timesteps of a sampler of so many steps, the noisiest first ("trailing", as in diffusers). */
export function samplerTimesteps(steps: number): number[] {
  const width = NUM_TIMESTEPS / steps;
  return Array.from({ length: steps }, (_, i) => Math.max(0, Math.round(NUM_TIMESTEPS - i * width) - 1));
}
