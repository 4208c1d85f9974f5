import { defineConfig } from "vitest/config";

// Relative addresses: the built page works in any folder of any server. Names without hashes: a
// build is the same files every time, and dist/ can be compared with it.
export default defineConfig({
  base: "./",
  build: {
    target: "es2022",
    modulePreload: { polyfill: false },
    rollupOptions: {
      output: { entryFileNames: "[name].js", chunkFileNames: "[name].js", assetFileNames: "[name][extname]" },
    },
  },
  worker: {
    format: "es",
    rollupOptions: { output: { entryFileNames: "[name].js" } },
  },
  test: { include: ["tests/**/*.test.ts"] },
});
