/**
 * A program of the user as the reward: it receives the path of an image and prints a number; the higher, the better. It has
 * no gradient, so it only works with estimators that do not need one (ddpo, rwr). The program is started without a shell,
 * with all rights of this process, and only if the settings name it.
 */
import { spawn } from "node:child_process";
import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, delimiter, join, resolve } from "node:path";
import { z } from "zod";
import { type ErrorFacts, InputError, quote } from "../../errors/index.js";
import { encodePng } from "../../images/contact-sheet.js";
import { type RgbImage, toRgb } from "../../images/rgb.js";
import { fromTensors } from "../../weights/source.js";
import { commonSettings, MAXIMIZE, rewardKind } from "../kind.js";

/** Environment variable of the program that holds the prompt of the image. */
const PROMPT_VARIABLE = "ALIGNPROP_PROMPT";

/** Limit on stdout in characters, far more than a number takes. */
const MAX_OUTPUT = 1 << 16;
/** Number of characters at the end of stderr that messages show. */
const SHOWN_STDERR = 600;

const argument = z.string().max(4096);

export const program = rewardKind({
  schema: z.strictObject({
    name: z.literal("program"),
    ...commonSettings,
    /** The program and its first arguments. The path of the image (PNG) is appended. */
    command: z.tuple([argument.min(1)], argument),
    /** Seconds per image. */
    timeout: z.number().positive().max(86_400).default(60),
  }),
  loss: MAXIMIZE,
  async open({ command, timeout, batch }) {
    const [file] = command;
    if (!(await isFound(file))) {
      throw new InputError(
        "reward-invalid",
        `reward program ${quote(file)}: no such program. Give its path, or the name of a program on PATH.`,
        { program: file, setting: "reward.command" },
      );
    }
    return {
      name: basename(file),
      weights: fromTensors(new Map()),
      build() {
        throw new InputError(
          "reward-no-gradient",
          `reward program ${quote(file)}: a program has no gradient. Use an estimator that needs none, such as ddpo or rwr.`,
          { program: file },
        );
      },
      scoreExternally: async (images, prompts) => {
        const rewards: number[] = [];
        for (const [i, prompt] of prompts.entries()) {
          const image = await encodePng(toRgb(images)[i] as RgbImage);
          rewards.push(await score(image, prompt, { command, timeout }));
        }
        return rewards;
      },
      feeds: () => ({}),
      warnings: () => [],
      ...(batch !== null && { batch }),
    };
  },
});

/** Looks for a program as the system does. On Windows, which adds extensions, starting the program shows it. */
async function isFound(file: string): Promise<boolean> {
  if (process.platform === "win32") return true;
  const candidates = file.includes("/")
    ? [resolve(file)]
    : (process.env.PATH ?? "").split(delimiter).map((folder) => join(folder, file));
  const found = await Promise.all(candidates.map((path) => stat(path).catch(() => undefined)));
  return found.some((info) => info?.isFile());
}

interface Invocation {
  readonly command: readonly string[];
  /** Seconds. */
  readonly timeout: number;
}

/** Runs the program on one image, which is removed afterwards. */
async function score(png: Buffer, prompt: string, { command, timeout }: Invocation): Promise<number> {
  const folder = await mkdtemp(join(tmpdir(), "alignprop-reward-"));
  try {
    const path = join(folder, "image.png");
    await writeFile(path, png);
    return await runForNumber(prompt, { command: [...command, path], timeout });
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** Runs a command that must print one number and nothing else. */
function runForNumber(prompt: string, { command, timeout }: Invocation): Promise<number> {
  const [file, ...args] = command as [string, ...string[]];
  return new Promise((resolve, reject) => {
    let [stdout, stderr] = ["", ""];
    const fail = (problem: string, facts: ErrorFacts) => {
      const end = stderr.trim().slice(-SHOWN_STDERR);
      const program = [file, ...args.slice(0, -1)].join(" ");
      const message = `reward program ${quote(program)} ${problem}.${end && ` The end of its stderr: ${end}`}`;
      reject(new InputError("reward-failed", message, { program, ...facts, ...(end && { stderr: end }) }));
    };
    const child = spawn(file, args, {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, [PROMPT_VARIABLE]: prompt.replaceAll("\0", "") },
    });
    const stop = (problem: string, facts: ErrorFacts) => {
      fail(problem, facts);
      child.kill("SIGKILL");
      // Processes that it started may keep the pipes open.
      child.stdout.destroy();
      child.stderr.destroy();
    };
    const onTimeout = () => stop(`did not exit within ${timeout} s (reward.timeout)`, { timeout });
    const timer = setTimeout(onTimeout, timeout * 1000);
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
      if (stdout.length > MAX_OUTPUT) {
        stop(`printed more than ${MAX_OUTPUT} characters, but should print one number`, { limit: MAX_OUTPUT });
      }
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr = (stderr + text).slice(-2 * SHOWN_STDERR);
    });
    child.on("error", (error) => {
      clearTimeout(timer);
      fail(`cannot be started: ${error.message}`, { reason: error.message });
    });
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      const printed = stdout.trim();
      const value = Number(printed);
      if (signal) fail(`was terminated by ${signal}`, { signal });
      else if (code !== 0) fail(`exited with code ${code}`, { exitCode: code });
      else if (printed === "" || !Number.isFinite(value)) {
        fail(`printed ${quote(printed)}, but should print one number`, { found: printed.slice(0, 120) });
      } else resolve(value);
    });
  });
}
