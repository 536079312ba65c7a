/** Why operators that cannot be imported are refused, and what to do. */
import type { NodeProto } from "onnx-buf";
import { nearest } from "../../../errors/index.js";
import { qualified } from "../describe.js";

const LOOP = "loops are not supported. Export the model for a fixed size, so that the exporter unrolls them";
const COUNTED = "how many results it has depends on the image. Choose a tensor before it with reward.output";
const BOXES = "the choice of boxes has no gradient. Choose the boxes or the scores before it with reward.output";
const SEQUENCE = "lists of tensors are not supported. Export the model so that it returns tensors";
const OPTIONAL = "optional values are not supported. Export the model without them";
const STRINGS = "strings are not supported";
const RANDOM = "a reward must not be random. Export the model after model.eval()";
const TREES = "trees are constant between their thresholds, so they have no gradient. Fit a linear model instead";
const BLOCKS =
  "weights in its own format are not supported. Quantize with the QDQ format instead, or use the model in float32";
const OPTIMIZER = "it is a step of an optimizer. Export the model for inference";

/** Operators that are not supported on purpose, by name. The names of other domains are without the domain. */
export const REFUSED: Readonly<Record<string, string>> = {
  Loop: LOOP,
  Scan: LOOP,
  SequenceAt: SEQUENCE,
  SequenceConstruct: SEQUENCE,
  SequenceEmpty: SEQUENCE,
  SequenceErase: SEQUENCE,
  SequenceInsert: SEQUENCE,
  SequenceLength: SEQUENCE,
  SequenceMap: SEQUENCE,
  SplitToSequence: SEQUENCE,
  ConcatFromSequence: SEQUENCE,
  Optional: OPTIONAL,
  OptionalGetElement: OPTIONAL,
  OptionalHasElement: OPTIONAL,
  NonMaxSuppression: BOXES,
  EfficientNMS_TRT: BOXES,
  BatchedNMS_TRT: BOXES,
  Unique: COUNTED,
  ImageDecoder: "it reads the bytes of an image file. Export the model so that its input is the decoded image",
  StringNormalizer: STRINGS,
  StringConcat: STRINGS,
  StringSplit: STRINGS,
  RegexFullMatch: STRINGS,
  LabelEncoder: "labels have no gradient, and strings are not supported",
  TfIdfVectorizer: "it counts words of a text, not of an image",
  MelWeightMatrix: "it is for sound, not for images",
  Bernoulli: RANDOM,
  Multinomial: RANDOM,
  RandomNormal: RANDOM,
  RandomNormalLike: RANDOM,
  RandomUniform: RANDOM,
  RandomUniformLike: RANDOM,
  TreeEnsemble: TREES,
  TreeEnsembleClassifier: TREES,
  TreeEnsembleRegressor: TREES,
  SVMClassifier: "its votes have no gradient. Fit a linear model, or an SVR, instead",
  ZipMap: "it makes dictionaries. Export with the option zipmap: False",
  MatMulBnb4: BLOCKS,
  GatherBlockQuantized: BLOCKS,
  Adam: OPTIMIZER,
  Adagrad: OPTIMIZER,
  Momentum: OPTIMIZER,
  Gradient: OPTIMIZER,
};

/** The same by domain, for operators without a reason of their own. */
const DOMAINS: readonly (readonly [RegExp, string])[] = [
  [
    /^com\.microsoft\.nchwc$/,
    "ONNX Runtime optimized the file for one machine. Use the file from before, or optimize it with the level extended or lower (ORT_ENABLE_EXTENDED)",
  ],
  [
    /^com\.(microsoft|ms\.internal).*$/,
    "only ONNX Runtime has it, which puts it into files that it optimizes. Use the file from before, or optimize it with the level basic (ORT_ENABLE_BASIC)",
  ],
  [
    /^ai\.onnx\.ml$/,
    "of the operators of scikit-learn, only linear models, scalers, normalizers and SVMRegressor are supported",
  ],
  [/^ai\.onnx\.preview/, "it is an experiment. Export with another opset"],
  [
    /^(?!$|ai\.onnx$)/,
    "its domain is not one of ONNX. Export the model without operators of your own, or with the functions that define them",
  ],
];

/** The reason and the remedy for an operator that has no importer, and the nearest name of one that has, for a typing mistake. */
export function refusal(node: NodeProto, supported: readonly string[]): { message: string; suggestion?: string } {
  const name = qualified(node).slice(0, 100);
  const own = Object.hasOwn(REFUSED, node.opType) ? REFUSED[node.opType] : undefined;
  const reason = own ?? DOMAINS.find(([domain]) => domain.test(node.domain))?.[1];
  const near = reason ? undefined : closest(name, supported);
  const why = reason ? `: ${reason}` : near ? `; the nearest supported one is ${near}` : "";
  const otherwise = reason ? "" : ". Export with another opset or exporter, or choose an output before it";
  return { message: `the operator ${name} is not supported${why}${otherwise}`, suggestion: near };
}

/** A supported name that differs by a letter or two. Short names are all near one another, so they have none. */
const closest = (name: string, supported: readonly string[]) =>
  name.length > 5 ? nearest(name, supported) : undefined;
