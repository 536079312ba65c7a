import type { HostData } from "../tensor/host.js";

/** What the main thread and the runtime's worker say to each other. */

export interface WireTensor {
  readonly type: string;
  readonly data: HostData;
  readonly dims: readonly number[];
}

export type Request =
  | { readonly kind: "create"; readonly model: Uint8Array; readonly options: Record<string, unknown> }
  | { readonly kind: "run"; readonly session: number; readonly feeds: Readonly<Record<string, WireTensor>> }
  | { readonly kind: "release"; readonly session: number };

export type Reply =
  | { readonly id: number; readonly result: unknown; readonly error?: undefined }
  | { readonly id: number; readonly error: string };
