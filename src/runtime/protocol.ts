import type { HostData } from "../tensor/host.js";

/** What the main thread and the runtime's worker say to each other. */

export interface WireTensor {
  readonly type: string;
  readonly data: HostData;
  readonly dims: readonly number[];
}

export type Request =
  | { readonly kind: "create"; readonly model: Uint8Array; readonly options: Record<string, unknown> }
  | RunRequest
  /** Answers with a `KeepingResult`. */
  | (Omit<RunRequest, "kind"> & { readonly kind: "runKeeping"; readonly keep: readonly string[] })
  | { readonly kind: "release"; readonly session: number }
  | { readonly kind: "releaseKept"; readonly kept: number }
  /** Ends the thread; there is no answer. */
  | { readonly kind: "close" };

/** Answers with the outputs by name. */
interface RunRequest {
  readonly kind: "run";
  readonly session: number;
  readonly feeds: Readonly<Record<string, WireTensor>>;
  /** Outputs of an earlier run that stayed in the worker: further feeds, under their own names. */
  readonly kept?: number | undefined;
}

export interface KeepingResult {
  readonly outputs: Readonly<Record<string, WireTensor>>;
  /** The number of what stayed in the worker. */
  readonly kept: number;
}

export type Reply =
  | { readonly id: number; readonly result: unknown; readonly error?: undefined }
  | { readonly id: number; readonly error: string };
