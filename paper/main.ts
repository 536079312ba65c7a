/**
 * `npm run paper`: the comparison of the AlignProp paper (arXiv 2310.03739) on the embedded model, from the tuning of learning
 * rates to the page docs/paper.md.
 *
 *     npm run paper                                  everything; resumes where it was stopped
 *     npm run paper -- --only uniform,ddpo           some methods; several such commands may run at the same time
 *     npm run paper -- --seeds 0                     only the first seed of each method
 *     npm run paper -- --time                        measure the CPU seconds of a training step of each method
 *     npm run paper -- --write                       no training; write the tables and charts of docs/paper.md
 *
 * Every run is an ordinary run folder of `alignprop train`, with its own report.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { reportFailure } from "../src/cli/failure.js";
import { interruptible } from "../src/cli/interrupt.js";
import { processTerminal, type Terminal } from "../src/cli/terminal.js";
import { InputError, nearest } from "../src/errors/index.js";
import { packageFolder } from "../src/io/package.js";
import { duration, format } from "../src/runs/report/index.js";
import { finalJobs, folderOf, type Job, readTuning, type Tuning, tuningJobs, workLeft } from "./comparison.js";
import { readFinal } from "./final.js";
import { METHODS, type Method, settingsOf } from "./methods.js";
import { makeMix } from "./mix.js";
import { runTo } from "./run.js";
import { measureSeconds } from "./seconds.js";
import { writeResults } from "./write-results.js";

const { values } = parseArgs({
  options: {
    out: { type: "string", default: "runs/paper" },
    docs: { type: "string", default: join(packageFolder, "docs") },
    only: { type: "string" },
    seeds: { type: "string", default: "0,1,2" },
    threads: { type: "string" },
    time: { type: "boolean", default: false },
    write: { type: "boolean", default: false },
  },
});

async function main(terminal: Terminal): Promise<void> {
  const methods = chosenMethods(values.only);
  const seeds = numbers("--seeds", values.seeds);
  const threads = values.threads === undefined ? null : (numbers("--threads", values.threads)[0] ?? null);
  if (values.time) await measureSeconds(values.out, methods, terminal);
  else if (!values.write) {
    await interruptible(terminal, "Finishing this step and saving", (signal) =>
      trainAll({ methods, seeds, threads }, signal, terminal),
    );
  }
  await writeResults(values.out, values.docs, threads, terminal);
}

function chosenMethods(only: string | undefined): Method[] {
  return (only?.split(",") ?? METHODS.map(({ name }) => name)).map((name) => {
    const method = METHODS.find((each) => each.name === name.trim());
    if (method !== undefined) return method;
    const names = METHODS.map((each) => each.name);
    const suggestion = nearest(name, names);
    throw new InputError(
      "usage",
      `--only: there is no method "${name}".${suggestion ? ` Did you mean ${suggestion}?` : ""} The methods are ${names.join(", ")}.`,
      { option: "--only", found: name, expected: names, suggestion },
    );
  });
}

function numbers(option: string, list: string): number[] {
  return list.split(",").map((part) => {
    if (!/^\d{1,4}$/.test(part.trim())) {
      throw new InputError("usage", `${option}: "${part}" is not a whole number. Give numbers such as ${option} 0,1.`, {
        option,
        found: part,
      });
    }
    return Number(part);
  });
}

interface Selection {
  readonly methods: readonly Method[];
  readonly seeds: readonly number[];
  readonly threads: number | null;
}

/** Trains the first seed of all methods before any other seed, so that the methods can be compared early. */
async function trainAll(
  { methods, seeds, threads }: Selection,
  signal: AbortSignal,
  terminal: Terminal,
): Promise<void> {
  const pace = new Pace();
  const tunings = new Map<Method, Tuning>();
  const tuningOf = async (method: Method) => {
    const tuning = tunings.get(method) ?? (await readTuning(values.out, method, threads));
    if (tuning.chosen !== undefined) tunings.set(method, tuning);
    return tuning;
  };
  // Until a learning rate is chosen, the first one takes its place.
  const everything = () =>
    methods.flatMap((method) => [
      ...tuningJobs(method),
      ...finalJobs(method, tunings.get(method)?.chosen ?? (method.rates[0] as number), seeds),
    ]);
  const run = async (job: Job) => {
    if (signal.aborted) return;
    const settings = { ...(await settingsOf(job)), threads };
    const folder = folderOf(values.out, job);
    const name = `${job.method.name}, learning rate ${job.rate}, seed ${job.seed}`;
    const left = async () => pace.seconds(await workLeft(values.out, everything()));
    const trained = await runTo(folder, settings, job.steps, {
      signal,
      observer: async (event) => {
        if (event.kind !== "stepped") return;
        pace.add(job.method.unetCalls * job.method.samples);
        const { step, reward_mean, eval_reward_mean: evaluated, seconds } = event.metrics;
        const line = `${name}: ${step}/${job.steps}, reward ${format(reward_mean)}, ${duration(seconds)} per step`;
        if (evaluated === undefined) terminal.update(line);
        else terminal.say(`${line}, evaluation ${format(evaluated)}, about ${duration(await left())} left in total`);
      },
    });
    if (!trained) terminal.say(`${name}: already done`);
  };
  const finish = async (method: Method, seed: number) => {
    const { chosen } = await tuningOf(method);
    if (chosen === undefined || signal.aborted) return;
    for (const job of finalJobs(method, chosen, [seed])) {
      await run(job);
      if (signal.aborted || "reward" in method.overrides) continue;
      await readFinal(folderOf(values.out, job), job.steps, { ...(await settingsOf(job)), threads }, signal);
    }
  };
  const base = join(values.out, "base");
  await mkdir(base, { recursive: true });
  const [first] = METHODS;
  if (first) await readFinal(base, 0, { ...(await settingsOf({ method: first, rate: 1, seed: 0 })), threads }, signal);
  for (const method of methods) {
    for (const job of tuningJobs(method)) await run(job);
    if (seeds[0] !== undefined) await finish(method, seeds[0]);
  }
  for (const seed of seeds.slice(1)) for (const method of methods) await finish(method, seed);
  if (!signal.aborted) await makeMix(values.out, values.docs, threads, terminal);
}

/** Estimates time from the mean time of a U-Net call, which includes evaluations and the opening of models. */
class Pace {
  readonly #began = performance.now();
  #work = 0;

  add(work: number): void {
    this.#work += work;
  }

  seconds(work: number): number {
    return this.#work === 0 ? 0 : ((performance.now() - this.#began) / 1000 / this.#work) * work;
  }
}

const terminal = processTerminal();
try {
  await main(terminal);
} catch (error) {
  process.exitCode = reportFailure(error, terminal, { verbose: true });
}
