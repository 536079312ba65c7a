import { execFile } from "node:child_process";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

const root = join(import.meta.dirname, "..");

/** Some tests start the program as people do, so `dist` must be what `src` is. After `npm run build` it is. */
export default async function build(): Promise<void> {
  const built = await modified(join(root, "dist/src/cli/main.js"));
  const sources = await readdir(join(root, "src"), { recursive: true });
  const changed = await Promise.all(sources.map((file) => modified(join(root, "src", file))));
  if (Math.max(...changed) < built) return;
  await promisify(execFile)(
    process.execPath,
    [join(root, "node_modules/typescript/bin/tsc"), "-p", "tsconfig.build.json"],
    {
      cwd: root,
    },
  );
}

async function modified(path: string): Promise<number> {
  return (await stat(path).catch(() => undefined))?.mtimeMs ?? 0;
}
