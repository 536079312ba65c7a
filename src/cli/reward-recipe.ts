/** The settings of an ONNX reward as a recipe states them, to paste. */
import { isRecord } from "../io/record.js";
import { type OnnxSettings, onnxSchema } from "../rewards/index.js";

/** The settings of the reward that differ from the defaults, as a recipe states them. */
export function changedSettings(settings: OnnxSettings, file: string): Record<string, unknown> {
  const defaults: Record<string, unknown> = onnxSchema.parse({ name: "onnx", file });
  const differing = (value: object, usual: Record<string, unknown>): [string, unknown][] =>
    Object.entries(value).flatMap(([key, own]): [string, unknown][] => {
      const before = usual[key];
      if (isRecord(own) && isRecord(before)) {
        const inner = differing(own, before);
        return inner.length > 0 ? [[key, Object.fromEntries(inner)]] : [];
      }
      return JSON.stringify(own) === JSON.stringify(before) ? [] : [[key, own]];
    });
  return { name: "onnx", file, ...Object.fromEntries(differing(settings, defaults)) };
}

/** A value as YAML on one line. JSON is YAML, but plain words need no quotes. */
export function inline(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(inline).join(", ")}]`;
  if (isRecord(value)) {
    return `{ ${Object.entries(value)
      .map(([key, own]) => `${key}: ${inline(own)}`)
      .join(", ")} }`;
  }
  return typeof value === "string" &&
    /^[A-Za-z_./][\w./-]*$/.test(value) &&
    !/^(true|false|null|yes|no|on|off|[yn])$/i.test(value)
    ? value
    : JSON.stringify(value);
}
