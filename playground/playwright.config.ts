import { defineConfig } from "@playwright/test";

const ADDRESS = "http://127.0.0.1:4179/";

export default defineConfig({
  testDir: "browser",
  outputDir: ".results",
  workers: 1, // two networks train side by side
  timeout: 180_000,
  expect: { timeout: 150_000 }, // trainings are waited for
  reporter: "list",
  use: {
    baseURL: ADDRESS,
    viewport: { width: 1400, height: 1000 },
    contextOptions: { reducedMotion: "reduce" },
    launchOptions: { executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium" },
  },
  projects: [
    { name: "playground", testMatch: "playground.spec.ts" },
    { name: "pages", testMatch: "pages.spec.ts" },
  ],
  webServer: { command: "vite preview --host 127.0.0.1 --port 4179 --strictPort", url: ADDRESS },
});
