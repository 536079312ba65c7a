import { activations } from "./activations.js";
import { attentions } from "./attention.js";
import { bits } from "./bits.js";
import { constants } from "./constants.js";
import { convolutions } from "./convolution.js";
import { einsums } from "./einsum.js";
import { elementwise } from "./elementwise.js";
import { fourier } from "./fourier.js";
import { indexing } from "./indexing.js";
import { losses } from "./losses.js";
import { matrixProducts } from "./matmul.js";
import { microsoft } from "./microsoft.js";
import { machineLearning } from "./ml.js";
import { movement } from "./movement.js";
import { norms } from "./norm.js";
import type { Operators } from "./operator.js";
import { packedWeights } from "./packed-weights.js";
import { pooling } from "./pooling.js";
import { quantization } from "./quantization.js";
import { recurrences } from "./recurrent.js";
import { reductions } from "./reduce.js";
import { regions } from "./regions.js";
import { resizing } from "./resizing.js";
import { sampling } from "./sampling.js";
import { scattering } from "./scatter.js";

/** Every operator that can be imported, except for If and the functions of a file, which `OnnxImport` expands. */
export const OPERATORS: Operators = {
  ...elementwise,
  ...activations,
  ...movement,
  ...indexing,
  ...constants,
  ...convolutions,
  ...pooling,
  ...resizing,
  ...matrixProducts,
  ...attentions,
  ...einsums,
  ...sampling,
  ...regions,
  ...fourier,
  ...scattering,
  ...recurrences,
  ...losses,
  ...bits,
  ...quantization,
  ...packedWeights,
  ...microsoft,
  ...machineLearning,
  ...norms,
  ...reductions,
};
