/** Preprocessing of images for an ONNX model: size, value range, mean and standard deviation, layout. */
import { z } from "zod";
import { InputError } from "../../errors/index.js";
import type { Value } from "../../graph/value.js";
import { parseConfig } from "../../io/config-schema.js";
import { type OnnxInput, showInputShape } from "../../onnx/import/file.js";
import {
  add,
  concat,
  constant,
  div,
  mul,
  resizeBicubic,
  resizeBilinear,
  resizeNearest,
  slice,
  sub,
  transpose,
} from "../../ops/index.js";
import { isFloating } from "../../tensor/dtype.js";

const pixels = z.int().min(1).max(8192);
const edges = z.union([pixels, z.tuple([pixels, pixels])]);
const perChannel = z.array(z.number()).length(3);
const deviation = z.array(z.number().positive()).length(3);

/** `reward.preprocessing`. A key that is null takes the value of preprocessor_config.json, or of the model's input. */
export const preprocessingSchema = z.strictObject({
  /** Images are resized to a square of this side, or to [height, width], without keeping their aspect ratio. */
  size: edges.nullable().default(null),
  /** Images are resized to this shorter side, keeping their aspect ratio; usually followed by `crop`. */
  shortest_edge: pixels.nullable().default(null),
  resize: z.enum(["bilinear", "bicubic", "nearest"]).nullable().default(null),
  /** Widen the filter when downsampling, as Pillow does. */
  antialias: z.boolean().nullable().default(null),
  /** Center crop after resizing: a side, or [height, width]. */
  crop: edges.nullable().default(null),
  /** Values of black and white before mean and standard deviation are applied. */
  range: z.tuple([z.number(), z.number()]).nullable().default(null),
  mean: perChannel.nullable().default(null),
  std: deviation.nullable().default(null),
  layout: z.enum(["nchw", "nhwc"]).nullable().default(null),
  channels: z.enum(["rgb", "bgr"]).nullable().default(null),
});

export type PreprocessingSettings = z.output<typeof preprocessingSchema>;

/** Preprocessing with every value known. */
export interface Preprocessing {
  readonly size: Size | undefined;
  /** Length of the shorter side; the longer one is at most `longest`. */
  readonly shortestEdge: { readonly edge: number; readonly longest: number } | undefined;
  readonly resize: "bilinear" | "bicubic" | "nearest";
  readonly antialias: boolean;
  readonly crop: Size | undefined;
  readonly range: readonly [number, number];
  readonly mean: readonly number[];
  readonly std: readonly number[];
  readonly layout: "nchw" | "nhwc";
  readonly channels: "rgb" | "bgr";
}

export type Size = readonly [height: number, width: number];

const sizeOf = (edges: number | readonly [number, number] | null): Size | undefined =>
  typeof edges === "number" ? [edges, edges] : (edges ?? undefined);

/**
 * Combines the settings, a preprocessor_config.json (`file`) and the shape of the model's input, in this order. `path` is the
 * model, for messages.
 *
 * @throws InputError `reward-invalid` if the input is not [n, 3, h, w] or [n, h, w, 3], `settings-conflict` for two sizes.
 */
export function resolvePreprocessing(
  settings: PreprocessingSettings,
  file: Partial<Preprocessing> | undefined,
  input: Pick<OnnxInput, "name" | "shape" | "dtype">,
  path: string,
): Preprocessing {
  const { shape } = input;
  const layout = settings.layout ?? (shape[3] === 3 && shape[1] !== 3 ? "nhwc" : "nchw");
  const [channels, height, width] = layout === "nchw" ? [shape[1], shape[2], shape[3]] : [shape[3], shape[1], shape[2]];
  if (shape.length !== 4 || (typeof channels === "number" && channels !== 3)) {
    const found = showInputShape(shape);
    throw new InputError(
      "reward-invalid",
      `${path}: the input ${JSON.stringify(input.name)} has the shape ${found}, but images are [n, 3, h, w] or, with layout: nhwc, [n, h, w, 3]. Name another input with reward.input.`,
      { path, setting: "reward.input", input: input.name, found },
    );
  }
  const fixed = typeof height === "number" && typeof width === "number" ? ([height, width] as const) : undefined;
  const hasSize = settings.size !== null || settings.shortest_edge !== null || settings.crop !== null;
  const given = hasSize
    ? {
        size: sizeOf(settings.size),
        shortestEdge: settings.shortest_edge === null ? undefined : { edge: settings.shortest_edge, longest: Infinity },
        crop: sizeOf(settings.crop),
      }
    : { size: file?.size, shortestEdge: file?.shortestEdge, crop: file?.crop };
  if (given.size && given.shortestEdge) {
    throw new InputError(
      "settings-conflict",
      `${path}: preprocessing.size and preprocessing.shortest_edge are both set. Remove one of them.`,
      { path, settings: ["reward.preprocessing.size", "reward.preprocessing.shortest_edge"] },
    );
  }
  const { size, shortestEdge, crop } = given;
  // If images are cropped to the model's size, they must not be resized to it first.
  const target = size ?? (shortestEdge || crop ? undefined : fixed);
  return {
    size: target,
    shortestEdge,
    crop: crop ?? (shortestEdge ? fixed : undefined),
    resize: settings.resize ?? file?.resize ?? "bilinear",
    antialias: settings.antialias ?? true,
    ...valuesOf(settings, file, isFloating(input.dtype)),
    layout,
    channels: settings.channels ?? "rgb",
  };
}

/** A model whose input has integers takes pixels of 0 … 255 and normalizes them itself, whatever stands in the file. */
function valuesOf(
  { range, mean, std }: PreprocessingSettings,
  file: Partial<Preprocessing> | undefined,
  isFloat: boolean,
): Pick<Preprocessing, "range" | "mean" | "std"> {
  const known = isFloat ? file : { range: [0, 255] as const };
  return {
    range: range ?? known?.range ?? [0, 1],
    mean: mean ?? (isFloat ? file?.mean : undefined) ?? [0, 0, 0],
    std: std ?? (isFloat ? file?.std : undefined) ?? [1, 1, 1],
  };
}

/** images [b, 3, h, w] in 0 … 1 → the model's input. `path` is the model, for messages. */
export function preprocess(images: Value, spec: Preprocessing, path: string): Value {
  const resized = resize(images, resizedSize(images, spec), spec);
  const cropped = spec.crop ? centerCrop(resized, spec.crop, path) : resized;
  const [low, high] = spec.range;
  const ranged = low === 0 && high === 1 ? cropped : add(mul(cropped, high - low), low);
  const row = (values: readonly number[]) => constant(values, [1, 3, 1, 1]);
  const centered = spec.mean.every((value) => value === 0) ? ranged : sub(ranged, row(spec.mean));
  const scaled = spec.std.every((value) => value === 1) ? centered : div(centered, row(spec.std));
  const channels =
    spec.channels === "rgb"
      ? scaled
      : concat(
          [2, 1, 0].map((i) => slice(scaled, 1, [i, i + 1])),
          1,
        );
  return spec.layout === "nchw" ? channels : transpose(channels, [0, 2, 3, 1]);
}

function resizedSize({ shape }: Value, { size, shortestEdge }: Preprocessing): Size {
  const [, , height, width] = shape as [number, number, number, number];
  if (size) return size;
  if (!shortestEdge) return [height, width];
  const { edge, longest } = shortestEdge;
  const scale = Math.min(edge / Math.min(height, width), longest / Math.max(height, width));
  return [Math.max(1, Math.round(height * scale)), Math.max(1, Math.round(width * scale))];
}

function resize(images: Value, size: Size, { resize, antialias }: Preprocessing): Value {
  switch (resize) {
    case "bilinear":
      return resizeBilinear(images, size, { antialias });
    case "bicubic":
      return resizeBicubic(images, size, { antialias });
    case "nearest":
      return resizeNearest(images, size);
  }
}

function centerCrop(images: Value, [height, width]: Size, path: string): Value {
  const [, , h, w] = images.shape as [number, number, number, number];
  if (height > h || width > w) {
    throw new InputError(
      "reward-invalid",
      `${path}: the crop of ${height}x${width} is larger than the resized image, ${h}x${w} (height x width). Reduce preprocessing.crop, or increase the size.`,
      { path, setting: "reward.preprocessing.crop", found: [height, width], expected: [h, w] },
    );
  }
  const [top, left] = [Math.floor((h - height) / 2), Math.floor((w - width) / 2)];
  return slice(slice(images, 2, [top, top + height]), 3, [left, left + width]);
}

const side = z.int().min(1).max(8192);
const sizeObject = z.looseObject({
  height: side.optional(),
  width: side.optional(),
  shortest_edge: side.optional(),
  longest_edge: side.optional(),
});
const size = z.union([side, sizeObject]).nullish();

/** Resampling filters by Pillow's numbers. 1, Lanczos, is replaced by bicubic, which is close to it. */
const RESAMPLE = { 0: "nearest", 1: "bicubic", 2: "bilinear", 3: "bicubic" } as const;

const fileSchema = z.looseObject({
  do_resize: z.boolean().default(true),
  size,
  max_size: side.optional(),
  crop_pct: z.number().min(0.1).max(1).nullish(),
  resample: z.union([z.literal(0), z.literal(1), z.literal(2), z.literal(3)]).default(2),
  do_center_crop: z.boolean().default(false),
  crop_size: size,
  do_rescale: z.boolean().default(true),
  rescale_factor: z
    .number()
    .positive()
    .default(1 / 255),
  do_normalize: z.boolean().default(true),
  image_mean: perChannel.optional(),
  image_std: deviation.optional(),
});

/**
 * Reads a preprocessor_config.json of transformers.
 *
 * @throws InputError `config-invalid`
 */
export function parsePreprocessor(json: unknown, file: string): Partial<Preprocessing> {
  const config = parseConfig(fileSchema, json, file);
  const given = typeof config.size === "number" ? { shortest_edge: config.size } : (config.size ?? {});
  const exact = given.height && given.width ? ([given.height, given.width] as const) : undefined;
  const edge = given.shortest_edge;
  const longest = given.longest_edge ?? config.max_size ?? Infinity;
  const cropSize =
    typeof config.crop_size === "number" ? { height: config.crop_size, width: config.crop_size } : config.crop_size;
  const crop =
    config.do_center_crop && cropSize?.height && cropSize.width
      ? ([cropSize.height, cropSize.width] as const)
      : undefined;
  // ConvNeXtImageProcessor: below 384 pixels, images are resized to edge / crop_pct and cropped; else resized to a square.
  const inset = edge && config.crop_pct && edge < 384 ? Math.floor(edge / config.crop_pct) : undefined;
  const resized =
    inset && edge
      ? { shortestEdge: { edge: inset, longest }, crop: [edge, edge] as const }
      : config.crop_pct && edge
        ? { size: [edge, edge] as const }
        : { ...(exact ? { size: exact } : edge ? { shortestEdge: { edge, longest } } : {}), ...(crop && { crop }) };
  const white = config.do_rescale ? 255 * config.rescale_factor : 255;
  return {
    ...(config.do_resize ? resized : crop ? { crop } : {}),
    resize: RESAMPLE[config.resample],
    // A factor such as 0.00392156862745098 stands for 1 / 255.
    range: [0, Math.abs(white - 1) < 1e-6 ? 1 : white],
    ...(config.do_normalize && config.image_mean && { mean: config.image_mean }),
    ...(config.do_normalize && config.image_std && { std: config.image_std }),
  };
}

/** One line of text for people. */
export function showPreprocessing(spec: Preprocessing): string {
  const { size, shortestEdge, crop, resize, antialias, range, mean, std, layout, channels } = spec;
  const parts = [
    size
      ? `${resize} to ${size.join("x")}`
      : shortestEdge
        ? `${resize}, shorter side ${shortestEdge.edge}`
        : "not resized",
    ...((size || shortestEdge) && antialias && resize !== "nearest" ? ["antialiased"] : []),
    ...(crop ? [`cropped to ${crop.join("x")}`] : []),
    `range ${range.join(" … ")}`,
    `mean ${mean.join(" ")}`,
    `std ${std.join(" ")}`,
    channels,
    layout,
  ];
  return parts.join(", ");
}
