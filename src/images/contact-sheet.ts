/** Pictures as PNG: one at a time, or many on a sheet with labels. */
import sharp from "sharp";

export interface Picture {
  readonly width: number;
  readonly height: number;
  /** A Float32Array is channels first, [3, height, width], -1 … 1 as from the VAE; bytes are interleaved RGB. */
  readonly pixels: Float32Array | Uint8Array;
}

export interface LabelledPicture extends Picture {
  readonly label?: string;
}

export interface SheetOptions {
  readonly columns?: number;
  /** Each pixel becomes a square of this side. */
  readonly scale?: number;
  /** Pixels between pictures and around them. */
  readonly gap?: number;
}

/** Interleaved RGB bytes: (x + 1) / 2, clamped, as diffusers' image processor writes pictures. */
export function rgbBytes({ width, height, pixels }: Picture): Uint8Array {
  const plane = width * height;
  if (pixels.length !== 3 * plane) {
    throw new RangeError(`picture: ${pixels.length} values do not fill 3 x ${height} x ${width}`);
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

export function encodePng(picture: Picture, { scale = 1 }: { scale?: number } = {}): Promise<Buffer> {
  const raw = { width: picture.width * scale, height: picture.height * scale, channels: 3 as const };
  return sharp(enlarge(rgbBytes(picture), picture.width, picture.height, scale), { raw })
    .png()
    .toBuffer();
}

const FONT_SIZE = 10;
const LINE_HEIGHT = 12;
/** A sans-serif letter's mean width, as a share of the font's size. */
const LETTER_WIDTH = 0.55;
const PAPER = 250;

/** A grid, row by row, each picture above its label if it has one. All pictures have the first one's size. */
export async function contactSheet(
  pictures: readonly LabelledPicture[],
  { columns = Math.ceil(Math.sqrt(pictures.length)), scale = 2, gap = 6 }: SheetOptions = {},
): Promise<Buffer> {
  const first = pictures[0];
  if (first === undefined) throw new RangeError("contact sheet: there are no pictures to show");
  const cellWidth = first.width * scale;
  const cellHeight = first.height * scale;
  const labels = pictures.map(({ label = "" }) => linesOf(label, cellWidth));
  const labelHeight = Math.max(...labels.map((lines) => lines.length)) * LINE_HEIGHT;
  const rows = Math.ceil(pictures.length / columns);
  const width = columns * (cellWidth + gap) + gap;
  const height = rows * (cellHeight + labelHeight + gap) + gap;
  const canvas = new Uint8Array(width * height * 3).fill(PAPER);
  const texts: string[] = [];
  pictures.forEach((picture, index) => {
    if (picture.width !== first.width || picture.height !== first.height) {
      throw new RangeError(
        `contact sheet: picture ${index} is ${picture.width}x${picture.height}, the first ${first.width}x${first.height}`,
      );
    }
    const left = gap + (index % columns) * (cellWidth + gap);
    const top = gap + Math.floor(index / columns) * (cellHeight + labelHeight + gap);
    const bytes = enlarge(rgbBytes(picture), picture.width, picture.height, scale);
    for (let row = 0; row < cellHeight; row++) {
      canvas.set(bytes.subarray(row * cellWidth * 3, (row + 1) * cellWidth * 3), ((top + row) * width + left) * 3);
    }
    labels[index]?.forEach((line, row) => {
      texts.push(textSvg(line, left + cellWidth / 2, top + cellHeight + (row + 1) * LINE_HEIGHT, cellWidth));
    });
  });
  const sheet = sharp(canvas, { raw: { width, height, channels: 3 } });
  if (texts.length > 0) {
    const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}">${texts.join("")}</svg>`;
    sheet.composite([{ input: Buffer.from(svg), left: 0, top: 0 }]);
  }
  return sheet.png().toBuffer();
}

/** A label broken between words, so that lines keep to their column. */
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

/** One centred line, in smaller letters where a single word is too long. */
function textSvg(line: string, x: number, y: number, width: number): string {
  const fontSize = Math.min(FONT_SIZE, width / (LETTER_WIDTH * line.length));
  // Control characters have no place in XML, not even escaped.
  const escaped = line.replace(/\p{Cc}/gu, "").replace(/[<>&"]/g, (letter) => `&#${letter.charCodeAt(0)};`);
  return (
    `<text x="${x}" y="${y}" font-family="sans-serif" font-size="${fontSize.toFixed(2)}" fill="#333" ` +
    `text-anchor="middle">${escaped}</text>`
  );
}

/** Every pixel as a square of `scale` x `scale`: what a small model drew, without smoothing. */
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
