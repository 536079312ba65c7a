/**
 * The drawings of the pretraining images: each animal from two icon sets, rasterised once and stored at several sizes, so that
 * the renderer can sample from a bitmap of about the drawn size, without aliasing.
 */
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import sharp from "sharp";
import { ANIMALS } from "./animals.js";

/** The words for the two sets in captions: Fluent Emoji Flat has plain fills, Noto has shading, highlights and outlines. */
export const STYLES = ["flat", "shaded"] as const;
export type Style = (typeof STYLES)[number];

const ICON_SETS: Readonly<Record<Style, string>> = {
  flat: "@iconify-json/fluent-emoji-flat",
  shaded: "@iconify-json/noto",
};

/** Icons whose name in both sets differs from the prompt. */
const ICON_NAMES: Readonly<Record<string, string>> = {
  sheep: "ewe",
  squirrel: "chipmunk",
  bee: "honeybee",
  cheetah: "leopard",
};

/** An image of `size` x `size` pixels with premultiplied alpha, four float32 per pixel: red, green, blue, alpha in 0 … 1. */
export interface Bitmap {
  readonly size: number;
  readonly rgba: Float32Array;
}

export interface Icon {
  /** Share of the square's side that the drawing covers; 1 for the longer side. */
  readonly width: number;
  readonly height: number;
  /** The same drawing at several sizes, largest first. */
  readonly ladder: readonly Bitmap[];
}

export type Icons = Readonly<Record<Style, ReadonlyMap<string, Icon>>>;

/** Pixels along each side to which the vector graphics are rasterised, before averaging. */
const RASTER_SIZE = 256;

/** Sizes in steps of about 7/6, so that bilinear sampling never shrinks by more than that. */
const LADDER = [64, 56, 48, 40, 34, 29, 25, 21];

interface IconSet {
  readonly width?: number;
  readonly height?: number;
  readonly icons: Readonly<
    Record<string, { readonly body: string; readonly width?: number; readonly height?: number }>
  >;
}

/** Loads both sets with all 51 animals. Takes a second or two. */
export async function loadIcons(): Promise<Icons> {
  const [flat, shaded] = await Promise.all([loadStyle("flat"), loadStyle("shaded")]);
  return { flat, shaded };
}

async function loadStyle(style: Style): Promise<Map<string, Icon>> {
  const file = createRequire(import.meta.url).resolve(`${ICON_SETS[style]}/icons.json`);
  const set = JSON.parse(await readFile(file, "utf8")) as IconSet;
  const icons = new Map<string, Icon>();
  for (const animal of ANIMALS) {
    const icon = set.icons[ICON_NAMES[animal] ?? animal];
    if (icon === undefined) throw new Error(`icons: ${ICON_SETS[style]} has no icon for "${animal}"`);
    const width = icon.width ?? set.width ?? 16;
    const height = icon.height ?? set.height ?? 16;
    const svg =
      `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" ` +
      `width="${RASTER_SIZE}" height="${RASTER_SIZE}" viewBox="0 0 ${width} ${height}">${icon.body}</svg>`;
    const rgba = await sharp(Buffer.from(svg)).ensureAlpha().raw().toBuffer();
    icons.set(animal, fromRaster({ bytes: rgba, size: RASTER_SIZE }));
  }
  return icons;
}

/** RGBA with straight alpha, `size` x `size` pixels. */
interface Raster {
  readonly bytes: Uint8Array;
  readonly size: number;
}

/** A square within a raster, in pixels. */
interface Square {
  readonly x: number;
  readonly y: number;
  readonly side: number;
}

/** Raster → a drawing cropped to its visible part, centred in a square, at every size of the ladder. */
function fromRaster(raster: Raster): Icon {
  const { bytes, size } = raster;
  let [left, top, right, bottom] = [size, size, 0, 0];
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      if ((bytes[(y * size + x) * 4 + 3] as number) < 16) continue;
      left = Math.min(left, x);
      right = Math.max(right, x + 1);
      top = Math.min(top, y);
      bottom = Math.max(bottom, y + 1);
    }
  }
  const side = Math.max(right - left, bottom - top);
  const square = { x: (left + right - side) / 2, y: (top + bottom - side) / 2, side };
  return {
    width: (right - left) / side,
    height: (bottom - top) / side,
    ladder: LADDER.map((target) => ({ size: target, rgba: average(raster, square, target) })),
  };
}

/** Area average of a square onto `target` x `target` pixels, premultiplied. */
function average({ bytes, size }: Raster, square: Square, target: number): Float32Array {
  const out = new Float32Array(target * target * 4);
  const step = square.side / target;
  const perByte = 1 / (255 * step * step);
  for (let row = 0; row < target; row++) {
    const y0 = square.y + row * step;
    for (let column = 0; column < target; column++) {
      const x0 = square.x + column * step;
      const at = (row * target + column) * 4;
      for (let y = Math.max(0, Math.floor(y0)); y < Math.min(size, y0 + step); y++) {
        const coverY = Math.min(y + 1, y0 + step) - Math.max(y, y0);
        for (let x = Math.max(0, Math.floor(x0)); x < Math.min(size, x0 + step); x++) {
          const coverX = Math.min(x + 1, x0 + step) - Math.max(x, x0);
          const from = (y * size + x) * 4;
          const alpha = coverX * coverY * perByte * (bytes[from + 3] as number);
          const colour = alpha / 255;
          out[at] = (out[at] as number) + colour * (bytes[from] as number);
          out[at + 1] = (out[at + 1] as number) + colour * (bytes[from + 1] as number);
          out[at + 2] = (out[at + 2] as number) + colour * (bytes[from + 2] as number);
          out[at + 3] = (out[at + 3] as number) + alpha;
        }
      }
    }
  }
  return out;
}

/** The smallest bitmap of an icon that is at least `pixels` along a side, or its largest. */
export function bitmapFor(icon: Icon, pixels: number): Bitmap {
  let best = icon.ladder[0] as Bitmap;
  for (const bitmap of icon.ladder) if (bitmap.size >= pixels) best = bitmap;
  return best;
}
