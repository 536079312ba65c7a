/** Against a small server that speaks the hub's endpoints for making repositories and committing files. */
import { createHash } from "node:crypto";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import { PEFT_FILE } from "../weights/lora-files.js";
import { runCommandLine } from "./program.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-push-"));
const TOKEN = "hf_abcDEF123";

/** What the hub holds, and how it behaves. */
const hub = {
  repos: new Map<string, { private: boolean; branches: Map<string, Map<string, Buffer>> }>(),
  lfs: new Map<string, Buffer>(),
  token: TOKEN,
  writable: true,
  requests: [] as string[],
};

const server = createServer((request, response) => {
  void answer(request).then(({ status = 200, json = {} }) => {
    response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(json));
  });
});
await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

async function answer(request: IncomingMessage): Promise<{ status?: number; json?: unknown }> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  const body = Buffer.concat(chunks);
  const url = new URL(request.url ?? "", endpoint);
  const asked = `${request.method} ${url.pathname}`;
  hub.requests.push(asked);
  const upload = /^PUT \/upload\/(\w+)$/.exec(asked)?.[1];
  if (upload !== undefined) {
    hub.lfs.set(upload, body);
    return {};
  }
  if (request.headers.authorization !== `Bearer ${hub.token}`) return { status: 401, json: { error: "who are you?" } };
  if (asked === "POST /api/repos/create") {
    if (!hub.writable) return { status: 403, json: { error: "not yours" } };
    const { organization, name, visibility } = JSON.parse(body.toString());
    const branches = new Map([["main", new Map<string, Buffer>()]]);
    hub.repos.set(`${organization}/${name}`, { private: visibility === "private", branches });
    return { json: { url: `${endpoint}/${organization}/${name}`, id: "1" } };
  }
  const [, id, action, rev] =
    /^\/api\/models\/([^/]+\/[^/]+)(?:\/(preupload|commit|branch)\/(.+))?$/.exec(url.pathname) ??
    /^\/([^/]+\/[^/]+)\.git\/info\/(lfs)\/objects\/batch$/.exec(url.pathname) ??
    [];
  const repo = hub.repos.get(id ?? "");
  if (!repo) return { status: 404, json: { error: "no such repository" } };
  const branch = decodeURIComponent(rev ?? "main");
  switch (action) {
    case undefined:
      return { json: { id } };
    case "branch":
      if (repo.branches.has(branch)) return { status: 409, json: { error: "exists" } };
      repo.branches.set(branch, new Map());
      return {};
    case "preupload": {
      const { files } = JSON.parse(body.toString()) as { files: { path: string }[] };
      const mode = (path: string) => (path.endsWith(".md") ? "regular" : "lfs");
      return { json: { files: files.map(({ path }) => ({ path, uploadMode: mode(path) })) } };
    }
    case "lfs": {
      const { objects } = JSON.parse(body.toString()) as { objects: { oid: string; size: number }[] };
      const upload = (oid: string) => ({ upload: { href: `${endpoint}/upload/${oid}` } });
      return { json: { transfer: "basic", objects: objects.map((one) => ({ ...one, actions: upload(one.oid) })) } };
    }
    default: {
      const files = repo.branches.get(branch);
      if (!files) return { status: 404, json: { error: "no such branch" } };
      for (const line of body.toString().split("\n")) {
        const { key, value } = JSON.parse(line);
        if (key === "file") files.set(value.path, Buffer.from(value.content, value.encoding));
        if (key === "lfsFile") files.set(value.path, hub.lfs.get(value.oid) as Buffer);
      }
      return { json: { success: true, commitOid: "c0ffee", commitUrl: `${endpoint}/${id}/commit/c0ffee` } };
    }
  }
}

const before = { HF_TOKEN: process.env.HF_TOKEN, HF_ENDPOINT: process.env.HF_ENDPOINT };
Object.assign(process.env, { HF_TOKEN: TOKEN, HF_ENDPOINT: endpoint });
afterAll(async () => {
  for (const [name, value] of Object.entries(before)) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
  server.close();
  await rm(scratch, { recursive: true });
});
afterEach(() => {
  Object.assign(process.env, { HF_TOKEN: TOKEN, HF_ENDPOINT: endpoint });
  Object.assign(hub, { token: TOKEN, writable: true });
  hub.repos.clear();
  hub.requests.length = 0;
});

async function push(...args: string[]) {
  const [printed, said]: [string[], string[]] = [[], []];
  const code = await runCommandLine(["push", ...args], {
    isTTY: false,
    print: (line) => printed.push(line),
    say: (line) => said.push(line),
    update: () => {},
  });
  return { code, printed: printed.join("\n"), said: said.join("\n") };
}

const FILES: Readonly<Record<string, Buffer>> = {
  "README.md": Buffer.from("---\ntags: [lora]\n---\n# fox ☃\n"),
  "fox.kohya.safetensors": Buffer.from([1, 2, 3, 255]),
  "images/000_a-fox.png": Buffer.alloc(2000, 7),
  [PEFT_FILE]: Buffer.from([0, 200, 100]),
};
const adapter = join(scratch, "adapter");
await mkdir(join(adapter, "images"), { recursive: true });
for (const [name, bytes] of Object.entries(FILES)) await writeFile(join(adapter, name), bytes);
for (const name of ["training_state.safetensors", "notes.txt", "images/notes.txt"])
  await writeFile(join(adapter, name), "mine");

describe("a push", () => {
  test("makes the repository and commits adapter, card and pictures, and nothing else", async () => {
    const { code, printed } = await push(adapter, "me/fox", "--private", "--json");
    expect(code).toBe(0);
    expect(JSON.parse(printed)).toMatchObject({ repo: "me/fox", url: `${endpoint}/me/fox`, commit: "c0ffee" });
    const repo = hub.repos.get("me/fox");
    expect(repo?.private).toBe(true);
    expect(Object.fromEntries(repo?.branches.get("main") ?? [])).toEqual(FILES);
    for (const [oid, bytes] of hub.lfs) expect(createHash("sha256").update(bytes).digest("hex")).toBe(oid);
  });

  test("into a repository that is there makes only the branch", async () => {
    await push(adapter, "me/fox");
    hub.requests.length = 0;
    for (const _ of ["new", "there"]) expect((await push(adapter, "me/fox", "--revision", "v 2/x")).code).toBe(0);
    expect(hub.requests).not.toContain("POST /api/repos/create");
    const branches = hub.repos.get("me/fox")?.branches;
    expect([...(branches?.get("v 2/x")?.keys() ?? [])].sort()).toEqual(Object.keys(FILES).sort());
    expect(hub.repos.get("me/fox")?.private).toBe(false);
  });

  test("on trial lists what would be sent, without a token and without a request", async () => {
    delete process.env.HF_TOKEN;
    const { code, printed } = await push(adapter, "me/fox", "--dry-run");
    expect(code).toBe(0);
    for (const name of Object.keys(FILES)) expect(printed).toContain(name);
    expect(printed).toContain(`4 files would go to ${endpoint}/me/fox, branch main; nothing was sent`);
    expect(printed).not.toContain("training_state");
    expect(hub.requests).toEqual([]);
  });
});

describe("a push that cannot be", () => {
  test.each([
    ["without a token", { HF_TOKEN: "" }, "HF_TOKEN: is not set"],
    [
      "with something else for a token",
      { HF_TOKEN: "secret\r\nX: y" },
      "HF_TOKEN: is not an access token of Hugging Face",
    ],
    ["to no address", { HF_ENDPOINT: "huggingface" }, 'HF_ENDPOINT: "huggingface" is not an address such as'],
  ])("%s is refused before any request", async (_, environment, message) => {
    Object.assign(process.env, environment);
    const { code, said } = await push(adapter, "me/fox");
    expect([code, hub.requests]).toEqual([2, []]);
    expect(said).toContain(message);
    expect(said).not.toContain("secret");
  });

  test.each([["fox"], ["me/fox/more"], ["../fox"], ["me/..fox"], ["me/f ox"], ["me/"]])(
    "to %j is refused: that is no repository",
    async (repo) => {
      const { code, said } = await push(adapter, repo);
      expect([code, hub.requests]).toEqual([2, []]);
      expect(said).toContain("expected OWNER/NAME");
    },
  );

  test("because the hub does not know the token, says so", async () => {
    hub.token = "hf_other";
    const { code, said } = await push(adapter, "me/fox");
    expect(code).toBe(2);
    expect(said).toContain(`HF_TOKEN: the hub does not know this token (${endpoint} answered 401)`);
    expect(said).not.toContain(TOKEN);
  });

  test("because the token may not write there, says so", async () => {
    hub.writable = false;
    const { code, said } = await push(adapter, "you/fox");
    expect(code).toBe(2);
    expect(said).toContain(`you/fox: this token may not write there (${endpoint} answered 403)`);
  });

  test("because nobody answers is a failure, not bad input", async () => {
    process.env.HF_ENDPOINT = "http://127.0.0.1:9";
    const { code, said } = await push(adapter, "me/fox");
    expect(code).toBe(1);
    expect(said).toMatch(/http:\/\/127\.0\.0\.1:9 cannot be reached \(.+\); the push is not done/);
  });

  test("because there is no adapter, says what to name", async () => {
    for (const [path, message] of [
      [join(scratch, "none"), "there is no such folder"],
      [join(adapter, PEFT_FILE), "is not a folder"],
      [scratch, `has no ${PEFT_FILE}`],
    ] as const) {
      const { code, said } = await push(path, "me/fox", "--dry-run");
      expect(code).toBe(2);
      expect(said).toContain(message);
    }
  });
});
