/** The charts of docs/paper.md. */
import { type ChartOptions, type ChartSeries, chart } from "./chart.js";
import type { MethodResult } from "./comparison.js";
import type { MeanPoint } from "./curves.js";
import { METHODS } from "./methods.js";
import { plural, type Results } from "./results.js";

/** The methods in the charts of cost. The other truncations have a chart of their own. */
const AGAINST_DDPO = ["uniform", "k1", "full", "draft-lv", "refl", "ddpo", "rwr"];
const TRUNCATIONS = ["per-step", "uniform", "gaussian", "k1", "k2", "k5", "full"];

/** SVG files by name. */
export function charts({ methods, seconds }: Results): Map<string, string> {
  const start = methods.find(({ mean }) => mean[0])?.mean[0]?.reward;
  const level = start === undefined ? {} : { level: { y: start, label: "base model" } };
  const y = "evaluation reward";
  const series = (names: readonly string[], x: (point: MeanPoint, name: string) => number | undefined) =>
    names.flatMap((name): ChartSeries[] => {
      const result = methods.find(({ method }) => method.name === name);
      if (result === undefined || result.mean.length === 0) return [];
      const points = result.mean.flatMap((point) => {
        const at = x(point, name);
        return at === undefined ? [] : [{ x: at, y: point.reward, spread: point.spread }];
      });
      return points.length === 0 ? [] : [{ label: labelOf(result), points }];
    });
  const time = ({ update }: MeanPoint, name: string) => {
    const each = seconds[name];
    return each === undefined ? undefined : each * update;
  };
  const found = new Map<string, string>();
  const add = (name: string, options: ChartOptions) => {
    if (options.series.length > 0) found.set(name, chart(options));
  };
  add("queries", {
    title: "Evaluation reward against reward queries",
    x: "reward queries in training (logarithmic)",
    y,
    scale: "log",
    series: series(AGAINST_DDPO, ({ queries }) => queries),
    ...level,
  });
  add("calls", {
    title: "Evaluation reward against U-Net calls",
    x: "U-Net calls per image, forward and backward (logarithmic)",
    y,
    scale: "log",
    series: series(AGAINST_DDPO, ({ unet_calls }) => unet_calls),
    ...level,
  });
  add("seconds", {
    title: "Evaluation reward against time",
    x: "CPU seconds (logarithmic)",
    y,
    scale: "log",
    series: series(AGAINST_DDPO, time),
    ...level,
  });
  add("truncation", {
    title: "How much of the chain is differentiated",
    x: "training steps of 8 samples",
    y,
    series: series(TRUNCATIONS, ({ update }) => update),
    ...level,
  });
  add("ddpo", {
    title: "DDPO, denoising steps weighted by their noise or equally",
    x: "training steps of 64 samples",
    y,
    series: series(["ddpo", "ddpo-equal"], ({ update }) => update),
    ...level,
  });
  add("unet", {
    title: "A LoRA adapter and the whole U-Net",
    x: "training steps of 8 samples",
    y,
    series: series(["uniform", "unet"], ({ update }) => update),
    ...level,
  });
  add("agreement", {
    title: "Over-optimization: does the image still show its animal?",
    x: "evaluation reward",
    y: "agreement with the prompt (CLIP)",
    series: METHODS.filter(({ compared }) => compared).flatMap(({ name }): ChartSeries[] => {
      const result = methods.find(({ method }) => method.name === name);
      if (result === undefined || result.mean.length === 0) return [];
      return [
        { label: labelOf(result), points: result.mean.map(({ reward, agreement }) => ({ x: reward, y: agreement })) },
      ];
    }),
  });
  return found;
}

function labelOf({ method, seeds }: MethodResult): string {
  const { length } = seeds;
  return length === method.seeds.length && length > 1 ? method.label : `${method.label} (${plural(length, "seed")})`;
}
