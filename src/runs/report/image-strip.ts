import { contactSheet } from "../../images/contact-sheet.js";
import type { RgbImage } from "../../images/rgb.js";

/** Images of at most this width, in pixels, are shown twice as large. */
const SMALL = 128;

/**
 * A PNG that shows how a mix of adapters changes with its coefficient: one row per prompt, one column per coefficient.
 * `columns[c][p]` is the image of coefficient `c` and prompt `p`.
 */
export function mixStrip(
  prompts: readonly string[],
  coefficients: readonly number[],
  columns: readonly (readonly RgbImage[])[],
): Promise<Buffer> {
  const images = prompts.flatMap((prompt, row) =>
    coefficients.map((x, column) => ({
      ...(columns[column]?.[row] as RgbImage),
      label: column === 0 ? `${prompt} · ${x}` : String(x),
    })),
  );
  const scale = (images[0]?.width ?? 0) <= SMALL ? 2 : 1;
  return contactSheet(images, { columns: coefficients.length, scale });
}
