import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, readlink, rm, writeFile } from "node:fs/promises";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { COMMIT, filesOf, type HubServer, startHub } from "../../../test/hub-server.js";
import { TINY_SD } from "../../../test/tiny.js";
import { InputError } from "../../errors/index.js";
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
  // What a published repository holds beside it.
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
const storage = () => join(cache, "models--org--tiny-sd");

async function refused(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => new Error("accepted"),
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(InputError);
  return (error as Error).message;
}

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

  test("takes its revision from the setting, and no two different ones", () => {
    expect(parseHubId("org/name", "v2")?.revision).toBe("v2");
    expect(() => parseHubId("org/name@v1", "v2")).toThrow(/names the revision v1, but loading\.revision is v2/);
    for (const hostile of ["../../x", "/etc", "a\\b", "a//b"]) {
      expect(() => parseHubId("org/name", hostile)).toThrow(/cannot be a revision/);
    }
    expect(() => parseHubId("org/name/../../x")).toThrow(/cannot be a file of a repository/);
  });

  test("and what it names stay in their folder on every system", () => {
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
    const places = [
      [{}, join(homedir(), ".cache/huggingface/hub")],
      [{ XDG_CACHE_HOME: "/x" }, "/x/huggingface/hub"],
      [{ HF_HOME: "/home/hf" }, "/home/hf/hub"],
      [{ HF_HOME: "~/hf" }, join(homedir(), "hf/hub")],
      [{ HF_HOME: "/h", HF_HUB_CACHE: "/c" }, "/c"],
    ] as const;
    for (const [env, path] of places) expect(hubOf(env).cache).toBe(path);
    expect(hubOf({})).toMatchObject({ endpoint: "https://huggingface.co", token: undefined, offline: false });
    for (const on of ["1", "ON", "true", "Yes"]) expect(hubOf({ HF_HUB_OFFLINE: on }).offline).toBe(true);
    for (const off of ["", "0", "false"]) expect(hubOf({ HF_HUB_OFFLINE: off }).offline).toBe(false);
    expect(hubOf({}, { offline: true }).offline).toBe(true);
  });

  test("that cannot be meant is refused", () => {
    expect(() => hubOf({ HF_ENDPOINT: "huggingface.co" })).toThrow(/HF_ENDPOINT: "huggingface\.co" is no address/);
    expect(() => hubOf({ HF_TOKEN: "secret" })).toThrow(/HF_TOKEN: is no access token.*begin with hf_/);
  });
});

describe("a model of the hub", () => {
  test("lies in the cache as Python's libraries lay it out, and holds what a run needs and no more", async () => {
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

  test("that is there already costs two questions and no file, a commit not even those", async () => {
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

  test("tells how it goes on, up to all of it", async () => {
    const told: FetchProgress[] = [];
    await snapshot(ID, PIPELINE, { ...options(), onProgress: (progress) => told.push(progress) });
    const last = told.at(-1) as FetchProgress;
    expect(last.done).toBe(last.total);
    expect(last.total).toBeGreaterThan(200_000);
    expect(new Set(told.map(({ file }) => file)).size).toBeGreaterThan(10);
    expect(told.every(({ what, done, total }) => what === REPO && done <= total)).toBe(true);
  });

  test("is asked for with the token, which no other host gets", async () => {
    await get(ID, PIPELINE, { HF_TOKEN: "hf_secret" });
    const toHub = server.requests.filter(({ line }) => line.includes(REPO));
    expect(toHub.length).toBeGreaterThan(10);
    expect(new Set(toHub.map(({ token }) => token))).toEqual(new Set(["Bearer hf_secret"]));
    const elsewhere = server.requests.filter(({ line }) => !line.includes(REPO));
    expect(elsewhere.length).toBe(3);
    expect(new Set(elsewhere.map(({ token }) => token))).toEqual(new Set([undefined]));
  });
});

describe("a connection that breaks", () => {
  const weights: Choose = async () => ["unet/diffusion_pytorch_model.safetensors"];
  const blobs = () => readdir(join(storage(), "blobs"));

  test("is taken up where it broke", async () => {
    server.faults = { cutAfter: 50_000, cuts: 2 };
    const folder = await get(ID, weights);
    const path = "unet/diffusion_pytorch_model.safetensors";
    expect(await readFile(join(folder, path))).toEqual(server.files.get(path));
    expect(server.requests.flatMap(({ line, range }) => (line.includes("safetensors") ? [range] : []))).toContain(
      "bytes=50000-",
    );
    expect(await blobs()).toHaveLength(1);
  });

  test("again and again ends the download; the next one goes on from there", async () => {
    server.faults = { cutAfter: 0, cuts: 100 };
    await expect(get(ID, weights)).rejects.toThrow(/not in the cache .*cannot be reached/);
    server.faults = { cutAfter: 1000, cuts: 1, noRanges: true };
    await get(ID, weights);
    expect((await blobs()).filter((name) => name.includes("incomplete"))).toEqual([]);
  });

  test("keeps what came before an interruption, and that alone", async () => {
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

describe("a server that is not to be trusted", () => {
  const weights: Choose = async () => ["unet/diffusion_pytorch_model.safetensors"];

  test.each([
    ["other bytes", (content: Buffer) => Buffer.from(content).fill(1, 100, 101), /its hash differs/],
    ["more bytes", (content: Buffer) => Buffer.concat([content, Buffer.alloc(10)]), /more than the \d+ bytes/],
  ])("and sends %s leaves nothing behind", async (_, change, message) => {
    server.faults = { send: (path, content) => (path.endsWith(".safetensors") ? change(content) : content) };
    expect(await refused(get(ID, weights))).toMatch(message);
    expect(await readdir(join(storage(), "blobs"))).toEqual([]);
    server.faults = {};
    await get(ID, weights);
  });

  test.each([
    ["../../../evil", /lists a file called "\.\.\/\.\.\/\.\.\/evil", which could lie outside its folder/],
    ["/etc/passwd", /could lie outside/],
    ["unet/..\\..\\evil", /could lie outside/],
  ])("and lists %j is refused", async (path, message) => {
    server.faults = { list: (entries) => [...entries, { ...entries[0], path }] };
    expect(await refused(get())).toMatch(message);
    expect(existsSync(storage())).toBe(false);
  });

  test("and names blobs or commits like paths is refused", async () => {
    server.faults = { list: (entries) => entries.map((entry) => ({ ...entry, oid: "../../evil", lfs: undefined })) };
    expect(await refused(get())).toMatch(/says neither size nor hash/);
    server.faults = { commit: "../../evil" };
    expect(await refused(get())).toMatch(/gives no commit/);
    expect(existsSync(storage())).toBe(false);
  });

  test("and answers in another form is refused", async () => {
    for (const list of [() => ({ error: "?" }), () => [null], () => [{ type: "file" }]]) {
      server.faults = { list };
      expect(await refused(get())).toMatch(/Is it a hub of Hugging Face models/);
    }
  });
});

describe("what is told", () => {
  test.each([
    [401, "RepoNotFound", {}, /shows no such model\. Is the name misspelt\?.* set HF_TOKEN to an access token/],
    [404, "RepoNotFound", { HF_TOKEN: "hf_x" }, /shows no such model.* HF_TOKEN does not open it/],
    [401, "GatedRepo", {}, /is gated: accept its licence on .*\/org\/tiny-sd, then set HF_TOKEN/],
    [403, undefined, { HF_TOKEN: "hf_x" }, /is gated: .*with the account that HF_TOKEN belongs to/],
    [404, "RevisionNotFound", {}, /has this model, but no revision main/],
    [418, undefined, {}, /answered 418/],
  ])("of status %i and code %s", async (status, code, env, message) => {
    server.faults = { status, ...(code !== undefined && { code }) };
    expect(await refused(get(ID, PIPELINE, env))).toMatch(message);
  });

  test("of a repository that is no Stable Diffusion", async () => {
    server.files.delete("model_index.json");
    server.files.set("v1-5.safetensors", Buffer.from("x"));
    expect(await refused(get())).toMatch(/has no model_index\.json.*such as org\/tiny-sd\/v1-5\.safetensors/);
    const index = { _class_name: "FluxPipeline", transformer: ["diffusers", "FluxTransformer2DModel"] };
    server.files.set("model_index.json", Buffer.from(JSON.stringify(index)));
    expect(await refused(get())).toMatch(/is a FluxPipeline; supported are/);
    expect(server.requests.filter(({ line }) => /safetensors/.test(line))).toEqual([]);
  });

  test("of a part without weights, and of a file that is not there", async () => {
    server.files.delete("vae/diffusion_pytorch_model.safetensors");
    expect(await refused(get())).toMatch(/its vae\/ has no weights/);
    expect(await refused(get(ID, async () => ["v2.safetensors"]))).toMatch(/has no file v2\.safetensors/);
  });
});

describe("without the network", () => {
  const away = { HF_ENDPOINT: "http://127.0.0.1:9" };

  test("the cache does, with a note; offline nothing is even asked", async () => {
    const folder = await get();
    expect(await get(ID, PIPELINE, away)).toBe(folder);
    expect(notes).toEqual([expect.stringMatching(/cannot be reached .*; org\/tiny-sd is taken from the cache/)]);
    server.requests.length = 0;
    expect(await get(ID, PIPELINE, { HF_HUB_OFFLINE: "1" })).toBe(folder);
    expect(server.requests).toEqual([]);
    server.faults = { status: 503 };
    expect(await get()).toBe(folder);
  });

  test("what the cache lacks is told, and what it has in part", async () => {
    expect(await refused(get(ID, PIPELINE, { HF_HUB_OFFLINE: "1" }))).toMatch(
      /org\/tiny-sd: is no folder here and not in the cache .*, and the hub is not asked \(offline\)\. Fetch it once/,
    );
    expect(await refused(get(ID, PIPELINE, away))).toMatch(/not in the cache .*cannot be reached/);
    const folder = await get();
    await rm(join(folder, "vae/diffusion_pytorch_model.safetensors"));
    expect(await refused(get(ID, PIPELINE, { HF_HUB_OFFLINE: "1" }))).toMatch(
      /holds only a part of it.*vae\/ has no weights/,
    );
  });

  test("a cache that Python filled is read", async () => {
    const snapshots = join(storage(), "snapshots", COMMIT);
    await mkdir(join(snapshots, "tokenizer"), { recursive: true });
    await mkdir(join(storage(), "refs"));
    await writeFile(join(storage(), "refs/main"), `${COMMIT}\n`);
    for (const name of ["vocab.json", "merges.txt"]) await writeFile(join(snapshots, "tokenizer", name), "{}");
    expect(await get(ID, tokenizerFiles(REPO), { HF_HUB_OFFLINE: "1" })).toBe(snapshots);
  });
});

test("weights in several files are taken with their index, all or none, in the form that is read first", () => {
  const shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
  const index = "model.safetensors.index.json";
  expect(weightsAmong([index, ...shards, "pytorch_model.bin"])).toEqual([index, ...shards]);
  expect(weightsAmong([index, ...shards.slice(1)])).toBeUndefined();
  expect(weightsAmong(["model.fp16.safetensors", "pytorch_model.bin"])).toEqual(["pytorch_model.bin"]);
  const half = ["model.fp16-00001-of-00001.safetensors", "model.safetensors.index.fp16.json"];
  expect(weightsAmong([...half, ...shards])).toEqual([half[1], half[0]]);
  expect(weightsAmong(["config.json"])).toBeUndefined();
});
