import { setTimeout as sleep } from "node:timers/promises";
import { Refused, Unreachable } from "./request.js";

export interface OutboxOptions {
  /** Told the first failure of a kind, and at the end what could not be sent. */
  readonly warn: (message: string) => void;
  /** Milliseconds to wait after the first failure; each further one doubles it, up to `longest`. */
  readonly first?: number;
  readonly longest?: number;
  /** Milliseconds that the end of a run waits for what is not sent yet. */
  readonly patience?: number;
}

export interface Letter {
  send(signal: AbortSignal): Promise<void>;
  /** Without this one the others make no sense, such as the one that makes the run. */
  readonly vital?: boolean;
}

/**
 * Sends in order and in the background, so that training never waits for a network. What cannot be reached is tried again,
 * ever more rarely, for as long as the run goes on; what is refused is left out.
 */
export class Outbox {
  readonly #name: string;
  readonly #letters: Letter[] = [];
  readonly #options: Required<OutboxOptions>;
  #sending: Promise<void> | undefined;
  /** Aborted when there is no more time. */
  readonly #end = new AbortController();
  /** Wakes what waits for the service to come back. */
  #wake = new AbortController();
  #warned = { away: false, refused: false };
  /** Why nothing is sent any more. */
  #stopped = false;

  constructor(name: string, { first = 1000, longest = 60_000, patience = 30_000, warn }: OutboxOptions) {
    this.#name = name;
    this.#options = { first, longest, patience, warn };
  }

  /** Whether all is sent. */
  get idle(): boolean {
    return this.#letters.length === 0;
  }

  post(...letters: readonly Letter[]): void {
    if (this.#stopped) return;
    this.#letters.push(...letters);
    this.#sending ??= this.#sendAll().finally(() => {
      this.#sending = undefined;
    });
  }

  /** Waits until all is sent, or for as long as its patience lasts. */
  async close(): Promise<void> {
    this.#wake.abort();
    const timer = setTimeout(() => this.#end.abort(), this.#options.patience);
    try {
      while (this.#sending !== undefined) await this.#sending;
    } finally {
      clearTimeout(timer);
    }
    if (this.#letters.length > 0 && !this.#stopped) {
      this.#options.warn(
        `${this.#name}: was not reached again; what is missing there is in the run's folder, and --resume sends it`,
      );
    }
    this.#stopped = true;
  }

  async #sendAll(): Promise<void> {
    let failures = 0;
    for (let letter = this.#letters[0]; letter !== undefined && !this.#stopped; letter = this.#letters[0]) {
      try {
        await letter.send(this.#end.signal);
        failures = 0;
      } catch (error) {
        if (error instanceof Unreachable) {
          if (this.#end.signal.aborted) return;
          this.#warnOnce("away", `${error.message}; training goes on, and what is missing is sent when it is back`);
          await this.#wait(failures++);
          if (this.#end.signal.aborted) return;
          continue;
        }
        this.#refused(error as Error, letter);
      }
      this.#letters.shift();
    }
  }

  #refused(error: Error, { vital = false }: Letter): void {
    this.#stopped = vital || (error instanceof Refused && [401, 403].includes(error.status));
    this.#warnOnce(
      "refused",
      this.#stopped ? `${error.message}; training goes on without it` : `${error.message}; that is left out there`,
    );
  }

  #warnOnce(kind: "away" | "refused", message: string): void {
    if (!this.#warned[kind]) this.#options.warn(message);
    this.#warned[kind] = true;
  }

  async #wait(failures: number): Promise<void> {
    const { first, longest } = this.#options;
    const signal = AbortSignal.any([this.#wake.signal, this.#end.signal]);
    await sleep(Math.min(longest, first * 2 ** Math.min(failures, 16)), undefined, { signal }).catch(() => {});
    // Only the wait at the time of closing is cut short.
    if (this.#wake.signal.aborted) this.#wake = new AbortController();
  }
}
