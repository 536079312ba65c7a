import { setTimeout as sleep } from "node:timers/promises";
import { Refused, Unreachable } from "./request.js";

export interface OutboxOptions {
  /** Called at the first failure of each kind, and at the end if requests are left. */
  readonly warn: (message: string) => void;
  /** Milliseconds to wait after the first failure. Each further failure doubles the wait, up to `longest`. */
  readonly first?: number;
  readonly longest?: number;
  /** Milliseconds for which `close` keeps trying to reach the service. */
  readonly patience?: number;
}

export interface Delivery {
  /** Sends one or several requests. It runs again after a failure. */
  send(): Promise<void>;
  /** If this delivery is refused, the later ones are dropped; for example, the one that creates the run. */
  readonly vital?: boolean;
}

/**
 * Sends requests in order and in the background, so that training never waits for the network. If the service cannot be
 * reached, it tries again with growing waits until the run ends. A request that the service refuses is skipped.
 */
export class Outbox {
  readonly #name: string;
  readonly #queue: Delivery[] = [];
  readonly #options: Required<OutboxOptions>;
  #sending: Promise<void> | undefined;
  /** Aborted when the run ends. */
  readonly #closing = new AbortController();
  /** Time of the last success, or of the start of `close`, in milliseconds since 1970. */
  #lastSuccess = 0;
  readonly #warned = { unreachable: false, refused: false };
  /** True after a refusal that ends the tracking, and after `close`. */
  #stopped = false;

  constructor(name: string, { first = 1000, longest = 60_000, patience = 30_000, warn }: OutboxOptions) {
    this.#name = name;
    this.#options = { first, longest, patience, warn };
  }

  /** True if everything is sent. */
  get idle(): boolean {
    return this.#queue.length === 0;
  }

  post(delivery: Delivery): void {
    if (this.#stopped) return;
    this.#queue.push(delivery);
    this.#sending ??= this.#sendAll();
  }

  /** Waits until everything is sent, or until the service has been out of reach for `patience`. */
  async close(): Promise<void> {
    this.#lastSuccess = Date.now();
    this.#closing.abort();
    await this.#sending;
    if (this.#queue.length > 0 && !this.#stopped) {
      this.#options.warn(
        `${this.#name}: could not be reached before the run ended. The missing data is in the run's folder, and --resume sends it.`,
      );
    }
    this.#stopped = true;
  }

  async #sendAll(): Promise<void> {
    try {
      await this.#sendUntilEmpty();
    } finally {
      // Nothing may be awaited between finding the queue empty and this line, so that a later `post` starts again.
      this.#sending = undefined;
    }
  }

  async #sendUntilEmpty(): Promise<void> {
    let failures = 0;
    for (let next = this.#queue[0]; next !== undefined && !this.#stopped; next = this.#queue[0]) {
      try {
        await next.send();
        failures = 0;
        this.#lastSuccess = Date.now();
      } catch (error) {
        if (error instanceof Unreachable) {
          this.#warnOnce(
            "unreachable",
            `${error.message}. Training goes on, and the missing data is sent when the service can be reached again.`,
          );
          if (!(await this.#wait(failures++))) return;
          continue;
        }
        this.#refuse(error as Error, next);
      }
      this.#queue.shift();
    }
  }

  #refuse(error: Error, { vital = false }: Delivery): void {
    this.#stopped = vital || (error instanceof Refused && [401, 403].includes(error.status));
    const consequence = this.#stopped ? `Training goes on without ${this.#name}.` : "This data is skipped.";
    this.#warnOnce("refused", `${error.message}. ${consequence}`);
  }

  #warnOnce(kind: "unreachable" | "refused", message: string): void {
    if (!this.#warned[kind]) this.#options.warn(message);
    this.#warned[kind] = true;
  }

  /** Returns whether to try again. When the run ends, the current wait is cut short and `patience` starts to count. */
  async #wait(failures: number): Promise<boolean> {
    const { first, longest, patience } = this.#options;
    const pause = Math.min(longest, first * 2 ** Math.min(failures, 16));
    const { signal } = this.#closing;
    if (!signal.aborted) {
      await sleep(pause, undefined, { signal }).catch(() => {});
      return true;
    }
    const left = patience - (Date.now() - this.#lastSuccess);
    await sleep(Math.max(0, Math.min(pause, left)));
    return left > 0;
  }
}
