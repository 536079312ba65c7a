/** Scene → image [3, 64, 64] in -1 … 1, as a VAE takes it. Plain arithmetic, so that it is the same on every machine. */
import { bitmapFor, type Icon, type Icons } from "./icons.js";
import { BACKGROUNDS, type Scene, type Treatment } from "./scene.js";

export const IMAGE_SIZE = 64;
const PLANE = IMAGE_SIZE * IMAGE_SIZE;
/** Numbers in an image [3, 64, 64]. */
export const IMAGE_LENGTH = 3 * PLANE;

/** The square for one copy of the animal: its centre and side, in pixels. */
interface Slot {
  readonly x: number;
  readonly y: number;
  readonly side: number;
}

/** Free pixels between a slot and its neighbours, and at the edge of the image. */
const MARGIN = 2;

/** One: the whole image. Two: side by side. Three: two above one. Four: two above two. */
const ARRANGEMENTS: Readonly<Record<Scene["count"], readonly Slot[]>> = {
  1: [slot(32, 32, 64)],
  2: [slot(16, 32, 32), slot(48, 32, 32)],
  3: [slot(16, 16, 32), slot(48, 16, 32), slot(32, 48, 32)],
  4: [slot(16, 16, 32), slot(48, 16, 32), slot(16, 48, 32), slot(48, 48, 32)],
};

function slot(x: number, y: number, cell: number): Slot {
  return { x, y, side: cell - MARGIN };
}

/** Position of a copy of the drawing: its centre and the side of the icon's square, in pixels. */
export interface Placement {
  readonly x: number;
  readonly y: number;
  readonly side: number;
  /** Half the width and height of the visible part after the tilt. */
  readonly halfWidth: number;
  readonly halfHeight: number;
}

/** The copies of a scene. Each stays inside its slot, whatever its tilt and shift, so that none overlap or are cut off. */
export function placements(scene: Scene, icon: Icon): Placement[] {
  const cos = Math.abs(Math.cos(scene.tilt));
  const sin = Math.abs(Math.sin(scene.tilt));
  const width = icon.width * cos + icon.height * sin;
  const height = icon.width * sin + icon.height * cos;
  return ARRANGEMENTS[scene.count].map((cell) => {
    const side = (cell.side / Math.max(width, height)) * scene.scale;
    const roomX = (cell.side - side * width) / 2;
    const roomY = (cell.side - side * height) / 2;
    return {
      x: cell.x + scene.shift[0] * Math.min(roomX, LARGEST_SHIFT),
      y: cell.y + scene.shift[1] * Math.min(roomY, LARGEST_SHIFT),
      side,
      halfWidth: (side * width) / 2,
      halfHeight: (side * height) / 2,
    };
  });
}

/** Pixels. Animals are near the middle, which is easiest for a small model. */
const LARGEST_SHIFT = 4;

/** Writes the image into `out` at `offset`. */
export function renderScene(
  scene: Scene,
  icons: Icons,
  out = new Float32Array(IMAGE_LENGTH),
  offset = 0,
): Float32Array {
  const icon = icons[scene.style].get(scene.animal);
  if (icon === undefined) throw new RangeError(`render: no ${scene.style} drawing of "${scene.animal}"`);
  BACKGROUNDS[scene.background].forEach((level, channel) => {
    out.fill(level / 255, offset + channel * PLANE, offset + (channel + 1) * PLANE);
  });
  const image = out.subarray(offset, offset + IMAGE_LENGTH);
  for (const placement of placements(scene, icon)) drawCopy(scene, icon, placement, image);
  if (scene.treatment !== undefined) treat(scene.treatment, image);
  for (let i = offset; i < offset + IMAGE_LENGTH; i++) {
    out[i] = Math.min(1, Math.max(-1, (out[i] as number) * 2 - 1)); // float32 sums of white may be slightly above 1
  }
  return out;
}

/** Inverse warp: each pixel in the bounding box of the copy is sampled bilinearly from the bitmap. */
function drawCopy(scene: Scene, icon: Icon, placement: Placement, image: Float32Array): void {
  const { size, rgba } = bitmapFor(icon, placement.side);
  const perPixel = size / placement.side;
  const cos = Math.cos(scene.tilt) * perPixel;
  const sin = Math.sin(scene.tilt) * perPixel;
  const mirror = scene.flip ? -1 : 1;
  const left = Math.max(0, Math.floor(placement.x - placement.halfWidth - 1));
  const right = Math.min(IMAGE_SIZE, Math.ceil(placement.x + placement.halfWidth + 1));
  const top = Math.max(0, Math.floor(placement.y - placement.halfHeight - 1));
  const bottom = Math.min(IMAGE_SIZE, Math.ceil(placement.y + placement.halfHeight + 1));
  const middle = size / 2 - 0.5;
  for (let row = top; row < bottom; row++) {
    const dy = row + 0.5 - placement.y;
    for (let column = left; column < right; column++) {
      const dx = column + 0.5 - placement.x;
      const u = middle + mirror * (cos * dx + sin * dy);
      const v = middle - sin * dx + cos * dy;
      const u0 = Math.floor(u);
      const v0 = Math.floor(v);
      if (u0 < -1 || v0 < -1 || u0 >= size || v0 >= size) continue;
      let red = 0;
      let green = 0;
      let blue = 0;
      let alpha = 0;
      for (let corner = 0; corner < 4; corner++) {
        const cornerU = u0 + (corner & 1);
        const cornerV = v0 + (corner >> 1);
        if (cornerU < 0 || cornerV < 0 || cornerU >= size || cornerV >= size) continue;
        const weight = (1 - Math.abs(u - cornerU)) * (1 - Math.abs(v - cornerV));
        const at = (cornerV * size + cornerU) * 4;
        red += weight * (rgba[at] as number);
        green += weight * (rgba[at + 1] as number);
        blue += weight * (rgba[at + 2] as number);
        alpha += weight * (rgba[at + 3] as number);
      }
      if (alpha === 0) continue;
      const pixel = row * IMAGE_SIZE + column;
      image[pixel] = (image[pixel] as number) * (1 - alpha) + red;
      image[pixel + PLANE] = (image[pixel + PLANE] as number) * (1 - alpha) + green;
      image[pixel + 2 * PLANE] = (image[pixel + 2 * PLANE] as number) * (1 - alpha) + blue;
    }
  }
}

/** Rec. 601 luma weights. */
const LUMA = [0.299, 0.587, 0.114] as const;

/** For each treatment, the factor of saturation, then the factor of contrast around `pivot`, in 0 … 1. */
const TREATED: Readonly<Record<Treatment, { saturation: number; contrast: number; pivot: number }>> = {
  vivid: { saturation: 1.6, contrast: 1.25, pivot: 0.5 },
  pale: { saturation: 0.75, contrast: 0.4, pivot: 1 },
  dark: { saturation: 0.9, contrast: 0.4, pivot: 0 },
};

function treat(treatment: Treatment, image: Float32Array): void {
  const { saturation, contrast, pivot } = TREATED[treatment];
  for (let pixel = 0; pixel < PLANE; pixel++) {
    const gray =
      LUMA[0] * (image[pixel] as number) +
      LUMA[1] * (image[pixel + PLANE] as number) +
      LUMA[2] * (image[pixel + 2 * PLANE] as number);
    for (let at = pixel; at < IMAGE_LENGTH; at += PLANE) {
      const saturated = gray + saturation * ((image[at] as number) - gray);
      image[at] = Math.min(1, Math.max(0, pivot + contrast * (saturated - pivot)));
    }
  }
}
