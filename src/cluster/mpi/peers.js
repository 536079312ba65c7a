// @ts-check
/**
 * Control messages between ranks. Every rank sends a heartbeat to rank 0 each second, and rank 0 sends one to every
 * rank. A rank that died, hangs or lost its network falls silent. One that computes for a long time does not, because
 * this code runs in a thread of its own.
 *
 * No rank starts a collective operation of MPI before rank 0 knows that all ranks are ready for the same one (`meet`).
 * So waiting takes almost no processor time, it can be abandoned at any moment without leaving an operation half done,
 * and rank 0 knows which ranks are late.
 *
 * A message is a few bytes of JSON. All messages go to or from rank 0.
 */

import { bytesOf, inShort, MESSAGE_BYTES } from "./message.js";

/** @typedef {import("../protocol.js").Ending} Ending */
/** @typedef {import("../protocol.js").Meeting} Meeting */
/** @typedef {import("./message.js").Message} Message */
/** @typedef {import("./mpi.js").Mpi} Mpi */
/** @typedef {import("./mpi.js").Request} MpiRequest */

/** The other ranks may take this many times as long as the fastest one, plus the limit. */
const TIMES_SLOWER = 4;
/** Seconds that the live ranks have to leave when a run ends early. The limit applies if it is lower. */
export const GOODBYE = 3;

export class Peers {
  /** @type {Ending | undefined} */
  ending;
  #mpi;
  #rank;
  #size;
  #limit;
  #onEnd;
  /** The ranks that this one exchanges messages with. @type {number[]} */
  #peers;
  #room = Buffer.alloc(MESSAGE_BYTES);
  /** Messages that MPI has not delivered yet. @type {{ to: number, beat: boolean, request: MpiRequest }[]} */
  #sending = [];
  /** When the last message of each peer arrived, in seconds. @type {Map<number, number>} */
  #heard;
  #lastBeat = Number.NEGATIVE_INFINITY;
  #lastTick;
  #turn = 0;
  /** When the last operation started. */
  #began;
  /**
   * Set while this rank waits for the others.
   * @type {{ since: number, enter: () => void, refuse: (error: Error) => void } | undefined}
   */
  #waiting;
  /** On rank 0: the ranks that are ready for this turn, and the deadline for the others. */
  #ready = { ranks: new Set(), operation: "", since: 0, until: Number.POSITIVE_INFINITY };
  /** @type {Set<number>} */
  #leaving = new Set();
  #mayLeave = false;

  /**
   * @param {Mpi} mpi
   * @param {object} options
   * @param {number} options.rank
   * @param {number} options.size
   * @param {number} options.limit seconds of silence after which a rank is lost
   * @param {(ending: Ending) => void} options.onEnd called once, if the run ends early
   */
  constructor(mpi, { rank, size, limit, onEnd }) {
    this.#mpi = mpi;
    this.#rank = rank;
    this.#size = size;
    this.#limit = limit;
    this.#onEnd = onEnd;
    this.#peers = rank === 0 ? Array.from({ length: size - 1 }, (_, i) => i + 1) : [0];
    this.#lastTick = now();
    this.#began = now();
    this.#heard = new Map(this.#peers.map((peer) => [peer, now()]));
  }

  /**
   * Resolves when all ranks have called this. Rejects if the run ends first.
   *
   * The other ranks have `TIMES_SLOWER` times as long as the first one took since the last meeting, plus the limit.
   * With `patient`, there is no deadline.
   * @param {Meeting} meeting
   * @returns {Promise<void>}
   */
  meet({ operation, patient }) {
    if (this.ending) return Promise.reject(new Error("the run has ended"));
    const since = now();
    const patience = patient ? null : this.#limit + TIMES_SLOWER * (since - this.#began);
    const turn = ++this.#turn;
    return new Promise((enter, refuse) => {
      this.#waiting = { since, enter, refuse };
      if (this.#rank === 0) this.#noteReady(0, { turn, operation, patience });
      else this.#send(0, { kind: "ready", turn, operation, patience });
    });
  }

  /**
   * Ends the run on all ranks. Later calls do nothing. Rank 0 decides which reason came first, and whether the run
   * ended before or after all ranks were ready: once an operation has started, every rank must take part.
   * @param {Ending} ending
   */
  end(ending) {
    if (this.ending) return;
    if (this.#rank === 0 || ending.kind === "silent") this.#decided(ending);
    else this.#send(0, { kind: "end", ending: inShort(ending) });
  }

  /**
   * Waits for the other ranks after an early end. Returns true if all are here, so that MPI can be finalized; false if
   * some are missing, so that the launcher has to end them. The other ranks wait longer for rank 0, which may have to
   * save a checkpoint.
   */
  async leave() {
    const since = now();
    if (this.#rank !== 0) this.#send(0, { kind: "leaving" });
    const patience = this.#rank === 0 || this.#lost.includes(0) ? Math.min(GOODBYE, this.#limit) : this.#limit;
    while (now() - since < patience) {
      this.tick();
      if (this.#mayLeave) return true;
      if (this.#rank === 0 && this.#leaving.size === this.#size - 1) {
        for (const peer of this.#peers) this.#send(peer, { kind: "leave" });
        await this.flush();
        return true;
      }
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    return false;
  }

  /** Waits until all messages are sent, for a second at most. */
  async flush() {
    for (const since = now(); this.#sending.length > 0 && now() - since < 1; ) {
      this.#forgetSent();
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** Receives messages that came too late to matter. Some libraries complain about them when they are finalized. */
  drain() {
    while (this.#mpi.receive(this.#room) !== undefined);
  }

  /** Receives messages, sends a heartbeat if one is due, and checks that the other ranks are alive. */
  tick() {
    const time = now();
    // If this process was suspended, the silence of the others is its own fault.
    const away = time - this.#lastTick;
    if (away > Math.max(0.5, this.#limit / 4)) {
      for (const [peer, heard] of this.#heard) this.#heard.set(peer, heard + away);
      this.#ready.until += away;
    }
    this.#lastTick = time;
    this.#receiveAll();
    this.#forgetSent();
    if (time - this.#lastBeat > Math.min(1, this.#limit / 6)) {
      this.#lastBeat = time;
      // One heartbeat at a time: they would pile up for a rank that receives nothing.
      const unsent = new Set(this.#sending.filter(({ beat }) => beat).map(({ to }) => to));
      for (const peer of this.#peers) if (!unsent.has(peer)) this.#send(peer, { kind: "alive" });
    }
    if (this.ending) return;
    const silent = this.#peers.filter((peer) => time - /** @type {number} */ (this.#heard.get(peer)) > this.#limit);
    if (silent.length > 0) this.end({ kind: "silent", ranks: silent, seconds: this.#limit });
    else if (this.#rank === 0 && time > this.#ready.until) {
      const { ranks, since, operation } = this.#ready;
      const late = [0, ...this.#peers].filter((rank) => !ranks.has(rank));
      this.end({ kind: "late", ranks: late, seconds: time - since, operation });
    }
  }

  /** Milliseconds until the next `tick` is due; 0 means at once. */
  get pause() {
    // Some libraries make progress with a send only while they are called.
    if (!this.#waiting) return this.#sending.length > 0 ? 1 : 20;
    // The longer this rank has waited, the less a short delay matters.
    const waited = 1000 * (now() - this.#waiting.since);
    return waited < 2 ? 0 : Math.min(5, Math.max(1, waited / 50));
  }

  /** @param {Ending} ending */
  #decided(ending) {
    if (this.ending) return;
    this.ending = ending;
    if (this.#rank === 0) for (const peer of this.#peers) this.#send(peer, { kind: "end", ending: inShort(ending) });
    this.#waiting?.refuse(new Error("the run has ended"));
    this.#waiting = undefined;
    this.#onEnd(ending);
  }

  get #lost() {
    return this.ending?.kind === "silent" ? this.ending.ranks : [];
  }

  #receiveAll() {
    for (let from = this.#mpi.receive(this.#room); from !== undefined; from = this.#mpi.receive(this.#room)) {
      this.#heard.set(from, now());
      const text = this.#room.toString("utf8", 0, this.#room.indexOf(0));
      this.#take(from, /** @type {Message} */ (JSON.parse(text)));
    }
  }

  /** @param {number} from @param {Message} message */
  #take(from, message) {
    switch (message.kind) {
      case "alive":
        return;
      case "ready":
        return this.#noteReady(from, message);
      case "go":
        return this.#enter();
      case "end":
        return this.#decided(message.ending);
      case "leaving":
        this.#leaving.add(from);
        return;
      case "leave":
        this.#mayLeave = true;
        return;
    }
  }

  /** @param {number} from @param {{ turn: number, operation: string, patience: number | null }} ready */
  #noteReady(from, { turn, operation, patience }) {
    if (this.ending) return;
    const ready = this.#ready;
    if (ready.ranks.size === 0) Object.assign(ready, { operation, since: now(), until: 0 });
    if (ready.operation !== operation) {
      return this.end({ kind: "apart", rank: from, operation, others: ready.operation });
    }
    ready.ranks.add(from);
    ready.until = Math.max(ready.until, ready.since + (patience ?? Number.POSITIVE_INFINITY));
    if (ready.ranks.size < this.#size) return;
    this.#ready = { ranks: new Set(), operation: "", since: 0, until: Number.POSITIVE_INFINITY };
    for (const peer of this.#peers) this.#send(peer, { kind: "go", turn });
    this.#enter();
  }

  #enter() {
    this.#began = now();
    this.#waiting?.enter();
    this.#waiting = undefined;
  }

  /** @param {number} to @param {Message} message */
  #send(to, message) {
    const bytes = bytesOf(message);
    this.#sending.push({ to, beat: message.kind === "alive", request: this.#mpi.send(to, bytes) });
  }

  #forgetSent() {
    this.#sending = this.#sending.filter(({ request }) => !this.#mpi.isDone(request));
  }
}

/** Seconds on a monotonic clock. */
export function now() {
  return performance.now() / 1000;
}
