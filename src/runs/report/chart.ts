/** Line charts as inline SVG. Colors come from the style sheet of the page, so they follow its dark mode. */
import { format } from "./format.js";
import { type Html, html } from "./html.js";

export interface Point {
  readonly x: number;
  readonly y: number;
  /** Half the height of the band around the line, in units of y. */
  readonly spread?: number;
}

export interface Series {
  readonly label: string;
  /** CSS class, which sets the color. */
  readonly className: "train" | "eval" | "held" | "diverse";
  readonly points: readonly Point[];
  /** Mark every point; for series with few points. */
  readonly dots?: boolean;
}

/** A vertical line with a label at one step. */
export interface Mark {
  readonly x: number;
  readonly label: string;
}

export interface ChartOptions {
  readonly title: string;
  readonly series: readonly Series[];
  /**
   * Width in the units of the SVG. If it is near the width in CSS pixels on the page, the text has the size of the
   * page's text.
   */
  readonly width?: number;
  readonly height?: number;
  /** First and last step of the axis, so that several charts can share one. Default: the range of the points. */
  readonly x?: readonly [number, number];
  readonly marks?: readonly Mark[];
}

const margin = { left: 52, right: 14, top: 12, bottom: 28 };

/** The horizontal axis shows training steps. Returns empty HTML if there are no points. */
export function lineChart({ title, series, width = 440, height = 220, x, marks = [] }: ChartOptions): Html {
  const points = series.flatMap((s) => s.points);
  if (points.length === 0) return html``;
  const xs = x ?? points.map(({ x }) => x);
  const ys = points.flatMap(({ y, spread = 0 }) => [y - spread, y + spread]);
  const xTicks = ticks(Math.min(...xs), Math.max(...xs), 6).filter(
    (x) => Number.isInteger(x) && x >= Math.min(...xs) && x <= Math.max(...xs),
  );
  const yTicks = ticks(Math.min(...ys), Math.max(...ys), 5);
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const [low, high] = [Math.min(...yTicks, ...ys), Math.max(...yTicks, ...ys)];
  const px = (x: number) =>
    round(margin.left + ((x - left) / (right - left || 1)) * (width - margin.left - margin.right));
  const py = (y: number) =>
    round(height - margin.bottom - ((y - low) / (high - low || 1)) * (height - margin.top - margin.bottom));

  return html`<svg class="chart" viewBox="0 0 ${width} ${height}" role="img" aria-label="${title}">
${yTicks.map((y) => html`<line class="grid" x1="${margin.left}" x2="${width - margin.right}" y1="${py(y)}" y2="${py(y)}"/><text x="${margin.left - 8}" y="${py(y) + 4}" text-anchor="end">${tickLabel(y)}</text>`)}
${xTicks.map((x) => html`<text x="${px(x)}" y="${height - 8}" text-anchor="middle">${x}</text>`)}
${marks.map(({ x, label }) => html`<line class="mark" x1="${px(x)}" x2="${px(x)}" y1="${margin.top}" y2="${height - margin.bottom}"/><text x="${px(x) - 5}" y="${margin.top + 10}" text-anchor="end">${label}</text>`)}
${series.map(({ className, points }) => band(className, points, px, py))}
${series.map(({ className, points }) => html`<polyline class="line ${className}" points="${points.map(({ x, y }) => `${px(x)},${py(y)}`).join(" ")}"/>`)}
${series.flatMap(({ className, points, dots, label }) => (dots || points.length === 1 ? points : []).map(({ x, y }) => html`<circle class="${className}" cx="${px(x)}" cy="${py(y)}" r="3.5"><title>${label}, step ${x}: ${format(y)}</title></circle>`))}
</svg>`;
}

function band(className: string, points: readonly Point[], px: (x: number) => number, py: (y: number) => number): Html {
  if (!points.some(({ spread }) => spread !== undefined)) return html``;
  const upper = points.map(({ x, y, spread = 0 }) => `${px(x)},${py(y + spread)}`);
  const lower = points.map(({ x, y, spread = 0 }) => `${px(x)},${py(y - spread)}`).reverse();
  return html`<polygon class="band ${className}" points="${[...upper, ...lower].join(" ")}"/>`;
}

/** About `about` round numbers that span `low` to `high`. Their distance is 1, 2 or 5 times a power of ten. */
export function ticks(low: number, high: number, about: number): number[] {
  const rough = (high - low || Math.abs(high) || 1) / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const distance = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10);
  const found: number[] = [];
  for (let i = Math.floor(low / distance); i <= Math.ceil(high / distance); i++)
    found.push(Number((i * distance).toPrecision(12)));
  return found;
}

function tickLabel(value: number): string {
  const magnitude = Math.abs(value);
  return magnitude !== 0 && (magnitude < 1e-3 || magnitude >= 1e5) ? value.toExponential(0) : String(value);
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
