/**
 * Estimates the time of a training step on n ranks. The inputs are measured: the time of a sample on one rank, the time of a
 * message, and the latency and bandwidth of the network.
 *
 *     T(n) = ⌈samples / n⌉ · sample  +  2 · ⌈log₂ n⌉ · latency  +  2 · (n − 1) / n · bytes / bandwidth  +  rendezvous(n)
 *
 * The third term holds for any all-reduce that uses its links fully (Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce
 * algorithms for clusters of workstations"). In the rendezvous, rank 0 receives a message from every other rank and answers it;
 * there are two per step.
 *
 *     node dist/bench/scaling.js [--sample 1] [--total 1024] [--numbers 797184] [--message 1e-5] [--latency 5e-5] [--bandwidth 1.25e9]
 */
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    /** Seconds for one sample of a training step on one rank. */
    sample: { type: "string", default: "1" },
    /** Samples per training step. */
    total: { type: "string", default: "1024" },
    /** Trainable parameters. */
    numbers: { type: "string", default: "797184" },
    /** Seconds that rank 0 needs for one message. */
    message: { type: "string", default: "1e-5" },
    /** Seconds for a message from one host to another. */
    latency: { type: "string", default: "5e-5" },
    /** Bytes per second from one host to another. */
    bandwidth: { type: "string", default: "1.25e9" },
  },
});
const input = (name: keyof typeof values) => Number(values[name]);
const [sample, total, message] = [input("sample"), input("total"), input("message")];
const bytes = 8 * input("numbers");

const RANKS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

console.log(
  `${total} samples per training step, ${sample} s each; ${(bytes / 1e6).toFixed(2)} MB of gradients in float64`,
);
console.log("| ranks | samples each | computing | all-reduce | a step | share of all-reduce | efficiency |");
console.log("| --- | --- | --- | --- | --- | --- | --- |");
for (const n of RANKS) {
  const compute = Math.ceil(total / n) * sample;
  const allReduce =
    n === 1
      ? 0
      : 2 * Math.ceil(Math.log2(n)) * input("latency") +
        ((2 * (n - 1)) / n) * (bytes / input("bandwidth")) +
        // Two rendezvous, each with a message from and one to every other rank.
        2 * 2 * (n - 1) * message;
  const step = compute + allReduce;
  const efficiency = (total * sample) / (n * step);
  console.log(
    `| ${n} | ${Math.ceil(total / n)} | ${compute.toFixed(2)} s | ${(1000 * allReduce).toFixed(1)} ms | ${step.toFixed(2)} s | ` +
      `${((100 * allReduce) / step).toFixed(2)} % | ${(100 * efficiency).toFixed(1)} % |`,
  );
}
