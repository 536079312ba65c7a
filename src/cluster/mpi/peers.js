// @ts-check
/**
 * What ranks say to each other besides numbers. Every rank tells rank 0 each second that it lives, and rank 0 tells them. So a
 * rank that died, hangs or is cut off is known by its silence, while one that merely computes for long is not: this runs in a
 * thread of its own.
 *
 * No rank begins a collective operation of MPI before rank 0 knows that all are ready for the same one (`meet`). Waiting thus
 * costs next to no processor time, can be given up at any moment without leaving a half-done operation behind, and whoever
 * is late is known by name.
 *
 * Messages are JSON in a few bytes, and all go to or from rank 0.
 */

/** @typedef {import("../protocol.js").Ending} Ending */
/** @typedef {import("../protocol.js").Door} Door */
/** @typedef {import("./mpi.js").Mpi} Mpi */
/** @typedef {import("./mpi.js").Request} MpiRequest */
/**
 * @typedef {{ kind: "alive" }
 *   | { kind: "ready", turn: number, what: string, patience: number | null }
 *   | { kind: "go", turn: number }
 *   | { kind: "end", ending: Ending }
 *   | { kind: "leaving" }
 *   | { kind: "leave" }} Message
 */

const MESSAGE_BYTES = 4096;
/** Of an error's text, so that the message fits even where every character takes six bytes. */
const MOST_TEXT = 600;
/** How much longer than the fastest rank worked the others may work, on top of the limit. */
const TIMES_SLOWER = 4;
/** Seconds that those who live have to say goodbye, when a run ends early; no more than the limit. */
export const GOODBYE = 3;

export class Peers {
  /** @type {Ending | undefined} */
  ending;
  #mpi;
  #rank;
  #size;
  #limit;
  #onEnd;
  /** The ranks that this one talks to. @type {number[]} */
  #peers;
  #room = Buffer.alloc(MESSAGE_BYTES);
  /** Messages on their way. @type {{ to: number, beat: boolean, request: MpiRequest }[]} */
  #sending = [];
  /** When a rank was last heard of, in seconds. @type {Map<number, number>} */
  #heard;
  #lastBeat = Number.NEGATIVE_INFINITY;
  #lastTick;
  #turn = 0;
  /** When the last turn began. */
  #began;
  /** This rank at the door. @type {{ since: number, enter: () => void, refuse: (error: Error) => void } | undefined} */
  #waiting;
  /** Rank 0's: who is ready for this turn, and until when the others may be. */
  #ready = { ranks: new Set(), what: "", since: 0, until: Number.POSITIVE_INFINITY };
  /** @type {Set<number>} */
  #leaving = new Set();
  #mayLeave = false;

  /**
   * @param {Mpi} mpi @param {number} rank @param {number} size
   * @param {number} limit seconds of silence after which a rank is lost
   * @param {(ending: Ending) => void} onEnd told once
   */
  constructor(mpi, rank, size, limit, onEnd) {
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
   * Resolves when all ranks have come here, and rejects when the run ends before.
   *
   * Who comes first allows the others what it took itself since the last time, several times over, and the limit. With a
   * `patient` door they have all the time they want.
   * @param {Door} door
   * @returns {Promise<void>}
   */
  meet({ what, patient }) {
    if (this.ending) return Promise.reject(new Error("the run has ended"));
    const since = now();
    const patience = patient ? null : this.#limit + TIMES_SLOWER * (since - this.#began);
    const turn = ++this.#turn;
    return new Promise((enter, refuse) => {
      this.#waiting = { since, enter, refuse };
      if (this.#rank === 0) this.#noteReady(0, { turn, what, patience });
      else this.#send(0, { kind: "ready", turn, what, patience });
    });
  }

  /**
   * Ends the run for all; later reasons than the first change nothing. Rank 0 decides what came first, also whether it was the
   * end or the last one's coming to the door: where the others have begun an operation, nobody may stay away.
   * @param {Ending} ending
   */
  end(ending) {
    if (this.ending) return;
    if (this.#rank === 0 || ending.kind === "silent") this.#decided(ending);
    else this.#send(0, { kind: "end", ending: inShort(ending) });
  }

  /**
   * After an early end. True when all ranks are here, so that MPI can be left in good order; false when some have not come and
   * the launcher has to end them. Others wait for rank 0, which has a checkpoint to write.
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

  /** Waits until what was sent has left, for a second at most. */
  async flush() {
    for (const since = now(); this.#sending.length > 0 && now() - since < 1; ) {
      this.#forgetSent();
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** Takes what came too late to matter, which some libraries complain about at their end. */
  drain() {
    while (this.#mpi.receive(this.#room) !== undefined);
  }

  /** Takes what has come, says that this rank lives, and looks whether all others do. */
  tick() {
    const time = now();
    // Whoever was stopped itself, or slept, has no business to blame others for it.
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
      // One at a time: to a rank that takes nothing they would pile up.
      const unsent = new Set(this.#sending.filter(({ beat }) => beat).map(({ to }) => to));
      for (const peer of this.#peers) if (!unsent.has(peer)) this.#send(peer, { kind: "alive" });
    }
    if (this.ending) return;
    const silent = this.#peers.filter((peer) => time - /** @type {number} */ (this.#heard.get(peer)) > this.#limit);
    if (silent.length > 0) this.end({ kind: "silent", ranks: silent, seconds: this.#limit });
    else if (this.#rank === 0 && time > this.#ready.until) {
      const { ranks, since, what } = this.#ready;
      const late = [0, ...this.#peers].filter((rank) => !ranks.has(rank));
      this.end({ kind: "late", ranks: late, seconds: time - since, what });
    }
  }

  /** Milliseconds after which the next `tick` is due; 0: at once. */
  get pause() {
    // Some libraries go on with what is sent only when they are called.
    if (!this.#waiting) return this.#sending.length > 0 ? 1 : 20;
    // The longer it took to come here, the less a little more matters.
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

  /** @param {number} from @param {{ turn: number, what: string, patience: number | null }} ready */
  #noteReady(from, { turn, what, patience }) {
    if (this.ending) return;
    const ready = this.#ready;
    if (ready.ranks.size === 0) Object.assign(ready, { what, since: now(), until: 0 });
    if (ready.what !== what) return this.end({ kind: "apart", rank: from, what, others: ready.what });
    ready.ranks.add(from);
    ready.until = Math.max(ready.until, ready.since + (patience ?? Number.POSITIVE_INFINITY));
    if (ready.ranks.size < this.#size) return;
    this.#ready = { ranks: new Set(), what: "", since: 0, until: Number.POSITIVE_INFINITY };
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
    const bytes = Buffer.from(`${JSON.stringify(message)}\0`);
    this.#sending.push({ to, beat: message.kind === "alive", request: this.#mpi.send(to, bytes) });
  }

  #forgetSent() {
    this.#sending = this.#sending.filter(({ request }) => !this.#mpi.isDone(request));
  }
}

/** @param {Ending} ending @returns {Ending} */
function inShort(ending) {
  return ending.kind === "error" ? { ...ending, message: ending.message.slice(0, MOST_TEXT) } : ending;
}

/** Seconds, of a clock that only goes forward. */
export function now() {
  return performance.now() / 1000;
}
