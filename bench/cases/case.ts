/** What a case of the bench consists of. */
import type { GeneratedModel } from "../folders.js";
import type { ProcessResult, RunOptions } from "../run.js";
import { script } from "../scripts.js";

export type Side = "alignprop" | "PyTorch";

/** One process to measure. `variant` names it among those of its side. */
export interface Job extends RunOptions {
  readonly side: Side;
  readonly variant: string;
}

export interface Measurement extends ProcessResult {
  readonly side: Side;
  readonly variant: string;
  /** Counted from 0. In a round, both sides are measured in turn. */
  readonly round: number;
}

export interface CaseContext {
  /** The folder of generated models, and of files that both sides exchange. */
  readonly folder: string;
  readonly threads: number;
  /** The interpreter with the peer's packages; without it only our side is measured. */
  readonly python: string | undefined;
}

export interface Case {
  readonly name: string;
  /** What is measured, in a sentence or two. */
  readonly about: string;
  /** Generated models that it needs. */
  readonly models?: readonly GeneratedModel[];
  /** Rounds at most: a case that takes long need not be repeated as often as `--rounds` says. */
  readonly maxRounds?: number;
  /** The processes of a round, in order. */
  jobs(context: CaseContext): readonly Job[] | Promise<readonly Job[]>;
  /** Processes to run after all rounds, which depend on what was measured. */
  following?(context: CaseContext, measured: readonly Measurement[]): Promise<readonly Job[]>;
  /** The results in Markdown. */
  show(measured: readonly Measurement[]): readonly string[];
}

/** The environment of every process of the peer: it compiles in its own process, so that the measured memory is all of it. */
export const PEER_ENV = {
  TORCHINDUCTOR_COMPILE_THREADS: "1",
  TRANSFORMERS_VERBOSITY: "error",
  HF_HUB_OFFLINE: "1",
  TOKENIZERS_PARALLELISM: "false",
};

/** The measurement of large matrix products, with which the speed of a case is compared. */
export const PRODUCTS = "large matrix products";

export const productsJob = ({ threads }: CaseContext): Job => ({
  side: "alignprop",
  variant: PRODUCTS,
  command: [process.execPath, script("matmul.js"), "--threads", String(threads)],
});
