/** Curves of several methods as one SVG file. A page shows it as an image, so it contains the colors of both color schemes. */
import { format, Html, html, ticks } from "../src/runs/report/index.js";

export interface ChartPoint {
  readonly x: number;
  readonly y: number;
  /** Half the height of the error bar. */
  readonly spread?: number | null;
}

export interface ChartSeries {
  readonly label: string;
  readonly points: readonly ChartPoint[];
}

export interface ChartOptions {
  readonly title: string;
  readonly x: string;
  readonly y: string;
  readonly series: readonly ChartSeries[];
  /** Scale of the horizontal axis. With `log`, points at 0 are left out. */
  readonly scale?: "linear" | "log";
  /** A horizontal line to compare with, such as the base model's reward. */
  readonly level?: { readonly y: number; readonly label: string };
}

const size = { width: 820, height: 380 };
const margin = { left: 58, right: 16, top: 34, bottom: 46 };
const legend = { width: 268, row: 19 };

/** For the light and the dark scheme. They differ in lightness as well as in hue, and dashes distinguish similar ones. */
const COLOURS = [
  ["#0b62a8", "#6cb6ff"],
  ["#c2410c", "#ff9e5e"],
  ["#15803d", "#5fd38a"],
  ["#9333ea", "#cf9bff"],
  ["#b8860b", "#e9c46a"],
  ["#be185d", "#ff86b6"],
  ["#0f766e", "#4fd1c5"],
  ["#57534e", "#c7c2bd"],
  ["#7f1d1d", "#ff8a80"],
  ["#1e3a8a", "#9db8ff"],
  ["#4d7c0f", "#b8e05f"],
] as const;
const DASHES = ["", "7 3", "2 3"] as const;

export function chart({ title, x: xLabel, y: yLabel, series, scale = "linear", level }: ChartOptions): string {
  const shown = series.map(({ label, points }) => ({
    label,
    points: scale === "log" ? points.filter(({ x }) => x > 0) : points,
  }));
  const points = shown.flatMap((each) => each.points);
  const at = scale === "log" ? Math.log10 : (x: number) => x;
  const xs = points.map(({ x }) => at(x));
  const ys = [
    ...points.flatMap(({ y, spread }) => [y - (spread ?? 0), y + (spread ?? 0)]),
    ...(level ? [level.y] : []),
  ];
  const yTicks = ticks(Math.min(...ys), Math.max(...ys), 6);
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const [low, high] = [Math.min(...yTicks), Math.max(...yTicks)];
  const xTicks = scale === "log" ? decades(left, right) : ticks(left, right, 7).filter((x) => x >= left && x <= right);
  const inner = { right: size.width - margin.right - legend.width, bottom: size.height - margin.bottom };
  const px = (x: number) => round(margin.left + ((at(x) - left) / (right - left || 1)) * (inner.right - margin.left));
  const py = (y: number) => round(inner.bottom - ((y - low) / (high - low || 1)) * (inner.bottom - margin.top));
  const middle = (margin.top + inner.bottom) / 2;

  return html`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${size.width} ${size.height}" role="img" aria-label="${title}">
<style>${new Html(styles(series.length))}</style>
<rect width="${size.width}" height="${size.height}" class="paper"/>
<text x="${margin.left}" y="20" class="title">${title}</text>
${yTicks.map(
  (
    y,
  ) => html`<line class="grid" x1="${margin.left}" x2="${inner.right}" y1="${py(y)}" y2="${py(y)}"/><text x="${margin.left - 8}" y="${py(y) + 4}" text-anchor="end">${y}</text>
`,
)}${xTicks.map(
  (
    x,
  ) => html`<line class="grid" x1="${px(x)}" x2="${px(x)}" y1="${inner.bottom}" y2="${inner.bottom + 4}"/><text x="${px(x)}" y="${inner.bottom + 18}" text-anchor="middle">${tickText(x)}</text>
`,
)}<text x="${(margin.left + inner.right) / 2}" y="${size.height - 8}" text-anchor="middle">${xLabel}</text>
<text transform="translate(14 ${middle}) rotate(-90)" text-anchor="middle">${yLabel}</text>
${level ? html`<line class="level" x1="${margin.left}" x2="${inner.right}" y1="${py(level.y)}" y2="${py(level.y)}"/><text x="${inner.right - 4}" y="${py(level.y) + 15}" text-anchor="end">${level.label}</text>` : html``}
${shown.map((each, i) => seriesOf(each, i, { px, py }))}
${shown.map(({ label }, i) => {
  const y = margin.top + 8 + i * legend.row;
  const x = inner.right + 16;
  return html`<line class="line s${i}" x1="${x}" x2="${x + 22}" y1="${y}" y2="${y}"/><text x="${x + 29}" y="${y + 4}">${label}</text>
`;
})}</svg>
`.text;
}

interface Axes {
  readonly px: (x: number) => number;
  readonly py: (y: number) => number;
}

function seriesOf({ points, label }: ChartSeries, index: number, { px, py }: Axes): Html {
  const line = points.map(({ x, y }) => `${px(x)},${py(y)}`).join(" ");
  return html`<polyline class="line s${index}" points="${line}"/>
${points.map(({ x, y, spread }) => html`${spread ? html`<line class="bar s${index}" x1="${px(x)}" x2="${px(x)}" y1="${py(y - spread)}" y2="${py(y + spread)}"/>` : html``}<circle class="s${index}" cx="${px(x)}" cy="${py(y)}" r="2.4"><title>${label}: ${format(y)} at ${tickText(x)}</title></circle>`)}
`;
}

function styles(count: number): string {
  const colour = (i: number, dark: 0 | 1) => COLOURS[i % COLOURS.length]?.[dark];
  const each = (dark: 0 | 1) =>
    Array.from({ length: count }, (_, i) => `.s${i} { stroke: ${colour(i, dark)}; fill: ${colour(i, dark)}; }`).join(
      " ",
    );
  const dashes = Array.from(
    { length: count },
    (_, i) => `.line.s${i} { stroke-dasharray: ${DASHES[i % 3] || "none"}; }`,
  );
  return `
text { font: 12px system-ui, sans-serif; fill: #57534e; stroke: none; } .title { font-weight: 600; font-size: 14px; fill: #1d1c1a; }
.paper { fill: #fff; } .grid { stroke: #e5e2dc; } .level { stroke: #8a8f98; stroke-dasharray: 4 4; }
${each(0)}
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .bar { stroke-width: 1; opacity: 0.45; } circle { stroke: none; }
${dashes.join(" ")}
@media (prefers-color-scheme: dark) {
text { fill: #b3aea7; } .title { fill: #ecebe8; } .paper { fill: #161514; } .grid { stroke: #36342f; }
${each(1)} .line { fill: none; } circle { stroke: none; }
}
`;
}

/** 1, 2 and 5 times each power of ten from 10^low to 10^high. */
function decades(low: number, high: number): number[] {
  const found: number[] = [];
  for (let power = Math.floor(low); power <= Math.ceil(high); power++) {
    for (const factor of [1, 2, 5]) found.push(factor * 10 ** power);
  }
  return found.filter((x) => Math.log10(x) >= low - 1e-9 && Math.log10(x) <= high + 1e-9);
}

function tickText(x: number): string {
  return x >= 1000 ? `${round(x / 1000)}k` : String(Number(x.toPrecision(3)));
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
