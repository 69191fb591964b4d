// Are pages accessible, and do they fit a phone? axe-core looks at each page in Chromium, at 390 and
// 1440 pixels of width, in the light and in the dark scheme.
//
//   node check.mjs [--json] [--shots FOLDER] PAGE.html FOLDER_OF_A_SITE ...
//
// It prints what is wrong. Exit code: 0 nothing, 1 something, 2 no page is named, 3 a package or the
// browser is missing.

import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { basename, dirname, extname, join } from "node:path";
import { parseArgs } from "node:util";

const WIDTHS = [390, 1440];
const SCHEMES = ["light", "dark"];
const TYPES = { ".css": "text/css", ".html": "text/html", ".js": "text/javascript",
  ".json": "application/json", ".png": "image/png", ".svg": "image/svg+xml" };
const BROWSERS = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"];

function leave(code, said) {
  console.error(said);
  process.exit(code);
}

// A folder as a web server shows it: search needs one.
async function serve(folder) {
  const server = createServer((request, response) => {
    const path = join(folder, decodeURIComponent(new URL(request.url, "http://x").pathname));
    const isThere = existsSync(path) && statSync(path).isFile();
    response.writeHead(isThere ? 200 : 404, { "content-type": TYPES[extname(path)] ?? "text/plain" });
    response.end(isThere ? readFileSync(path) : "");
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  return { server, address: `http://127.0.0.1:${server.address().port}` };
}

function pagesOf(place) {
  if (statSync(place).isFile()) return [dirname(place), [basename(place)]];
  const names = readdirSync(place, { recursive: true }).filter((name) => name.endsWith(".html"));
  return [place, names.sort()];
}

// What is wrong with the page as it stands: a rule, and the elements that break it.
async function faultsOf(page, axe) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run({ resultTypes: ["violations"] }));
  const found = violations.map(({ id, help, nodes }) => ({
    rule: id, help,
    nodes: nodes.map(({ target, any, all, none }) => `${target.join(" ")}: ${[...any, ...all, ...none][0]?.message}`),
  }));
  const [needed, given] = await page.evaluate(() =>
    [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  if (needed > given)
    found.push({ rule: "sideways", help: "The page scrolls sideways", nodes: [`${needed} of ${given} pixels`] });
  return found;
}

function print(faults) {
  for (const { page, width, scheme, rule, help, nodes } of faults) {
    console.log(`${page} (${width}, ${scheme}): ${rule}: ${help}`);
    for (const node of nodes.slice(0, 5)) console.log(`    ${node}`);
    if (nodes.length > 5) console.log(`    and ${nodes.length - 5} more`);
  }
}

const { values: asked, positionals: places } = parseArgs({
  allowPositionals: true,
  options: { shots: { type: "string" }, json: { type: "boolean" } },
});
if (!places.length) leave(2, "name a page or the folder of a site");
const { chromium, axe } = await Promise.all([import("playwright-core"), import("axe-core")])
  .then(([browser, rules]) => ({ chromium: browser.chromium, axe: rules.default.source }))
  .catch(() => leave(3, "packages are missing: npm install --prefix recipes/accessibility"));
const executablePath = BROWSERS.find((path) => path && existsSync(path));
if (!executablePath) leave(3, "no Chromium found; set CHROMIUM to its path");
if (asked.shots) mkdirSync(asked.shots, { recursive: true });

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
const faults = [];
let n = 0;
for (const place of places) {
  const [folder, names] = pagesOf(place);
  const { server, address } = await serve(folder);
  n += names.length;
  for (const scheme of SCHEMES) {
    const page = await browser.newPage({ colorScheme: scheme, reducedMotion: "reduce", bypassCSP: true });
    for (const name of names) {
      await page.goto(`${address}/${name}`);
      for (const width of WIDTHS) {
        await page.setViewportSize({ width, height: width < 600 ? 844 : 900 });
        await page.waitForTimeout(300); // for what the page does when its width changes
        for (const one of await faultsOf(page, axe)) faults.push({ page: name, width, scheme, ...one });
        if (!asked.shots) continue;
        const shot = `${name.replaceAll("/", "-").replace(".html", "")}-${width}-${scheme}.png`;
        await page.screenshot({ path: join(asked.shots, shot), fullPage: true });
      }
    }
    await page.close();
  }
  server.close();
}
await browser.close();

if (asked.json) console.log(JSON.stringify(faults));
else {
  print(faults);
  console.log(`${n} pages at ${WIDTHS.join(" and ")} pixels, ${SCHEMES.join(" and ")}: ${faults.length} faults`);
}
process.exit(faults.length ? 1 : 0);
