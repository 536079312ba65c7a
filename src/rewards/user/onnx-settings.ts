/** Settings of the reward `onnx`. */
import { z } from "zod";
import { commonSettings } from "../kind.js";
import { preprocessingSchema } from "./onnx-preprocessing.js";

const string = z.string().min(1).max(4096);
const share = z.number().min(0).max(1);
const MAX_CLASSES = 1_000_000;

export const onnxSchema = z.strictObject({
  name: z.literal("onnx"),
  ...commonSettings,
  /** The ONNX model: a path, or a file on the hub (`org/name/model.onnx`). */
  file: string,
  /** The output, or any other tensor of the file, that the reward is computed from; required if the model has several. */
  output: string.nullable().default(null),
  /** The input that takes the image; required if several inputs have the shape of an image. */
  input: string.nullable().default(null),
  /** Which number of the output: an index from 0, or a label from `labels`. */
  class: z
    .union([z.int().min(0).max(MAX_CLASSES), string])
    .nullable()
    .default(null),
  /** The axis of the output that the classes are on, such as 1 or -1. `null`: the one that is known to be. */
  class_axis: z.int().min(-8).max(8).nullable().default(null),
  /** How the numbers of an image become one. `null`: the largest, if a class has several; otherwise there must be one. */
  reduce: z
    .union([z.enum(["mean", "sum", "max", "min"]), z.strictObject({ quantile: z.number().min(0).max(1) })])
    .nullable()
    .default(null),
  /** The part of a map that counts, as shares of its height and width: [top, left, bottom, right]. */
  region: z.tuple([share, share, share, share]).nullable().default(null),
  /** Score of the class: its logit, a probability over all classes (softmax), or a probability of its own (sigmoid). */
  score: z.enum(["logit", "softmax", "log-softmax", "sigmoid"]).default("logit"),
  /** A text file with one label per line, or a config.json with id2label. `null`: the config.json beside the model. */
  labels: string.nullable().default(null),
  /** Cosine similarity of the output to that for an image, or to a vector in a .json or .safetensors file. */
  similarity: z
    .union([z.strictObject({ picture: string }), z.strictObject({ embedding: string })])
    .nullable()
    .default(null),
  /** Values of further inputs: one number for all elements, or the elements for one image. */
  inputs: z.record(z.string(), z.union([z.number(), z.array(z.number()).max(1_000_000)])).default({}),
  /** A preprocessor_config.json of transformers. `null`: the one beside the model, if there is one. */
  preprocessor: string.nullable().default(null),
  preprocessing: preprocessingSchema.prefault({}),
});

export type OnnxSettings = z.output<typeof onnxSchema>;

/** `reward` in a recipe and `--reward` accept such a file name in place of settings. */
export const ONNX_FILE = /\.onnx$/i;

export interface OnnxContext {
  /** The local path of a location in the settings. */
  find(location: string): Promise<string> | string;
  /** Prefix of the names of the reward's tensors; by default `reward`. */
  readonly root?: string;
}
