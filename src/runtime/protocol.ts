import type { HostData } from "../tensor/host.js";

/** Messages between the main thread and the runtime's worker. */

export interface WireTensor {
  readonly type: string;
  readonly data: HostData;
  readonly dims: readonly number[];
}

export type Request =
  | {
      readonly kind: "create";
      readonly model: Uint8Array;
      readonly options: Record<string, unknown>;
      /** The program maps its weights. It is unloaded when another large one is needed, and loaded again when it is. */
      readonly mapped: boolean;
      /** What others have left in memory is returned to the system before the program runs. */
      readonly large: boolean;
    }
  | RunRequest
  /** Replies with a `SavingResult`. */
  | (Omit<RunRequest, "kind"> & { readonly kind: "runSaving"; readonly keep: readonly string[] })
  | { readonly kind: "release"; readonly session: number }
  | { readonly kind: "releaseSaved"; readonly kept: number }
  /** Ends the thread. Has no reply. */
  | { readonly kind: "close" };

/** Replies with the outputs by name. */
interface RunRequest {
  readonly kind: "run";
  readonly session: number;
  readonly feeds: Readonly<Record<string, WireTensor>>;
  /** Id of outputs of an earlier run that stayed in the worker. They are fed under their own names as well. */
  readonly kept?: number | undefined;
}

export interface SavingResult {
  readonly outputs: Readonly<Record<string, WireTensor>>;
  /** Id of the outputs that stayed in the worker. */
  readonly kept: number;
}

export type Reply =
  | { readonly id: number; readonly result: unknown; readonly error?: undefined }
  | { readonly id: number; readonly error: string };
