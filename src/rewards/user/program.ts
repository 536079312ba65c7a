/**
 * A program of the user's as the reward: it gets a picture's file and prints a number, higher is better. Anything can judge
 * so, but nothing can be differentiated: only estimators that learn from rewards alone (ddpo, rwr) take it. It runs as it is,
 * without a shell, and only where the settings name it: name none that you would not run yourself.
 */
import { spawn } from "node:child_process";
import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, delimiter, join, resolve } from "node:path";
import sharp from "sharp";
import { z } from "zod";
import { InputError, quote } from "../../errors/index.js";
import { type HostTensor, toFloat32 } from "../../tensor/host.js";
import { fromTensors } from "../../weights/source.js";
import { common, MAXIMIZE, rewardKind } from "../kind.js";

/** The prompt that a picture was made from, in the program's environment. */
export const PROMPT_VARIABLE = "ALIGNPROP_PROMPT";

/** Far more than a number takes; of what it says on stderr a message shows the end. */
const MOST_OUTPUT = 1 << 16;
const SHOWN = 600;

const word = z.string().max(4096);

export const program = rewardKind({
  schema: z.strictObject({
    name: z.literal("program"),
    ...common,
    /** The program and its first arguments; the picture's path (PNG) comes last. */
    command: z.tuple([word.min(1)], word),
    /** Seconds for one picture. */
    timeout: z.number().positive().max(86_400).default(60),
  }),
  loss: MAXIMIZE,
  async open({ command, timeout, batch }) {
    const [file] = command;
    if (!(await isThere(file)))
      throw new InputError("reward-invalid", `reward program ${quote(file)}: no such program`);
    return {
      name: basename(file),
      weights: fromTensors(new Map()),
      build() {
        throw new InputError(
          "reward-invalid",
          `the reward program ${quote(file)} has no gradient; only rewards within this program have one`,
        );
      },
      outside: async (images, prompts) => {
        const rewards: number[] = [];
        for (const [i, prompt] of prompts.entries()) rewards.push(await judge(command, timeout, images, i, prompt));
        return rewards;
      },
      feeds: () => ({}),
      warnings: () => [],
      ...(batch !== null && { batch }),
    };
  },
});

/** As the system looks for it. Windows knows more endings than this, and starting the program tells. */
async function isThere(file: string): Promise<boolean> {
  if (process.platform === "win32") return true;
  const places = file.includes("/")
    ? [resolve(file)]
    : (process.env.PATH ?? "").split(delimiter).map((at) => join(at, file));
  const found = await Promise.all(places.map((place) => stat(place).catch(() => undefined)));
  return found.some((info) => info?.isFile());
}

/** images [b, 3, h, w] in 0 … 1 → the reward of picture i */
async function judge(command: readonly string[], timeout: number, images: HostTensor, i: number, prompt: string) {
  const folder = await mkdtemp(join(tmpdir(), "alignprop-reward-"));
  try {
    const path = join(folder, "picture.png");
    await writeFile(path, await png(images, i));
    return await numberFrom([...command, path], timeout, prompt);
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function png(images: HostTensor, i: number): Promise<Buffer> {
  const [, channels, height, width] = images.shape as [number, number, number, number];
  const plane = height * width;
  const planes = toFloat32(images).subarray(i * channels * plane, (i + 1) * channels * plane);
  const pixels = new Uint8Array(channels * plane);
  for (let at = 0; at < pixels.length; at++) {
    pixels[at] = Math.round(255 * (planes[(at % channels) * plane + Math.floor(at / channels)] as number));
  }
  return await sharp(pixels, { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
}

/** Runs a command that has to print one number, and nothing else. */
function numberFrom(command: readonly string[], timeout: number, prompt: string): Promise<number> {
  const [file, ...args] = command as [string, ...string[]];
  return new Promise((resolve, reject) => {
    let [stdout, stderr] = ["", ""];
    const fail = (what: string) => {
      const said = stderr.trim().slice(-SHOWN);
      const shown = [file, ...args.slice(0, -1)].join(" ");
      reject(new InputError("reward-failed", `reward program ${quote(shown)} ${what}${said && `; it said: ${said}`}`));
    };
    const child = spawn(file, args, {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, [PROMPT_VARIABLE]: prompt.replaceAll("\0", "") },
    });
    const stop = (what: string) => {
      fail(what);
      child.kill("SIGKILL");
      // What it has started itself may hold the pipes open.
      child.stdout.destroy();
      child.stderr.destroy();
    };
    const timer = setTimeout(() => stop(`has not ended after ${timeout} s (timeout)`), timeout * 1000);
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
      if (stdout.length > MOST_OUTPUT) stop(`printed more than ${MOST_OUTPUT} characters; a number is expected`);
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr = (stderr + text).slice(-2 * SHOWN);
    });
    child.on("error", (error) => {
      clearTimeout(timer);
      fail(`cannot be started: ${error.message}`);
    });
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      const text = stdout.trim();
      const value = Number(text);
      if (code !== 0) fail(signal ? `was ended by ${signal}` : `ended with exit code ${code}`);
      else if (text === "" || !Number.isFinite(value)) fail(`printed ${quote(text)}, but a number is expected`);
      else resolve(value);
    });
  });
}
