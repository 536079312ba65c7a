/**
 * What an update costs on more ranks, from a model whose inputs are measured: how long a picture takes on one of them, how long
 * the ranks take to come together and to add up numbers on one machine, and what a network carries.
 *
 *     T(n) = ⌈pictures / n⌉ · picture  +  2 · ⌈log₂ n⌉ · latency  +  2 · (n − 1) / n · bytes / bandwidth  +  meeting(n)
 *
 * The third term is that of any all-reduce that uses its links fully (Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce
 * algorithms for clusters of workstations"); the meeting is rank 0's: it hears from every other rank and answers it, twice an
 * update.
 *
 *     node dist/bench/scaling.js [--picture 1] [--total 1024] [--numbers 797184] [--message 1e-5] [--latency 5e-5] [--bandwidth 1.25e9]
 */
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    /** Seconds for one picture of an update on one rank. */
    picture: { type: "string", default: "1" },
    /** Pictures of an update. */
    total: { type: "string", default: "1024" },
    /** That learn. */
    numbers: { type: "string", default: "797184" },
    /** Seconds that rank 0 takes for one message. */
    message: { type: "string", default: "1e-5" },
    /** Seconds for a message from one host to another. */
    latency: { type: "string", default: "5e-5" },
    /** Bytes a second from one host to another. */
    bandwidth: { type: "string", default: "1.25e9" },
  },
});
const input = (name: keyof typeof values) => Number(values[name]);
const [picture, total, message] = [input("picture"), input("total"), input("message")];
const bytes = 8 * input("numbers");

const RANKS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

console.log(`${total} pictures an update, ${picture} s each; ${(bytes / 1e6).toFixed(2)} MB of gradients in float64`);
console.log("| ranks | pictures each | computing | adding up | an update | of it adding up | efficiency |");
console.log("| --- | --- | --- | --- | --- | --- | --- |");
for (const n of RANKS) {
  const computing = Math.ceil(total / n) * picture;
  const adding =
    n === 1
      ? 0
      : 2 * Math.ceil(Math.log2(n)) * input("latency") +
        ((2 * (n - 1)) / n) * (bytes / input("bandwidth")) +
        // Two meetings, a message from and one to each of the others.
        2 * 2 * (n - 1) * message;
  const update = computing + adding;
  const efficiency = (total * picture) / (n * update);
  console.log(
    `| ${n} | ${Math.ceil(total / n)} | ${computing.toFixed(2)} s | ${(1000 * adding).toFixed(1)} ms | ${update.toFixed(2)} s | ` +
      `${((100 * adding) / update).toFixed(2)} % | ${(100 * efficiency).toFixed(1)} % |`,
  );
}
