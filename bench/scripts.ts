/** Where the programs that the bench measures are. */
import path from "node:path";

/** A compiled program of the bench. */
export const script = (name: string) => path.join(import.meta.dirname, name);

/** A program of the peer, which runs from its source. */
export const peerScript = (name: string) => path.join("bench", name);
