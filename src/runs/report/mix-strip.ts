import { contactSheet } from "../../images/contact-sheet.js";
import type { RgbImage } from "../../images/rgb.js";

/** Pictures up to this side are shown twice as large. */
const SMALL = 128;

/** How a mix changes with its coefficient: a row for each prompt, a column (of `columns`) for each coefficient. */
export function mixStrip(
  prompts: readonly string[],
  coefficients: readonly number[],
  columns: readonly (readonly RgbImage[])[],
): Promise<Buffer> {
  const pictures = prompts.flatMap((prompt, row) =>
    coefficients.map((x, column) => ({
      ...(columns[column]?.[row] as RgbImage),
      label: column === 0 ? `${prompt} · ${x}` : String(x),
    })),
  );
  const scale = (pictures[0]?.width ?? 0) <= SMALL ? 2 : 1;
  return contactSheet(pictures, { columns: coefficients.length, scale });
}
