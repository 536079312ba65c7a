/** Event files, read back by an independent reader that follows TensorFlow's description of the format. */
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import sharp from "sharp";
import { afterAll, describe, expect, test } from "vitest";
import { evaluationOf, metricsOf, PROMPTS, resumeRun, startRun } from "../../../test/made-up-run.js";
import { crc32c } from "./crc32c.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-tensorboard-"));
afterAll(() => rm(scratch, { recursive: true }));

type Message = Map<number, (Uint8Array | number | bigint)[]>;

/** Fields of a message by their numbers, nested ones as bytes. */
function fieldsOf(bytes: Uint8Array): Message {
  const reader = new BinaryReader(bytes);
  const fields: Message = new Map();
  while (reader.pos < reader.len) {
    const [number, type] = reader.tag();
    const values = fields.get(number) ?? [];
    if (type === WireType.Varint) values.push(Number(reader.int64()));
    else if (type === WireType.Bit64) values.push(reader.double());
    else if (type === WireType.Bit32) values.push(reader.float());
    else values.push(reader.bytes());
    fields.set(number, values);
  }
  return fields;
}

const text = (value: unknown) => Buffer.from((value as Uint8Array | undefined) ?? []).toString();

interface Value {
  readonly step: number;
  readonly tag: string;
  readonly scalar: number | undefined;
  readonly plugin: string;
  readonly title: string;
  readonly description: string;
  readonly shape: number[];
  readonly strings: Uint8Array[];
}

/** Records as TensorFlow writes them: length and content, each with its masked CRC-32C. */
function eventsOf(file: Uint8Array): Message[] {
  const view = new DataView(file.buffer, file.byteOffset, file.length);
  const unmasked = (at: number) => {
    const rotated = (view.getUint32(at, true) - 0xa282ead8) >>> 0;
    return ((rotated >>> 17) | (rotated << 15)) >>> 0;
  };
  const events: Message[] = [];
  for (let at = 0; at < file.length; ) {
    const length = Number(view.getBigUint64(at, true));
    expect(crc32c(file.subarray(at, at + 8))).toBe(unmasked(at + 8));
    const content = file.subarray(at + 12, at + 12 + length);
    expect(crc32c(content)).toBe(unmasked(at + 12 + length));
    events.push(fieldsOf(content));
    at += length + 16;
  }
  return events;
}

function valuesOf(events: readonly Message[]): Value[] {
  return events.flatMap((event) => {
    const step = Number(event.get(2)?.[0] ?? 0);
    const values = fieldsOf((event.get(5)?.[0] as Uint8Array) ?? new Uint8Array()).get(1) ?? [];
    return values.map((bytes) => {
      const value = fieldsOf(bytes as Uint8Array);
      const metadata = fieldsOf((value.get(9)?.[0] as Uint8Array) ?? new Uint8Array());
      const tensor = fieldsOf((value.get(8)?.[0] as Uint8Array) ?? new Uint8Array());
      const dimensions = fieldsOf((tensor.get(2)?.[0] as Uint8Array) ?? new Uint8Array()).get(2) ?? [];
      return {
        step,
        tag: text(value.get(1)?.[0]),
        scalar: value.get(2)?.[0] as number | undefined,
        plugin: text(fieldsOf((metadata.get(1)?.[0] as Uint8Array) ?? new Uint8Array()).get(1)?.[0]),
        title: text(metadata.get(2)?.[0]),
        description: text(metadata.get(3)?.[0]),
        shape: dimensions.map((size) => Number(fieldsOf(size as Uint8Array).get(1)?.[0])),
        strings: (tensor.get(8) ?? []) as Uint8Array[],
      };
    });
  });
}

async function filesOf(run: string): Promise<Message[][]> {
  const folder = join(run, "tensorboard");
  const names = (await readdir(folder)).sort();
  return Promise.all(names.map(async (name) => eventsOf(await readFile(join(folder, name)))));
}

test("the checksum is CRC-32C", () => {
  // The check value of the CRC catalogue, and the example of 32 zeros in RFC 3720.
  expect(crc32c(Buffer.from("123456789"))).toBe(0xe3069283);
  expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
});

describe("event files", () => {
  test("contain every number of every row, at its step", async () => {
    const run = await startRun(join(scratch, "numbers"), ["tensorboard"]);
    await run.stepsTo(4);
    const [events = []] = await filesOf(run.folder.path);
    expect(text(events[0]?.get(3)?.[0])).toBe("brain.Event:2");
    const scalars = valuesOf(events).filter(({ scalar }) => scalar !== undefined);
    for (const step of [1, 2, 3, 4]) {
      const { step: _, rewards = {}, eval_rewards = {}, grad_norm, skipped, ...row } = metricsOf(step);
      const under = (prefix: string, parts: Readonly<Record<string, number>>) =>
        Object.fromEntries(Object.entries(parts).map(([label, value]) => [`${prefix}/${label}`, value]));
      const expected = {
        ...row,
        ...(grad_norm !== null && { grad_norm }),
        ...(skipped && { skipped: 1 }),
        ...under("rewards", rewards),
        ...under("eval_rewards", eval_rewards),
      };
      const found = Object.fromEntries(scalars.filter((s) => s.step === step).map(({ tag, scalar }) => [tag, scalar]));
      expect(found).toEqual(Object.fromEntries(Object.entries(expected).map(([k, v]) => [k, Math.fround(Number(v))])));
    }
    const base = scalars.filter(({ step }) => step === 0).map(({ tag, scalar }) => [tag, scalar]);
    expect(base).toEqual([
      ["eval_reward_mean", 0.25],
      ["eval_reward_std", 0.5],
    ]);
    expect(run.warnings).toEqual([]);
  });

  test("contain the exact images of the evaluations, with prompts, seeds and captions", async () => {
    const run = await startRun(join(scratch, "images"), ["tensorboard"]);
    await run.stepsTo(4);
    const values = valuesOf((await filesOf(run.folder.path)).flat());
    const images = values.filter(({ plugin }) => plugin === "images");
    expect(images.map(({ step, tag }) => [step, tag])).toEqual(
      [0, 2, 4].flatMap((step) => [
        [step, "pictures/000_a-fox"],
        [step, "pictures/001_two-dogs-b-猫-b-at-50-night"],
      ]),
    );
    for (const [i, { step, shape, strings, title }] of images.entries()) {
      expect(shape).toEqual([3]);
      expect(strings.slice(0, 2).map(text)).toEqual(["7", "5"]);
      const pixels = await sharp(strings[2]).raw().toBuffer();
      expect([...pixels]).toEqual([...(evaluationOf(step).images[i % 2]?.pixels ?? [])]);
      expect(title).toBe(PROMPTS[i % 2]);
    }
    expect(images[1]?.description).toBe("two \\*dogs\\* | &lt;b\\>猫&lt;/b\\>, at 50% \\+ night, seed 8");
    const captions = values.filter(({ tag }) => tag === "captions");
    expect(captions.map(({ step, shape }) => [step, ...shape])).toEqual([0, 2, 4].map((step) => [step, 3, 2]));
    expect(captions[1]?.strings.map(text).slice(0, 4)).toEqual([
      "picture",
      "caption",
      "000_a-fox",
      "a fox, reward 1\\.75, seed 7",
    ]);
    const config = values.find(({ tag }) => tag === "config");
    expect(text(config?.strings[0])).toContain("\n      rank: 4\n");
  });

  test("of a resumed run discard the steps that it repeats", async () => {
    const killed = await startRun(join(scratch, "resumed"), ["tensorboard"]);
    await killed.stepsTo(3);
    const again = await resumeRun(killed.folder.path);
    await again.stepsTo(4);
    const [, second = []] = await filesOf(again.folder.path);
    // Field 7: a SessionLog with status START, at the first repeated step.
    const marks = second.filter((event) => event.has(7));
    expect(marks.map((event) => [event.get(2)?.[0], event.get(7)?.[0]])).toEqual([[3, Buffer.of(8, 1)]]);
    const steps = valuesOf(second).flatMap(({ tag, step }) => (tag === "loss" ? [step] : []));
    expect(steps).toEqual([3, 4]);
  });

  test("of a run that was not tracked before start with the rows in its folder", async () => {
    const before = await startRun(join(scratch, "later"), []);
    await before.stepsTo(3);
    const tracked = await resumeRun(before.folder.path, {}, ["tensorboard"]);
    await tracked.stepsTo(4);
    const values = valuesOf((await filesOf(tracked.folder.path)).flat());
    expect(values.flatMap(({ tag, step }) => (tag === "loss" ? [step] : []))).toEqual([1, 2, 3, 4]);
    expect(values.flatMap(({ tag, step }) => (tag === "captions" ? [step] : []))).toEqual([0, 2, 4]);
  });
});
