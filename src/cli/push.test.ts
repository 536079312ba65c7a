/** Tests with a small server that has the endpoints of the hub for creating repositories and committing files. */
import { createHash } from "node:crypto";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import { alignprop, errorOf } from "../../test/command-line.js";
import { PEFT_FILE } from "../weights/lora-files.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-push-"));
const TOKEN = "hf_abcDEF123";

/** The content of the hub, and its answers. */
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
  const route = `${request.method} ${url.pathname}`;
  hub.requests.push(route);
  const upload = /^PUT \/upload\/(\w+)$/.exec(route)?.[1];
  if (upload !== undefined) {
    hub.lfs.set(upload, body);
    return {};
  }
  if (request.headers.authorization !== `Bearer ${hub.token}`) return { status: 401, json: { error: "who are you?" } };
  if (route === "POST /api/repos/create") {
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

const push = (...args: string[]) => alignprop("push", ...args);

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
  test("creates the repository and commits adapter, card and images, and nothing else", async () => {
    const { code, stdout } = await push(adapter, "me/fox", "--private", "--json");
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ repo: "me/fox", url: `${endpoint}/me/fox`, commit: "c0ffee" });
    const repo = hub.repos.get("me/fox");
    expect(repo?.private).toBe(true);
    expect(Object.fromEntries(repo?.branches.get("main") ?? [])).toEqual(FILES);
    for (const [oid, bytes] of hub.lfs) expect(createHash("sha256").update(bytes).digest("hex")).toBe(oid);
  });

  test("into an existing repository creates only the branch", async () => {
    await push(adapter, "me/fox");
    hub.requests.length = 0;
    for (const _ of ["new", "there"]) expect((await push(adapter, "me/fox", "--revision", "v 2/x")).code).toBe(0);
    expect(hub.requests).not.toContain("POST /api/repos/create");
    const branches = hub.repos.get("me/fox")?.branches;
    expect([...(branches?.get("v 2/x")?.keys() ?? [])].sort()).toEqual(Object.keys(FILES).sort());
    expect(hub.repos.get("me/fox")?.private).toBe(false);
  });

  test("with --dry-run lists the files, without a token and without a request", async () => {
    delete process.env.HF_TOKEN;
    const { code, stdout } = await push(adapter, "me/fox", "--dry-run");
    expect(code).toBe(0);
    for (const name of Object.keys(FILES)) expect(stdout).toContain(name);
    for (const fact of ["4 files", `${endpoint}/me/fox`, "branch main"]) expect(stdout).toContain(fact);
    expect(stdout).not.toContain("training_state");
    expect(hub.requests).toEqual([]);
  });
});

describe("a push fails", () => {
  test.each([
    ["without a token", { HF_TOKEN: "" }, { code: "hub-denied", variable: "HF_TOKEN" }],
    ["with a malformed token", { HF_TOKEN: "secret\r\nX: y" }, { code: "setting-invalid", setting: "HF_TOKEN" }],
    ["with a malformed address", { HF_ENDPOINT: "huggingface" }, { code: "setting-invalid", setting: "HF_ENDPOINT" }],
  ])("%s, before any request", async (_, environment, expected) => {
    Object.assign(process.env, environment);
    const result = await push(adapter, "me/fox", "--json");
    expect(errorOf(result)).toMatchObject(expected);
    expect(result.stderr + result.stdout).not.toContain("secret");
    expect(hub.requests).toEqual([]);
  });

  test.each([["fox"], ["me/fox/more"], ["../fox"], ["me/..fox"], ["me/f ox"], ["me/"]])(
    "to %j, which is not a repository",
    async (repo) => {
      const error = errorOf(await push(adapter, repo, "--json"));
      expect(error).toMatchObject({ code: "hub-id-invalid", repo, expected: "OWNER/NAME" });
      expect(hub.requests).toEqual([]);
    },
  );

  test("if the hub does not know the token", async () => {
    hub.token = "hf_other";
    const result = await push(adapter, "me/fox", "--json");
    expect(errorOf(result)).toMatchObject({ code: "hub-denied", variable: "HF_TOKEN", server: endpoint, status: 401 });
    expect(result.stderr + result.stdout).not.toContain(TOKEN);
  });

  test("if the token may not write to the repository", async () => {
    hub.writable = false;
    const error = errorOf(await push(adapter, "you/fox", "--json"));
    expect(error).toMatchObject({ code: "hub-denied", repo: "you/fox", server: endpoint, status: 403 });
  });

  test("with exit code 1 if the hub cannot be reached, because that is not bad input", async () => {
    process.env.HF_ENDPOINT = "http://127.0.0.1:9";
    const error = errorOf(await push(adapter, "me/fox", "--json"), 1);
    expect(error.code).toBe("failed");
    expect(error.message).toContain("http://127.0.0.1:9");
  });

  test("without an adapter", async () => {
    for (const [path, code] of [
      [join(scratch, "none"), "file-not-found"],
      [join(adapter, PEFT_FILE), "file-unreadable"],
      [scratch, "file-not-found"],
    ] as const) {
      expect(errorOf(await push(path, "me/fox", "--dry-run", "--json"))).toMatchObject({ code, path });
    }
  });
});
