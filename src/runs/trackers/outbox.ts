import { setTimeout as sleep } from "node:timers/promises";
import { Refused, Unreachable } from "./request.js";

export interface OutboxOptions {
  /** Told the first failure of a kind, and at the end what could not be sent. */
  readonly warn: (message: string) => void;
  /** Milliseconds to wait after the first failure; each further one doubles it, up to `longest`. */
  readonly first?: number;
  readonly longest?: number;
  /** Milliseconds for which the end of a run tries to reach a service that is away. */
  readonly patience?: number;
}

export interface Letter {
  send(): Promise<void>;
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
  /** Aborted when the run is at its end. */
  readonly #closing = new AbortController();
  /** Since when the end of the run waits in vain. */
  #inVainSince = 0;
  readonly #warned = { away: false, refused: false };
  /** Nothing is sent any more. */
  #stopped = false;

  constructor(name: string, { first = 1000, longest = 60_000, patience = 30_000, warn }: OutboxOptions) {
    this.#name = name;
    this.#options = { first, longest, patience, warn };
  }

  /** Whether all is sent. */
  get idle(): boolean {
    return this.#letters.length === 0;
  }

  post(letter: Letter): void {
    if (this.#stopped) return;
    this.#letters.push(letter);
    this.#sending ??= this.#sendAll();
  }

  /** Waits until all is sent, or nothing can be. */
  async close(): Promise<void> {
    this.#inVainSince = Date.now();
    this.#closing.abort();
    await this.#sending;
    if (this.#letters.length > 0 && !this.#stopped) {
      this.#options.warn(
        `${this.#name}: was not reached again; what is missing there is in the run's folder, and --resume sends it`,
      );
    }
    this.#stopped = true;
  }

  async #sendAll(): Promise<void> {
    try {
      await this.#sendUntilEmpty();
    } finally {
      // In the same breath as it was found empty: what comes later starts anew.
      this.#sending = undefined;
    }
  }

  async #sendUntilEmpty(): Promise<void> {
    let failures = 0;
    for (let letter = this.#letters[0]; letter !== undefined && !this.#stopped; letter = this.#letters[0]) {
      try {
        await letter.send();
        failures = 0;
        this.#inVainSince = Date.now();
      } catch (error) {
        if (error instanceof Unreachable) {
          this.#warnOnce("away", `${error.message}; training goes on, and what is missing is sent when it is back`);
          if (!(await this.#wait(failures++))) return;
          continue;
        }
        this.#refused(error as Error, letter);
      }
      this.#letters.shift();
    }
  }

  #refused(error: Error, { vital = false }: Letter): void {
    this.#stopped = vital || (error instanceof Refused && [401, 403].includes(error.status));
    const what = this.#stopped ? "training goes on without it" : "that is left out there";
    this.#warnOnce("refused", `${error.message}; ${what}`);
  }

  #warnOnce(kind: "away" | "refused", message: string): void {
    if (!this.#warned[kind]) this.#options.warn(message);
    this.#warned[kind] = true;
  }

  /** Whether to try again after it. The end of the run cuts it short once, and then has less time for it. */
  async #wait(failures: number): Promise<boolean> {
    const { first, longest, patience } = this.#options;
    const pause = Math.min(longest, first * 2 ** Math.min(failures, 16));
    const { signal } = this.#closing;
    if (!signal.aborted) {
      await sleep(pause, undefined, { signal }).catch(() => {});
      return true;
    }
    const left = patience - (Date.now() - this.#inVainSince);
    await sleep(Math.max(0, Math.min(pause, left)));
    return left > 0;
  }
}
