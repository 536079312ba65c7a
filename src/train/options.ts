import type { Cluster } from "../cluster/index.js";
import type { OpenListener } from "../pipeline/index.js";
import type { PartsInCode } from "./in-code.js";

/** `settings.loss` also applies to a reward made in code. (`trainRun` replaces the default loss of another reward.) */
export interface TrainOptions extends PartsInCode {
  /** The folder of a checkpoint to resume from. */
  readonly resume?: string | undefined;
  /** When aborted, the current step is finished and saved. With several ranks, the last whole step is saved at once. */
  readonly signal?: AbortSignal | undefined;
  /** Called with the progress of downloads. */
  readonly onFetch?: OpenListener["onFetch"];
  /** The ranks of the run (`connect`). Every rank calls `train`; only rank 0 calls its observer. */
  readonly cluster?: Cluster | undefined;
}
