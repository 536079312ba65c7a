/** Encodes images as PNG: one by one, or several on a contact sheet with labels. */
import { loadSharp } from "./sharp.js";

export interface PixelImage {
  readonly width: number;
  readonly height: number;
  /** Either float32 [3, height, width] from -1 to 1, as the VAE decodes it, or interleaved RGB bytes. */
  readonly pixels: Float32Array | Uint8Array;
}

export interface LabelledImage extends PixelImage {
  readonly label?: string;
}

export interface SheetOptions {
  readonly columns?: number;
  /** Integer factor by which images are enlarged, without smoothing. */
  readonly scale?: number;
  /** Pixels between the images and around them. */
  readonly gap?: number;
}

/**
 * The image as interleaved RGB bytes. Floats become (x + 1) / 2, clamped to [0, 1], as in diffusers' image processor.
 *
 * @throws RangeError if `pixels` does not have 3 · width · height elements.
 */
export function rgbBytes({ width, height, pixels }: PixelImage): Uint8Array {
  const plane = width * height;
  if (pixels.length !== 3 * plane) {
    throw new RangeError(`image: ${pixels.length} values do not fill 3 x ${height} x ${width}`);
  }
  if (pixels instanceof Uint8Array) return pixels;
  const bytes = new Uint8Array(3 * plane);
  for (let pixel = 0; pixel < plane; pixel++) {
    for (let channel = 0; channel < 3; channel++) {
      const level = ((pixels[channel * plane + pixel] as number) + 1) * 127.5;
      bytes[pixel * 3 + channel] = Math.round(Math.min(255, Math.max(0, level)));
    }
  }
  return bytes;
}

/** The PNG file of one image, enlarged by `scale`. */
export async function encodePng(image: PixelImage, { scale = 1 }: { scale?: number } = {}): Promise<Buffer> {
  const raw = { width: image.width * scale, height: image.height * scale, channels: 3 as const };
  const sharp = await loadSharp();
  return sharp(enlarge(rgbBytes(image), image.width, image.height, scale), { raw })
    .png()
    .toBuffer();
}

const FONT_SIZE = 10;
const LINE_HEIGHT = 12;
/** Mean width of a letter of the sans-serif font, relative to the font size. */
const LETTER_WIDTH = 0.55;
/** Gray level of the background. */
const BACKGROUND = 250;

/**
 * The PNG file of a grid of images, filled row by row, with each label below its image.
 *
 * @throws RangeError if there are no images, or if they differ in size.
 */
export async function contactSheet(
  images: readonly LabelledImage[],
  { columns = Math.ceil(Math.sqrt(images.length)), scale = 2, gap = 6 }: SheetOptions = {},
): Promise<Buffer> {
  const first = images[0];
  if (first === undefined) throw new RangeError("contactSheet: needs at least one image");
  const cellWidth = first.width * scale;
  const cellHeight = first.height * scale;
  const labels = images.map(({ label = "" }) => linesOf(label, cellWidth));
  const labelHeight = Math.max(...labels.map((lines) => lines.length)) * LINE_HEIGHT;
  const rows = Math.ceil(images.length / columns);
  const width = columns * (cellWidth + gap) + gap;
  const height = rows * (cellHeight + labelHeight + gap) + gap;
  const canvas = new Uint8Array(width * height * 3).fill(BACKGROUND);
  const texts: string[] = [];
  images.forEach((image, index) => {
    if (image.width !== first.width || image.height !== first.height) {
      throw new RangeError(
        `contactSheet: image ${index} is ${image.width}x${image.height}, but image 0 is ${first.width}x${first.height}`,
      );
    }
    const left = gap + (index % columns) * (cellWidth + gap);
    const top = gap + Math.floor(index / columns) * (cellHeight + labelHeight + gap);
    const bytes = enlarge(rgbBytes(image), image.width, image.height, scale);
    for (let row = 0; row < cellHeight; row++) {
      canvas.set(bytes.subarray(row * cellWidth * 3, (row + 1) * cellWidth * 3), ((top + row) * width + left) * 3);
    }
    labels[index]?.forEach((line, row) => {
      texts.push(textSvg(line, left + cellWidth / 2, top + cellHeight + (row + 1) * LINE_HEIGHT, cellWidth));
    });
  });
  const sharp = await loadSharp();
  const sheet = sharp(canvas, { raw: { width, height, channels: 3 } });
  if (texts.length > 0) {
    const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}">${texts.join("")}</svg>`;
    sheet.composite([{ input: Buffer.from(svg), left: 0, top: 0 }]);
  }
  return sheet.png().toBuffer();
}

/** Breaks a label between words into lines of at most `width` pixels. A single word may be longer. */
function linesOf(label: string, width: number): string[] {
  const letters = width / (LETTER_WIDTH * FONT_SIZE);
  const lines: string[] = [];
  for (const word of label.split(/\s+/).filter(Boolean)) {
    const line = lines.at(-1);
    if (line !== undefined && line.length + 1 + word.length <= letters) lines[lines.length - 1] = `${line} ${word}`;
    else lines.push(word);
  }
  return lines;
}

/** One line centered at x. Reduces the font size if the line is wider than `width`. */
function textSvg(line: string, x: number, y: number, width: number): string {
  const fontSize = Math.min(FONT_SIZE, width / (LETTER_WIDTH * line.length));
  // XML does not allow control characters, not even escaped.
  const escaped = line.replace(/\p{Cc}/gu, "").replace(/[<>&"]/g, (letter) => `&#${letter.charCodeAt(0)};`);
  return (
    `<text x="${x}" y="${y}" font-family="sans-serif" font-size="${fontSize.toFixed(2)}" fill="#333" ` +
    `text-anchor="middle">${escaped}</text>`
  );
}

/** Repeats every pixel of interleaved RGB as a square of `scale` x `scale` pixels. */
function enlarge(bytes: Uint8Array, width: number, height: number, scale: number): Uint8Array {
  if (scale === 1) return bytes;
  const rowLength = width * scale * 3;
  const out = new Uint8Array(rowLength * height * scale);
  for (let y = 0; y < height; y++) {
    const start = y * scale * rowLength;
    for (let x = 0; x < width * scale; x++) {
      const from = (y * width + Math.floor(x / scale)) * 3;
      for (let channel = 0; channel < 3; channel++) out[start + x * 3 + channel] = bytes[from + channel] as number;
    }
    for (let copy = 1; copy < scale; copy++) out.copyWithin(start + copy * rowLength, start, start + rowLength);
  }
  return out;
}
