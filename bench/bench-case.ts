/** Measures one case: the rounds, and in each of them our side and the peer's variants in turn. */
import type { Case, CaseContext, Job, Measurement } from "./cases/case.js";
import { ensureModel } from "./folders.js";
import { type Conditions, ResultsFile } from "./results.js";
import { run } from "./run.js";
import { bestVariants, callSeconds, disturbance, failure, isDisturbed, showGigabytes, showSeconds } from "./summary.js";

export interface BenchOptions {
  readonly rounds: number;
  /** Measures what is in the results already. */
  readonly again: boolean;
  /** After the first round, leaves out the variants of the peer that were its best in nothing. */
  readonly skipSlower: boolean;
  /** Waits at most so long before each measurement until the machine is quiet, and repeats what is disturbed. */
  readonly quietSeconds: number;
}

/** Where results go, and what they were measured with. */
export interface Destination {
  readonly results: string;
  readonly commit: string;
  readonly conditions: Conditions;
}

export async function benchCase(
  given: Case,
  context: CaseContext,
  { results, commit, conditions }: Destination,
  { rounds, again, skipSlower, quietSeconds }: BenchOptions,
): Promise<void> {
  const { name, about, models = [], maxRounds = rounds } = given;
  console.log(`\n${name}\n${about}`);
  for (const model of models) await ensureModel(context.folder, model);
  const file = await ResultsFile.open(results, { name, commit, ...conditions }, again);
  const measureOnce = async (job: Job, round: number) => {
    if (file.has(job, round)) return;
    const measurement = await measureJob(job, round, quietSeconds);
    console.log(`  ${line(measurement)}`);
    await file.add(measurement);
  };
  for (let round = 0; round < Math.min(rounds, maxRounds); round++) {
    const best = bestVariants(file.measurements.filter((one) => one.round === 0));
    const isWanted = ({ side, variant }: Job) => !skipSlower || round === 0 || side !== "PyTorch" || best.has(variant);
    for (const job of (await given.jobs(context)).filter(isWanted)) await measureOnce(job, round);
  }
  for (const job of (await given.following?.(context, file.measurements)) ?? []) await measureOnce(job, 0);
  console.log(["", ...given.show(file.measurements)].join("\n"));
}

/** With `quietSeconds`, repeats a disturbed measurement, and keeps the least disturbed one. */
async function measureJob(
  { side, variant, ...options }: Job,
  round: number,
  quietSeconds: number,
): Promise<Measurement> {
  let best: Measurement | undefined;
  for (let attempt = 0; attempt < (quietSeconds > 0 ? ATTEMPTS : 1); attempt++) {
    const measured = { side, variant, round, ...(await run({ ...options, quietSeconds })) };
    const isBetter = measured.failed === undefined && best !== undefined && disturbance(measured) < disturbance(best);
    if (best === undefined || isBetter) best = measured;
    if (!isDisturbed(measured) || measured.failed !== undefined) break;
  }
  return best as Measurement;
}

const ATTEMPTS = 3;

function line(measured: Measurement): string {
  const { side, variant, round, peak_rss_bytes, peak_pinned_bytes, load, wall_seconds } = measured;
  const bytes = (number: number | null) => showGigabytes(number ?? undefined);
  const percent = (share: number | null) => (share === null ? "?" : `${(100 * share).toFixed(0)} %`);
  const seconds = callSeconds(measured);
  return [
    `round ${round + 1}`,
    `${side}, ${variant}`,
    ...(measured.failed === undefined ? [] : [failure(measured)]),
    ...(seconds === undefined ? [] : [showSeconds(seconds)]),
    `peak ${bytes(peak_rss_bytes)}, ${bytes(peak_pinned_bytes)} without mapped files`,
    `whole process ${showSeconds(wall_seconds)}`,
    `others used ${percent(load.others)} and the host ${percent(load.stolen)} of the CPUs (load ${load.average_before.toFixed(1)})`,
  ].join("; ");
}
