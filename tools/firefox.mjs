// 替测试开 Firefox：标准输入一行一条 JSON 命令，标准输出一行一个结果。用法：node firefox.mjs Firefox的路径
import { createInterface } from "node:readline";
import puppeteer from "puppeteer-core";

const proxy = { type: 1, http: "127.0.0.1", http_port: 9, ssl: "127.0.0.1", ssl_port: 9, no_proxies_on: "127.0.0.1" };
const browser = await puppeteer.launch({
  browser: "firefox",
  executablePath: process.argv[2],
  headless: true,
  // 断网：本机以外都走一个没人听的代理
  extraPrefsFirefox: Object.fromEntries(Object.entries(proxy).map(([name, value]) => [`network.proxy.${name}`, value])),
});
let page;
let problems = [];

const commands = {
  async open(address) {
    await page?.close();
    problems = [];
    page = await browser.newPage();
    await page.setViewport({ width: 1000, height: 900 });
    page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
    page.on("pageerror", (error) => problems.push(String(error)));
    await page.goto(address, { waitUntil: "load" });
  },
  run: (script) => page.evaluate(script),
  click: (selector) => page.click(selector),
  upload: async (selector, path) => (await page.$(selector)).uploadFile(path),
  async press(selector, key) {
    await page.focus(selector);
    await page.keyboard.press(key);
  },
  errors: () => problems,
};

for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...values] = JSON.parse(line);
  let answer;
  try {
    answer = { value: (await commands[name](...values)) ?? null };
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
