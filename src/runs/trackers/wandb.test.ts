/** Tracking in the small W&B service of the tests, and in the files that `wandb sync` reads. */
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import sharp from "sharp";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import { evaluationOf, metricsOf, PROMPTS, resumeRun, startRun } from "../../../test/made-up-run.js";
import { startWandb, type WandbServer } from "../../../test/wandb-server.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-wandb-"));
afterAll(() => rm(scratch, { recursive: true }));

const KEY = "0123456789abcdef0123456789abcdef01234567";
const timing = { first: 5, longest: 20, patience: 200 };

describe("a run in Weights & Biases", () => {
  let server: WandbServer;
  beforeEach(async () => {
    server = await startWandb(KEY);
  });
  afterEach(() => server.close());

  const options = () => ({ timing, env: { WANDB_BASE_URL: server.address, WANDB_API_KEY: KEY } });
  const only = () => {
    const [found] = [...server.runs];
    if (found === undefined) throw new Error("no run was created");
    return { id: found[0], ...found[1] };
  };

  test("has a line of history for each step, a summary, the settings and a link", async () => {
    const run = await startRun(join(scratch, "whole"), ["wandb"], options());
    await run.stepsTo(4);
    const { id, entity, project, displayName, config, history, summary, exitcode } = only();
    expect([entity, project, displayName, exitcode]).toEqual(["someone", "alignprop", "whole", 0]);
    expect([...history.keys()]).toEqual([0, 1, 2, 3, 4]);
    const { step: _, rewards = {}, grad_norm: __, ...row } = metricsOf(3);
    expect(history.get(3)).toMatchObject({ ...row, skipped: 1, "rewards/clip": rewards.clip, _step: 3 });
    expect(history.get(3)).not.toHaveProperty("grad_norm");
    expect(history.get(0)).toMatchObject({ eval_reward_mean: 0.25, eval_reward_std: 0.5, _step: 0 });
    expect(summary).toEqual(history.get(4));
    expect(config.lora?.value).toMatchObject({ rank: 4 });
    expect(run.messages).toEqual([`wandb: ${server.address}/someone/alignprop/runs/${id}`]);
    expect(run.trackers.places).toEqual({ wandb: `${server.address}/someone/alignprop/runs/${id}` });
    expect(run.warnings).toEqual([]);
  });

  test("has the images of the evaluations with captions, uploaded before the line that names them", async () => {
    const run = await startRun(join(scratch, "images"), ["wandb"], options());
    await run.stepsTo(4);
    const { history, files, uploaded } = only();
    for (const step of [0, 2, 4]) {
      const samples = history.get(step)?.pictures as { filenames: string[] };
      expect(samples).toMatchObject({ _type: "images/separated", format: "png", width: 7, height: 5, count: 2 });
      expect(samples).toHaveProperty("captions", [
        `a fox, reward ${(step - 0.25).toPrecision(3)}, seed 7`,
        `${PROMPTS[1]}, reward ${(step + 0.75).toPrecision(3)}, seed 8`,
      ]);
      for (const [i, name] of samples.filenames.entries()) {
        expect(uploaded).toContain(name);
        const pixels = await sharp(files.get(name)).raw().toBuffer();
        expect([...pixels]).toEqual([...(evaluationOf(step).images[i]?.pixels ?? [])]);
      }
    }
    expect(server.requests.filter((route) => /upload |file_stream/.test(route)).slice(0, 3)).toEqual([
      expect.stringMatching(/^upload media\/images\/pictures_0_0_/),
      expect.stringMatching(/^upload media\/images\/pictures_0_1_/),
      "file_stream",
    ]);
  });

  test("resumes under the same id, and no line is written twice", async () => {
    const killed = await startRun(join(scratch, "resumed"), ["wandb"], options());
    await killed.stepsTo(3);
    await killed.trackers.end("failed");
    expect(only().exitcode).toBe(1);
    const again = await resumeRun(killed.folder.path, options());
    await again.stepsTo(4);
    expect(server.runs.size).toBe(1);
    expect([...only().history.keys()]).toEqual([0, 1, 2, 3, 4]);
    expect([server.rewritten, only().exitcode]).toEqual([0, 0]);
  });

  test("warns once that the service cannot be reached, and sends the missing data later", async () => {
    const patient = { ...options(), timing: { ...timing, patience: 5000 } };
    const run = await startRun(join(scratch, "away"), ["wandb"], patient);
    server.faults.status = 502;
    await run.stepsTo(3);
    await new Promise((resolve) => setTimeout(resolve, 60));
    server.faults = {};
    await run.stepsTo(4);
    expect([...only().history.keys()]).toEqual([0, 1, 2, 3, 4]);
    expect(run.warnings).toEqual([expect.stringMatching(/answered 502: simulated fault\. Training goes on, and/)]);
  });

  test("uses the project and entity of the settings before those of the environment", async () => {
    const env = { ...options().env, WANDB_PROJECT: "other", WANDB_ENTITY: "team" };
    const byName = await startRun(join(scratch, "named"), [{ name: "wandb", project: "foxes" }], { timing, env });
    await byName.stepsTo(4);
    expect(only()).toMatchObject({ entity: "team", project: "foxes" });
  });

  test("keeps the key out of the run's folder and the messages", async () => {
    const run = await startRun(join(scratch, "secrets"), ["wandb"], options());
    await run.stepsTo(4);
    for (const file of ["config.yaml", "metrics.jsonl", "trackers.json", "report.html"]) {
      expect(await readFile(join(run.folder.path, file), "utf8")).not.toContain(KEY);
    }
    expect(JSON.stringify([only().config, only().summary, run.messages])).not.toContain(KEY);
  });

  test.each<[string, NodeJS.ProcessEnv, (server: string) => Error]>([
    [
      "no key",
      { WANDB_API_KEY: "" },
      (server) => inputError("setting-invalid", { variable: "WANDB_API_KEY", suggestion: `${server}/authorize` }),
    ],
    [
      "a short key",
      { WANDB_API_KEY: "abc" },
      (server) =>
        inputError("setting-invalid", {
          ...{ variable: "WANDB_API_KEY", found: 3, expected: 40 },
          suggestion: `${server}/authorize`,
        }),
    ],
    [
      "an unknown key",
      { WANDB_API_KEY: "x".repeat(40) },
      (server) => inputError("server-failed", { server, variable: "WANDB_API_KEY", suggestion: `${server}/authorize` }),
    ],
    [
      "no server there",
      { WANDB_BASE_URL: "http://127.0.0.1:9" },
      () => inputError("server-failed", { server: "http://127.0.0.1:9/graphql", suggestion: "WANDB_MODE=offline" }),
    ],
    ["no address", { WANDB_BASE_URL: "here" }, () => inputError("setting-invalid", { variable: "WANDB_BASE_URL" })],
    [
      "an invalid mode",
      { WANDB_MODE: "sometimes" },
      () => inputError("setting-invalid", { variable: "WANDB_MODE", found: "sometimes" }),
    ],
    [
      "an invalid project",
      { WANDB_PROJECT: "a/b" },
      () => inputError("setting-invalid", { key: "project", variable: "WANDB_PROJECT", found: "a/b" }),
    ],
  ])("is refused before training: %s", async (_, env, error) => {
    const all = { ...options().env, ...env };
    const refused = startRun(join(scratch, "bad"), ["wandb"], { env: all });
    await expect(refused).rejects.toThrow(error(server.address));
    await expect(readdir(join(scratch, "bad"))).rejects.toThrow("ENOENT");
    expect(server.runs.size).toBe(0);
  });

  test("is not tracked if WANDB_MODE is disabled", async () => {
    const run = await startRun(join(scratch, "disabled"), ["wandb"], { env: { WANDB_MODE: "disabled" } });
    await run.stepsTo(4);
    expect([run.trackers.places, run.messages, run.warnings]).toEqual([{}, [], []]);
  });
});

/** Fields of a message by their numbers. */
function fieldsOf(bytes: Uint8Array): Map<number, (Uint8Array | number)[]> {
  const reader = new BinaryReader(bytes);
  const fields = new Map<number, (Uint8Array | number)[]>();
  while (reader.pos < reader.len) {
    const [number, type] = reader.tag();
    const value = type === WireType.Varint ? Number(reader.int64()) : reader.bytes();
    fields.set(number, [...(fields.get(number) ?? []), value]);
  }
  return fields;
}

const text = (value: unknown) => Buffer.from(value as Uint8Array).toString();

/** Reads LevelDB's log format, with W&B's header and checksum. */
function recordsOf(file: Buffer): Uint8Array[] {
  expect([...file.subarray(0, 7)]).toEqual([0x3a, 0x57, 0x26, 0x42, 0xe1, 0xbe, 0]);
  const records: Uint8Array[] = [];
  let open: Uint8Array[] = [];
  for (let at = 7; at < file.length; ) {
    const left = 32768 - (at % 32768);
    if (left < 7) {
      expect(file.subarray(at, at + left).every((byte) => byte === 0)).toBe(true);
      at += left;
      continue;
    }
    const [length, kind] = [file.readUInt16LE(at + 4), file.readUInt8(at + 6)];
    expect(length + 7).toBeLessThanOrEqual(left);
    expect(file.readUInt32LE(at)).toBe(crc32(file.subarray(at + 6, at + 7 + length)));
    // 1: whole record, 2: first part, 3: middle part, 4: last part
    expect([1, 2].includes(kind)).toBe(open.length === 0);
    open.push(file.subarray(at + 7, at + 7 + length));
    if (kind === 1 || kind === 4) {
      records.push(Buffer.concat(open));
      open = [];
    }
    at += 7 + length;
  }
  expect(open).toEqual([]);
  return records;
}

interface Offline {
  readonly kinds: number[];
  readonly folder: string;
  readonly runs: Map<number, (Uint8Array | number)[]>[];
  readonly history: Record<string, unknown>[];
  readonly files: string[];
  readonly exitCode: number | undefined;
}

async function offlineOf(run: string): Promise<Offline> {
  const names = await readdir(join(run, "wandb"));
  expect(names).toHaveLength(1);
  const folder = join(run, "wandb", names[0] as string);
  const id = /^offline-run-\d{8}_\d{6}-([a-z0-9]{8})$/.exec(names[0] as string)?.[1];
  const records = recordsOf(await readFile(join(folder, `run-${id}.wandb`))).map(fieldsOf);
  expect(records.map((record) => record.get(1)?.[0])).toEqual(records.map((_, i) => i + 1));
  const of = (field: number) =>
    records.flatMap((record) => (record.get(field) ?? []).map((m) => fieldsOf(m as Uint8Array)));
  const history = of(2).map((row) =>
    Object.fromEntries(
      (row.get(1) ?? []).map((item) => {
        const fields = fieldsOf(item as Uint8Array);
        return [text(fields.get(2)?.[0]), JSON.parse(text(fields.get(16)?.[0]))];
      }),
    ),
  );
  const files = of(6).flatMap((m) => (m.get(1) ?? []).map((item) => text(fieldsOf(item as Uint8Array).get(1)?.[0])));
  const exit = of(18)[0];
  const kinds = records.map((record) => [...record.keys()][1] as number);
  return { kinds, folder, runs: of(17), history, files, exitCode: exit && Number(exit.get(1)?.[0] ?? 0) };
}

describe("an offline run for wandb sync", () => {
  const offline = [{ name: "wandb" as const, mode: "offline" as const, project: "foxes", entity: "me" }];

  test("is a log that starts with the run and ends with its exit, with a history row per step", async () => {
    const run = await startRun(join(scratch, "offline"), offline);
    await run.stepsTo(4);
    const found = await offlineOf(run.folder.path);
    // header, run; then files, history and summary of each step; exit
    expect(found.kinds).toEqual([21, 17, 6, 2, 3, 2, 3, 6, 2, 3, 2, 3, 6, 2, 3, 18]);
    const [record] = found.runs;
    expect([2, 3, 8].map((field) => text(record?.get(field)?.[0]))).toEqual(["me", "foxes", "offline"]);
    expect(found.history.map(({ _step }) => _step)).toEqual([0, 1, 2, 3, 4]);
    expect(found.history[1]).toMatchObject({ loss: 1, "rewards/clip": 1 / 7, samples: 4 });
    expect(found.exitCode).toBe(0);
    expect(run.messages).toEqual([`wandb: ${found.folder} (upload it with wandb sync)`]);
  });

  test("has its images in a folder beside it", async () => {
    const run = await startRun(join(scratch, "offline-images"), offline);
    await run.stepsTo(4);
    const { folder, history, files } = await offlineOf(run.folder.path);
    const named = history.flatMap(({ pictures }) => (pictures as { filenames: string[] } | undefined)?.filenames ?? []);
    expect(named).toEqual(files);
    expect(named).toHaveLength(6);
    const pixels = await sharp(join(folder, "files", named[3] as string))
      .raw()
      .toBuffer();
    expect([...pixels]).toEqual([...(evaluationOf(2).images[1]?.pixels ?? [])]);
  });

  test("is readable after a kill, and a resumed run rewrites it under the same id, with each step once", async () => {
    const killed = await startRun(join(scratch, "offline-resumed"), offline);
    await killed.stepsTo(3);
    const before = await offlineOf(killed.folder.path);
    expect(before.history.map(({ _step }) => _step)).toEqual([0, 1, 2, 3]);
    expect(before.exitCode).toBeUndefined();
    const again = await resumeRun(killed.folder.path);
    await again.stepsTo(4);
    const after = await offlineOf(killed.folder.path);
    expect(after.folder).toBe(before.folder);
    expect(after.history.map(({ _step }) => _step)).toEqual([0, 1, 2, 3, 4]);
    expect(after.exitCode).toBe(0);
  });

  test("splits records that are larger than a block", async () => {
    const run = await startRun(join(scratch, "offline-long"), offline);
    const long = {
      ...metricsOf(1),
      rewards: Object.fromEntries(Array.from({ length: 4000 }, (_, i) => [`part-${i}`, i])),
    };
    await run.tell({ kind: "stepped", metrics: long });
    await run.stepsTo(4);
    const { history, exitCode } = await offlineOf(run.folder.path);
    expect(history[1]).toMatchObject({ "rewards/part-3999": 3999 });
    expect([history.length, exitCode]).toEqual([5, 0]);
  });
});
