/**
 * The classes and functions that a PyTorch pickle may name, and what each becomes: a tensor, a storage, plain data or a
 * placeholder.
 */
import type { DType } from "../tensor/dtype.js";
import type { Shape } from "../tensor/shape.js";
import { PickledName, type PickleValue, Tuple, typeName } from "./pickle-values.js";
import { MAX_RANK } from "./source.js";
import type { Maker, PickleContext } from "./unpickler.js";

/** A flat array of elements, stored in the file under `key`. */
export class PickledStorage {
  constructor(
    readonly type: StorageType,
    readonly key: string,
    readonly elements: number,
  ) {}
}

/** The elements of a storage that a tensor consists of. Offset and strides count elements, not bytes. */
export interface StorageView {
  readonly offset: number;
  readonly shape: Shape;
  readonly strides: readonly number[];
}

export class PickledTensor {
  constructor(
    readonly storage: PickledStorage,
    readonly view: StorageView,
    /** PyTorch's name of the element type, if it has no storage class of its own. */
    readonly elementType?: string,
  ) {}
}

export interface StorageType {
  /** The name in PyTorch, such as `FloatStorage`. */
  readonly name: string;
  readonly bytesPerElement: number;
  /** Undefined if such tensors can be skipped but not used. */
  readonly dtype: DType | undefined;
}

const STORAGE_TYPES = (
  [
    ["DoubleStorage", 8, "float64"],
    ["FloatStorage", 4, "float32"],
    ["HalfStorage", 2, "float16"],
    ["BFloat16Storage", 2, "bfloat16"],
    ["LongStorage", 8, "int64"],
    ["IntStorage", 4, "int32"],
    ["CharStorage", 1, "int8"],
    ["ByteStorage", 1, "uint8"],
    ["BoolStorage", 1, "bool"],
    ["ShortStorage", 2],
    ["ComplexFloatStorage", 8],
    ["ComplexDoubleStorage", 16],
    ["UntypedStorage", 1],
  ] as const
).map(([name, bytesPerElement, dtype]): StorageType => ({ name, bytesPerElement, dtype }));

/** The name of a class depends on the version of PyTorch and on the device that the tensor was on. */
const STORAGE_CLASSES: ReadonlyMap<string, StorageType> = new Map(
  STORAGE_TYPES.flatMap((type) =>
    ["torch", "torch.cuda", "torch.storage"].map((module): [string, StorageType] => [`${module}.${type.name}`, type]),
  ),
);

/**
 * Resolves the id of a storage: ("storage", class, key, device, elements). In the older layout a sixth item selects a
 * part of the storage; since PyTorch 0.4 it is always None, for the whole storage.
 */
export function storageOf(id: PickleValue, context: PickleContext): PickledStorage {
  const [kind, className, key, , elements, part = null] = itemsOf(id) ?? [];
  const type = className instanceof PickledName ? STORAGE_CLASSES.get(className.name) : undefined;
  if (kind !== "storage" || !type || typeof key !== "string" || !isCount(elements) || part !== null) {
    context.fail("it refers to an object outside the pickle that is not a storage", { expected: "storage" });
  }
  return new PickledStorage(type, key, elements);
}

type Args = readonly PickleValue[];

/** _rebuild_tensor_v2(storage, offset, size, stride, …). The other arguments are for training. */
function makeTensor(args: Args, context: PickleContext): PickledTensor {
  return tensorOf(args, undefined, context);
}

/**
 * _rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype, …), for types without a storage class.
 */
function makeTypedTensor(args: Args, context: PickleContext): PickledTensor {
  const dtype = args[6];
  if (!(dtype instanceof PickledName)) {
    context.fail("a tensor has no element type", { key: "dtype", expected: "torch.dtype", found: typeName(dtype) });
  }
  return tensorOf(args, dtype.name, context);
}

function tensorOf([storage, offset, size, stride]: Args, elementType: string | undefined, context: PickleContext) {
  if (!(storage instanceof PickledStorage)) failType(context, "a tensor's storage", "storage", storage);
  if (!isCount(offset)) context.fail("a tensor's offset is not a whole number", { key: "offset" });
  const shape = counts(size) ?? failCounts(context, "shape");
  const strides = counts(stride) ?? failCounts(context, "strides");
  if (shape.length !== strides.length) {
    context.fail(`a tensor has ${shape.length} extents but ${strides.length} strides`, {
      key: "strides",
      expected: shape.length,
      found: strides.length,
    });
  }
  return new PickledTensor(storage, { offset, shape, strides }, elementType);
}

function failCounts(context: PickleContext, key: "shape" | "strides"): never {
  return context.fail(`the ${key} of a tensor must be a tuple of at most ${MAX_RANK} whole numbers`, {
    key,
    expected: MAX_RANK,
  });
}

function failType(context: PickleContext, subject: string, expected: string, value: PickleValue | undefined): never {
  const found = typeName(value);
  return context.fail(`${subject} has the type ${found}, not ${expected}`, { expected, found });
}

/** _rebuild_parameter(tensor, requires_grad, …) */
function makeParameter([tensor]: Args, context: PickleContext): PickledTensor {
  return tensor instanceof PickledTensor ? tensor : failType(context, "the value of a parameter", "tensor", tensor);
}

/** OrderedDict(), or OrderedDict([(key, value), …]) as Python 2 writes it, where a pair may be a list. */
function makeDict([items = []]: Args, context: PickleContext): Map<PickleValue, PickleValue> {
  if (!Array.isArray(items)) failType(context, "the argument of OrderedDict", "list", items);
  context.charge(items.length);
  const dict = new Map<PickleValue, PickleValue>();
  for (const pair of items as PickleValue[]) {
    const [key, value, ...more] = Array.isArray(pair) ? (pair as PickleValue[]) : (itemsOf(pair) ?? []);
    if (key === undefined || value === undefined || more.length > 0) {
      context.fail("an item of an OrderedDict is not a pair", { expected: "pair", found: typeName(pair) });
    }
    dict.set(key, value);
  }
  return dict;
}

function makeSet([items = []]: Args, context: PickleContext): Set<PickleValue> {
  if (!Array.isArray(items)) failType(context, "the argument of set", "list", items);
  context.charge(items.length);
  return new Set(items as PickleValue[]);
}

/** Protocol 2 writes bytes as encode(text, "latin1"). */
function makeBytes([text, encoding]: Args, context: PickleContext): Uint8Array {
  if (typeof text !== "string") failType(context, "the argument of _codecs.encode", "str", text);
  if (encoding !== "latin1") {
    context.fail("it encodes bytes in another encoding than latin1", {
      expected: "latin1",
      found: typeof encoding === "string" ? encoding : typeName(encoding),
    });
  }
  context.charge(text.length);
  return Buffer.from(text, "latin1");
}

const inert = (name: string): [string, "inert"] => [name, "inert"];

/**
 * Every name that a pickle may use. The inert names occur in training checkpoints beside the weights: settings, states
 * of callbacks and optimizers, single numbers. Their objects become placeholders, and the content is dropped.
 */
export const TORCH_NAMES: ReadonlyMap<string, "inert" | Maker> = new Map<string, "inert" | Maker>([
  ["torch._utils._rebuild_tensor", makeTensor],
  ["torch._utils._rebuild_tensor_v2", makeTensor],
  ["torch._utils._rebuild_tensor_v3", makeTypedTensor],
  ["torch._utils._rebuild_parameter", makeParameter],
  ["torch._utils._rebuild_parameter_with_state", makeParameter],
  ["collections.OrderedDict", makeDict],
  ["builtins.set", makeSet],
  ["builtins.frozenset", makeSet],
  ["_codecs.encode", makeBytes],
  ...[...STORAGE_CLASSES.keys()].map(inert),
  ...["bfloat16", "float16", "float32", "float64", "complex64", "complex128", "bool"]
    .concat("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    .concat("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    .concat("Size", "device")
    .map((name) => inert(`torch.${name}`)),
  ...["bytes", "list", "dict", "int", "long", "float", "str", "unicode", "bool"].map((name) =>
    inert(`builtins.${name}`),
  ),
  inert("collections.Counter"),
  inert("collections.defaultdict"),
  inert("argparse.Namespace"),
  inert("typing.Any"),
  inert("numpy.dtype"),
  inert("numpy.ndarray"),
  ...["numpy.core", "numpy._core"].flatMap((core) => [
    inert(`${core}.multiarray.scalar`),
    inert(`${core}.multiarray._reconstruct`),
  ]),
  ...["dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata", "base.Metadata", "nodes.AnyNode"].map(
    (name) => inert(`omegaconf.${name}`),
  ),
  ...["pytorch_lightning", "lightning.pytorch"].flatMap((lightning) =>
    [
      "callbacks.model_checkpoint.ModelCheckpoint",
      "callbacks.early_stopping.EarlyStopping",
      "callbacks.lr_monitor.LearningRateMonitor",
      "utilities.parsing.AttributeDict",
    ].map((name) => inert(`${lightning}.${name}`)),
  ),
]);

function itemsOf(value: PickleValue | undefined): readonly PickleValue[] | undefined {
  return value instanceof Tuple ? value.items : undefined;
}

function isCount(value: PickleValue | undefined): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

function counts(value: PickleValue | undefined): readonly number[] | undefined {
  const items = itemsOf(value);
  return items && items.length <= MAX_RANK && items.every(isCount) ? items : undefined;
}
