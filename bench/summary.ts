/** The numbers and tables that the page and the terminal show of measurements. */
import { type Measurement, PRODUCTS, type Side } from "./cases/case.js";
import { BUSY } from "./run.js";

export function median(numbers: readonly number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  const at = (index: number) => sorted[index] as number;
  return (at(Math.floor((sorted.length - 1) / 2)) + at(Math.ceil((sorted.length - 1) / 2))) / 2;
}

/** y = intercept + slope · x by least squares, and the share of y's variance that it explains. */
export function linearFit(points: readonly (readonly [x: number, y: number])[]) {
  const mean = (numbers: readonly number[]) => numbers.reduce((sum, x) => sum + x, 0) / numbers.length;
  const [meanX, meanY] = [mean(points.map(([x]) => x)), mean(points.map(([, y]) => y))];
  const sum = (term: (x: number, y: number) => number) =>
    points.reduce((total, [x, y]) => total + term(x - meanX, y - meanY), 0);
  const slope = sum((x, y) => x * y) / sum((x) => x * x);
  const intercept = meanY - slope * meanX;
  const residual = points.reduce((total, [x, y]) => total + (y - intercept - slope * x) ** 2, 0);
  return { slope, intercept, r2: 1 - residual / sum((_, y) => y * y) };
}

/** The numbers under `name` in the report that the process printed. */
export function reported(measurement: Measurement, name: string): number | undefined {
  const value = measurement.report?.[name];
  return typeof value === "number" ? value : undefined;
}

/** Share of the CPUs that a measured process could not have, because of other processes or the host. */
export const disturbance = ({ load }: Measurement) => (load.others ?? 0) + (load.stolen ?? 0);

/** True if the times of a measurement do not count. Its peaks do: they depend little on how busy the machine is. */
export const isDisturbed = (measurement: Measurement) => disturbance(measurement) > BUSY;

/** The median of the calls that a process timed; undefined if it failed or timed none. */
export function callSeconds({ report }: Measurement): number | undefined {
  const seconds = report?.seconds;
  return Array.isArray(seconds) && seconds.length > 0 ? median(seconds as number[]) : undefined;
}

type Metric = (measurement: Measurement) => number | null | undefined;

const METRICS = {
  time: (measurement: Measurement) => (isDisturbed(measurement) ? undefined : callSeconds(measurement)),
  resident: ({ peak_rss_bytes, failed }: Measurement) => (failed === undefined ? peak_rss_bytes : undefined),
  pinned: ({ peak_pinned_bytes, failed }: Measurement) => (failed === undefined ? peak_pinned_bytes : undefined),
} satisfies Record<string, Metric>;

export type MetricName = keyof typeof METRICS;

/** All variants of a side, in the order in which they were measured. Measurements in a cgroup are not among them. */
export function variantsOf(measured: readonly Measurement[], side: Side): string[] {
  return [...new Set(measured.filter((one) => one.side === side && isPlain(one)).map(({ variant }) => variant))];
}

const isPlain = ({ variant, cgroup }: Measurement) => variant !== PRODUCTS && cgroup === undefined;

/** The median over the rounds; undefined if no round has the number. */
export function metricOf(
  measured: readonly Measurement[],
  { side, variant }: Pick<Measurement, "side" | "variant">,
  name: MetricName,
): number | undefined {
  const found = measured
    .filter((one) => one.side === side && one.variant === variant)
    .map(METRICS[name])
    .filter((value) => typeof value === "number");
  return found.length > 0 ? median(found) : undefined;
}

/** The peer's smallest median of a metric over its variants, and the variant. */
export function bestOfPeer(measured: readonly Measurement[], name: MetricName) {
  const all = variantsOf(measured, "PyTorch").flatMap((variant) => {
    const value = metricOf(measured, { side: "PyTorch", variant }, name);
    return value === undefined ? [] : [{ variant, value }];
  });
  return all.sort((a, b) => a.value - b.value)[0];
}

/**
 * Our variant relative to the peer's best one: the median over the rounds of the ratio within a round, because what disturbs a
 * machine for a while disturbs both sides of a round.
 */
export function ratioToPeer(measured: readonly Measurement[], variant: string, name: MetricName): number | undefined {
  const best = bestOfPeer(measured, name);
  if (!best) return undefined;
  const rounds = [...new Set(measured.map(({ round }) => round))];
  const ratios = rounds.flatMap((round) => {
    const here = measured.filter((one) => one.round === round);
    const mine = metricOf(here, { side: "alignprop", variant }, name);
    const theirs = bestOfPeer(here, name)?.value;
    return mine === undefined || theirs === undefined ? [] : [mine / theirs];
  });
  return ratios.length > 0 ? median(ratios) : undefined;
}

/** The variants that were the peer's best in some metric, or may be: those whose time was disturbed. */
export function bestVariants(measured: readonly Measurement[]): ReadonlySet<string> {
  const names = Object.keys(METRICS) as MetricName[];
  const best = names.flatMap((name) => bestOfPeer(measured, name)?.variant ?? []);
  const disturbed = measured.filter((one) => one.side === "PyTorch" && isDisturbed(one)).map(({ variant }) => variant);
  return new Set([...best, ...disturbed]);
}

export const showSeconds = (seconds: number | undefined) =>
  seconds === undefined ? "" : `${seconds.toPrecision(seconds < 100 ? 3 : 4)} s`;
export const showGigabytes = (bytes: number | undefined) =>
  bytes === undefined ? "" : `${(bytes / 1e9).toFixed(2)} GB`;
export const showRatio = (ratio: number | undefined) => (ratio === undefined ? "" : `${ratio.toFixed(2)}x`);

export function table(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)];
}

/** A time, or why there is none although it was measured. */
export const showTime = (seconds: number | undefined, wasMeasured: boolean) =>
  seconds === undefined && wasMeasured ? "disturbed" : showSeconds(seconds);

/** Each variant of both sides, and how ours compare with the peer's best in each column. */
export function comparison(measured: readonly Measurement[], call = "time"): string[] {
  const row = (side: Side, variant: string) => {
    const which = { side, variant };
    const failed = measured.find((one) => one.side === side && one.variant === variant && one.failed !== undefined);
    const cell = (name: MetricName, show: (value: number | undefined) => string) => {
      const ratio = side === "alignprop" ? ratioToPeer(measured, variant, name) : undefined;
      const text = show(metricOf(measured, which, name));
      return ratio === undefined ? text : `${text} (**${showRatio(ratio)}**)`;
    };
    const name = failed ? `${variant}: ${failure(failed)}` : variant;
    return [
      side,
      name,
      cell("time", (seconds) => showTime(seconds, failed === undefined)),
      cell("resident", showGigabytes),
      cell("pinned", showGigabytes),
    ];
  };
  const rows = (["alignprop", "PyTorch"] as const).flatMap((side) =>
    variantsOf(measured, side).map((variant) => row(side, variant)),
  );
  return table(["", "variant", call, "peak memory", "peak without mapped files"], rows);
}

export function failure({ failed = "" }: Measurement): string {
  return `did not complete (${failed.split("\n").join(" ").replaceAll("|", "/").slice(0, 200)})`;
}

/** How the speed of our variants compares with this engine's own large matrix products in the same round. */
export function shareOfProducts(measured: readonly Measurement[]): string[] {
  return variantsOf(measured, "alignprop").flatMap((variant) => {
    const shares = measured
      .filter((one) => one.side === "alignprop" && one.variant === variant)
      .flatMap((one) => {
        const flops = reported(one, "flops");
        const seconds = METRICS.time(one);
        const products = measured.find((other) => other.variant === PRODUCTS && other.round === one.round);
        const peak = products && !isDisturbed(products) ? reported(products, "gflops") : undefined;
        return flops && seconds && peak ? [{ rate: flops / seconds / 1e9, peak }] : [];
      });
    if (shares.length === 0) return [];
    const rate = median(shares.map(({ rate }) => rate));
    const peak = median(shares.map(({ peak }) => peak));
    const share = median(shares.map(({ rate, peak }) => rate / peak));
    return [
      `${variant}: ${rate.toFixed(0)} GFLOP/s, ${(100 * share).toFixed(0)} % of the ${peak.toFixed(0)} GFLOP/s at which ` +
        "ONNX Runtime multiplies matrices of 2048 x 2048 here.",
    ];
  });
}

/**
 * The largest errors of our results that the peer found, by their names in its report. One without a tolerance is only shown.
 */
export function agreement(
  measured: readonly Measurement[],
  meanings: Readonly<Record<string, string>>,
  tolerances: Readonly<Record<string, number>>,
): string[] {
  return Object.entries(meanings).flatMap(([name, meaning]) => {
    const errors = measured.filter(({ side }) => side === "PyTorch").flatMap((one) => reported(one, name) ?? []);
    if (errors.length === 0) return [];
    // Math.max passes NaN on, which no tolerance admits.
    const worst = Math.max(...errors);
    const limit = tolerances[name];
    const judged =
      limit === undefined
        ? ""
        : `, ${worst <= limit ? "within" : "NOT within"} the tolerance of ${limit.toExponential(0)}`;
    return [`Difference to PyTorch: ${meaning}, ${worst.toExponential(1)}${judged}.`];
  });
}
