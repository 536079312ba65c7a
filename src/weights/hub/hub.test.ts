import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, readlink, rm, writeFile } from "node:fs/promises";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import { COMMIT, filesOf, type HubServer, startHub } from "../../../test/hub-server.js";
import { TINY_SD } from "../../../test/tiny.js";
import type { ErrorCode, ErrorFacts } from "../../errors/index.js";
import { weightsAmong } from "../folder.js";
import { type HubId, hubOf, isSafePath, parseHubId } from "./id.js";
import { pipelineFiles, tokenizerFiles } from "./pipeline-files.js";
import { type Choose, type FetchProgress, type SnapshotOptions, snapshot } from "./snapshot.js";

const REPO = "org/tiny-sd";
const ID: HubId = { repo: REPO, revision: "main" };
const PIPELINE = pipelineFiles(REPO);

let root: string;
let server: HubServer;
let cache: string;
let notes: string[];
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "alignprop-hub-"));
  server = await startHub(REPO);
});
afterAll(async () => {
  await server.close();
  await rm(root, { recursive: true });
});
beforeEach(async () => {
  server.files.clear();
  for (const [path, content] of await filesOf(TINY_SD)) server.files.set(path, content);
  // A published repository has other files beside the model.
  for (const extra of [
    "README.md",
    "safety_checker/model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
  ]) {
    server.files.set(extra, Buffer.from("not needed"));
  }
  server.requests.length = 0;
  server.faults = {};
  cache = await mkdtemp(join(root, "cache-"));
  notes = [];
});

const options = (env: Record<string, string> = {}): SnapshotOptions => ({
  hub: hubOf({ HF_ENDPOINT: `${server.endpoint}/`, HF_HUB_CACHE: cache, ...env }),
  note: (message) => notes.push(message),
});
const get = (id = ID, choose: Choose = PIPELINE, env = {}) => snapshot(id, choose, options(env));
/** The facts that name the model and the server. */
const where = () => ({ model: REPO, endpoint: server.endpoint });
const storage = () => join(cache, "models--org--tiny-sd");

const expectRefused = (work: Promise<unknown>, code: ErrorCode, facts: ErrorFacts = {}) =>
  expect(work).rejects.toThrow(inputError(code, facts));

describe("an id", () => {
  test.each([
    ["org/name", { repo: "org/name", revision: "main" }],
    ["hf://org/name", { repo: "org/name", revision: "main" }],
    ["org/name@fp16", { repo: "org/name", revision: "fp16" }],
    ["org/name@refs/pr/7", { repo: "org/name", revision: "refs/pr/7" }],
    ["org/name/v1-5.safetensors", { repo: "org/name", revision: "main", file: "v1-5.safetensors" }],
    ["o-1/n_2.3@v1/sub/a b.ckpt", { repo: "o-1/n_2.3", revision: "v1", file: "sub/a b.ckpt" }],
  ])("%s is read", (spec, id) => expect(parseHubId(spec)).toEqual(id));

  test.each(["name", "/org/name", "./org/name", "org/", "org/a--b", "../name", "org/..", "org name/x", "org/na?me"])(
    "is not %j",
    (spec) => expect(parseHubId(spec)).toBeUndefined(),
  );

  test("takes its revision from the setting, but not two different ones", () => {
    expect(parseHubId("org/name", "v2")?.revision).toBe("v2");
    expect(() => parseHubId("org/name@v1", "v2")).toThrow(
      inputError("settings-conflict", { model: "org/name@v1", setting: "loading.revision", found: ["v1", "v2"] }),
    );
    for (const revision of ["../../x", "/etc", "a\\b", "a//b"]) {
      expect(() => parseHubId("org/name", revision)).toThrow(
        inputError("hub-id-invalid", { model: "org/name", revision }),
      );
    }
    expect(() => parseHubId("org/name/../../x")).toThrow(
      inputError("hub-id-invalid", { model: "org/name/../../x", file: "../../x" }),
    );
  });

  test("may only name files that stay in their folder on every system", () => {
    for (const path of [
      "..",
      "a/../b",
      "/a",
      "a//b",
      "a\\b",
      "C:x",
      "a/C:x",
      "",
      "a\0",
      "a\n",
      "a ",
      "x".repeat(600),
    ]) {
      expect(isSafePath(path), path).toBe(false);
    }
    for (const path of ["a", "a/b.c", ".gitattributes", "a b", "..a"]) expect(isSafePath(path), path).toBe(true);
  });
});

describe("the environment", () => {
  test("is that of Python's huggingface_hub", () => {
    const locations = [
      [{}, join(homedir(), ".cache/huggingface/hub")],
      [{ XDG_CACHE_HOME: "/x" }, "/x/huggingface/hub"],
      [{ HF_HOME: "/home/hf" }, "/home/hf/hub"],
      [{ HF_HOME: "~/hf" }, join(homedir(), "hf/hub")],
      [{ HF_HOME: "/h", HF_HUB_CACHE: "/c" }, "/c"],
    ] as const;
    for (const [env, path] of locations) expect(hubOf(env).cache).toBe(path);
    expect(hubOf({})).toMatchObject({ endpoint: "https://huggingface.co", token: undefined, offline: false });
    for (const on of ["1", "ON", "true", "Yes"]) expect(hubOf({ HF_HUB_OFFLINE: on }).offline).toBe(true);
    for (const off of ["", "0", "false"]) expect(hubOf({ HF_HUB_OFFLINE: off }).offline).toBe(false);
    expect(hubOf({}, { offline: true }).offline).toBe(true);
  });

  test("with an invalid endpoint or token is refused, and the token is not repeated", () => {
    expect(() => hubOf({ HF_ENDPOINT: "huggingface.co" })).toThrow(
      inputError("setting-invalid", { setting: "HF_ENDPOINT", found: "huggingface.co" }),
    );
    const setting = { setting: "HF_TOKEN", expected: "hf_" };
    expect(() => hubOf({ HF_TOKEN: "secret" })).toThrow(
      expect.objectContaining({
        code: "setting-invalid",
        facts: setting,
        message: expect.not.stringContaining("secret"),
      }),
    );
  });
});

describe("a model of the hub", () => {
  test("is in the cache in the layout of Python's libraries, with only the files that a run needs", async () => {
    const folder = await get();
    expect(folder).toBe(join(storage(), "snapshots", COMMIT));
    expect(await readFile(join(storage(), "refs/main"), "utf8")).toBe(COMMIT);
    const unet = "unet/diffusion_pytorch_model.safetensors";
    expect(await readlink(join(folder, unet))).toMatch(/^\.\.\/\.\.\/\.\.\/blobs\/[0-9a-f]{64}$/);
    expect(await readlink(join(folder, "model_index.json"))).toMatch(/^\.\.\/\.\.\/blobs\/[0-9a-f]{40}$/);
    const here = new Map(
      await Promise.all((await readdir(folder, { recursive: true })).map(async (path) => [path, 0] as const)),
    );
    for (const path of [
      "README.md",
      "golden.json",
      "safety_checker",
      "unet/diffusion_pytorch_model.fp16.safetensors",
    ]) {
      expect(here.has(path), path).toBe(false);
    }
    for (const [path, content] of server.files) {
      if (here.has(path)) expect(await readFile(join(folder, path)), path).toEqual(content);
    }
    expect([...here.keys()].filter((path) => server.files.has(path)).length).toBeGreaterThan(10);
  });

  test("that is cached takes two kinds of requests and no file, a commit no requests", async () => {
    await get();
    server.requests.length = 0;
    await get();
    expect(server.requests.map(({ line }) => line)).toEqual([
      `GET /api/models/${REPO}/revision/main`,
      `GET /api/models/${REPO}/tree/${COMMIT}`,
      `GET /api/models/${REPO}/tree/${COMMIT}`,
    ]);
    server.requests.length = 0;
    await get({ repo: REPO, revision: COMMIT });
    expect(server.requests).toEqual([]);
  });

  test("may be named by a branch with a slash", async () => {
    await get({ repo: REPO, revision: "v1/beta" });
    expect(await readFile(join(storage(), "refs/v1/beta"), "utf8")).toBe(COMMIT);
  });

  test("reports its progress up to the last byte", async () => {
    const reported: FetchProgress[] = [];
    await snapshot(ID, PIPELINE, { ...options(), onProgress: (progress) => reported.push(progress) });
    const last = reported.at(-1) as FetchProgress;
    expect(last.done).toBe(last.total);
    expect(last.total).toBeGreaterThan(200_000);
    expect(new Set(reported.map(({ file }) => file)).size).toBeGreaterThan(10);
    expect(reported.every(({ what, done, total }) => what === REPO && done <= total)).toBe(true);
  });

  test("is requested with the token, which no other host gets", async () => {
    await get(ID, PIPELINE, { HF_TOKEN: "hf_secret" });
    const toHub = server.requests.filter(({ line }) => line.includes(REPO));
    expect(toHub.length).toBeGreaterThan(10);
    expect(new Set(toHub.map(({ token }) => token))).toEqual(new Set(["Bearer hf_secret"]));
    const elsewhere = server.requests.filter(({ line }) => !line.includes(REPO));
    expect(elsewhere.length).toBe(3);
    expect(new Set(elsewhere.map(({ token }) => token))).toEqual(new Set([undefined]));
  });
});

describe("a broken connection", () => {
  const weights: Choose = async () => ["unet/diffusion_pytorch_model.safetensors"];
  const blobs = () => readdir(join(storage(), "blobs"));

  test("is resumed at the byte where it broke", async () => {
    server.faults = { cutAfter: 50_000, cuts: 2 };
    const folder = await get(ID, weights);
    const path = "unet/diffusion_pytorch_model.safetensors";
    expect(await readFile(join(folder, path))).toEqual(server.files.get(path));
    expect(server.requests.flatMap(({ line, range }) => (line.includes("safetensors") ? [range] : []))).toContain(
      "bytes=50000-",
    );
    expect(await blobs()).toHaveLength(1);
  });

  test("again and again ends the download, and the next one resumes it", async () => {
    server.faults = { cutAfter: 0, cuts: 100 };
    await expectRefused(get(ID, weights), "hub-unreachable", { model: REPO, path: cache, offline: false });
    server.faults = { cutAfter: 1000, cuts: 1, noRanges: true };
    await get(ID, weights);
    expect((await blobs()).filter((name) => name.includes("incomplete"))).toEqual([]);
  });

  test("keeps the bytes that arrived before an interruption", async () => {
    const controller = new AbortController();
    const onProgress = ({ done }: FetchProgress) => {
      if (done > 0) controller.abort();
    };
    const work = snapshot(ID, weights, { ...options(), signal: controller.signal, onProgress });
    await expect(work).rejects.toThrow(/abort/i);
    expect(await readdir(storage())).not.toContain("refs");
    expect(await blobs()).toEqual([expect.stringMatching(/^[0-9a-f]{64}\.alignprop-incomplete$/)]);
    await get(ID, weights);
    expect(await blobs()).toEqual([expect.stringMatching(/^[0-9a-f]{64}$/)]);
  });
});

describe("an untrusted server", () => {
  const weights: Choose = async () => ["unet/diffusion_pytorch_model.safetensors"];

  test.each([
    ["other bytes", (content: Buffer) => Buffer.from(content).fill(1, 100, 101), /^[0-9a-f]{64}$/],
    ["more bytes", (content: Buffer) => Buffer.concat([content, Buffer.alloc(10)]), /^[0-9]{1,9}$/],
  ])("that sends %s leaves nothing behind", async (_, change, form) => {
    server.faults = { send: (path, content) => (path.endsWith(".safetensors") ? change(content) : content) };
    const error = await get(ID, weights).catch((caught) => caught);
    expect(error).toEqual(inputError("server-failed", { url: expect.stringMatching(/^http.*\.safetensors$/) }));
    const { expected, found } = error.facts;
    expect([String(expected), String(found)]).toEqual([expect.stringMatching(form), expect.stringMatching(form)]);
    expect(found).not.toBe(expected);
    expect(await readdir(join(storage(), "blobs"))).toEqual([]);
    server.faults = {};
    await get(ID, weights);
  });

  test.each(["../../../evil", "/etc/passwd", "unet/..\\..\\evil"])("that lists %j is refused", async (path) => {
    server.faults = { list: (entries) => [...entries, { ...entries[0], path }] };
    await expectRefused(get(), "server-failed", { ...where(), file: JSON.stringify(path) });
    expect(existsSync(storage())).toBe(false);
  });

  test("that names blobs or commits like paths is refused", async () => {
    server.faults = { list: (entries) => entries.map((entry) => ({ ...entry, oid: "../../evil", lfs: undefined })) };
    await expectRefused(get(), "server-failed", { ...where(), missing: "size or hash" });
    server.faults = { commit: "../../evil" };
    await expectRefused(get(), "server-failed", { ...where(), missing: "commit" });
    expect(existsSync(storage())).toBe(false);
  });

  test("that answers in another form is refused", async () => {
    for (const list of [() => ({ error: "?" }), () => [null], () => [{ type: "file" }]]) {
      server.faults = { list };
      await expectRefused(get(), "server-failed", where());
    }
  });
});

describe("a refusal", () => {
  const token = { HF_TOKEN: "hf_x" };
  const gated = { url: expect.stringMatching(/\/org\/tiny-sd$/) };
  test.each<[number, string | undefined, Record<string, string>, ErrorCode, ErrorFacts]>([
    [401, "RepoNotFound", {}, "hub-not-found", { hasToken: false }],
    [404, "RepoNotFound", token, "hub-not-found", { hasToken: true }],
    [401, "GatedRepo", {}, "hub-denied", { ...gated, hasToken: false }],
    [403, undefined, token, "hub-denied", { ...gated, hasToken: true }],
    [404, "RevisionNotFound", {}, "hub-not-found", { revision: "main" }],
    [418, undefined, {}, "server-failed", {}],
  ])("with status %i and code %s", async (status, header, env, code, facts) => {
    server.faults = { status, ...(header !== undefined && { code: header }) };
    await expectRefused(get(ID, PIPELINE, env), code, { ...where(), status, ...facts });
  });

  test("of a repository that is not a Stable Diffusion", async () => {
    server.files.delete("model_index.json");
    server.files.set("v1-5.safetensors", Buffer.from("x"));
    await expectRefused(get(), "model-unsupported", {
      model: REPO,
      missing: "model_index.json",
      suggestion: "org/tiny-sd/v1-5.safetensors",
    });
    const index = { _class_name: "FluxPipeline", transformer: ["diffusers", "FluxTransformer2DModel"] };
    server.files.set("model_index.json", Buffer.from(JSON.stringify(index)));
    await expectRefused(get(), "model-unsupported", {
      model: REPO,
      found: "FluxPipeline",
      expected: "UNet2DConditionModel",
    });
    expect(server.requests.filter(({ line }) => /safetensors/.test(line))).toEqual([]);
  });

  test("of a model whose U-Net takes another image, before its weights are downloaded", async () => {
    const path = "unet/config.json";
    const config = JSON.parse(String(server.files.get(path)));
    server.files.set(path, Buffer.from(JSON.stringify({ ...config, in_channels: 9 })));
    await expectRefused(get(), "model-unsupported", { model: REPO, component: "unet", found: 9, expected: 4 });
    expect(server.requests.filter(({ line }) => /safetensors/.test(line))).toEqual([]);
  });

  test("of a component without weights, and of a file that does not exist", async () => {
    server.files.delete("vae/diffusion_pytorch_model.safetensors");
    await expectRefused(get(), "model-incomplete", { model: REPO, component: "vae", missing: "weights" });
    const choose = async () => ["v2.safetensors"];
    await expectRefused(get(ID, choose), "hub-not-found", { ...where(), file: "v2.safetensors" });
  });
});

describe("without the network", () => {
  const away = { HF_ENDPOINT: "http://127.0.0.1:9" };

  test("the cache is used, with a note; offline there are no requests", async () => {
    const folder = await get();
    expect(await get(ID, PIPELINE, away)).toBe(folder);
    expect(notes).toEqual([expect.stringMatching(/127\.0\.0\.1:9.*org\/tiny-sd.*cache/)]);
    server.requests.length = 0;
    expect(await get(ID, PIPELINE, { HF_HUB_OFFLINE: "1" })).toBe(folder);
    expect(server.requests).toEqual([]);
    server.faults = { status: 503 };
    expect(await get()).toBe(folder);
  });

  test("a model that is not in the cache, or only in part, is refused", async () => {
    const offline = { model: REPO, path: cache, offline: true };
    await expectRefused(get(ID, PIPELINE, { HF_HUB_OFFLINE: "1" }), "hub-unreachable", offline);
    await expectRefused(get(ID, PIPELINE, away), "hub-unreachable", {
      model: REPO,
      path: cache,
      offline: false,
      // Without the query of the hub's API.
      reason: expect.stringMatching(/^[^?]*127\.0\.0\.1:9[^?]*$/),
    });
    const folder = await get();
    await rm(join(folder, "vae/diffusion_pytorch_model.safetensors"));
    await expectRefused(get(ID, PIPELINE, { HF_HUB_OFFLINE: "1" }), "hub-unreachable", {
      ...offline,
      component: "vae",
      missing: "weights",
    });
  });

  test("a cache that was filled by Python is read", async () => {
    const snapshots = join(storage(), "snapshots", COMMIT);
    await mkdir(join(snapshots, "tokenizer"), { recursive: true });
    await mkdir(join(storage(), "refs"));
    await writeFile(join(storage(), "refs/main"), `${COMMIT}\n`);
    for (const name of ["vocab.json", "merges.txt"]) await writeFile(join(snapshots, "tokenizer", name), "{}");
    expect(await get(ID, tokenizerFiles(REPO), { HF_HUB_OFFLINE: "1" })).toBe(snapshots);
  });
});

test("sharded weights are chosen with their index, all or none, in the format that is preferred", () => {
  const shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
  const index = "model.safetensors.index.json";
  expect(weightsAmong([index, ...shards, "pytorch_model.bin"])).toEqual([index, ...shards]);
  expect(weightsAmong([index, ...shards.slice(1)])).toBeUndefined();
  expect(weightsAmong(["model.fp16.safetensors", "pytorch_model.bin"])).toEqual(["pytorch_model.bin"]);
  const half = ["model.fp16-00001-of-00001.safetensors", "model.safetensors.index.fp16.json"];
  expect(weightsAmong([...half, ...shards])).toEqual([half[1], half[0]]);
  expect(weightsAmong(["config.json"])).toBeUndefined();
});
