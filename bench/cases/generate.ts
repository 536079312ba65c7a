/** Generation of an image at full size. */
import path from "node:path";
import { peerScript, script } from "../scripts.js";
import { comparison, reported, showSeconds } from "../summary.js";
import { type Case, type Job, type Measurement, PEER_ENV } from "./case.js";

const MODEL = "sd15-float32";
const PEER_VARIANTS = ["contiguous", "channels_last"];

export const generateCase: Case = {
  name: "generate-512",
  about:
    "An image of 512x512 pixels at the size of Stable Diffusion 1.5, float32 files: text encoding, 4 denoising steps with guidance, decoding.",
  models: [MODEL],
  maxRounds: 2,
  jobs: ({ folder, threads, python }) => {
    const common = ["--model", path.join(folder, MODEL), "--steps", "4", "--threads", String(threads), "--repeat", "2"];
    const ours: Job = {
      side: "alignprop",
      variant: "generate",
      command: [process.execPath, script("generate-image.js"), "--size", "512", ...common],
    };
    const peers = PEER_VARIANTS.map(
      (format): Job => ({
        side: "PyTorch",
        variant: format,
        env: PEER_ENV,
        command: [python ?? "", peerScript("generate_peer.py"), "--size", "512", "--memory-format", format, ...common],
      }),
    );
    return [ours, ...(python ? peers : [])];
  },
  show: (measured) => [
    ...comparison(measured, "an image"),
    "",
    ...[...new Map(measured.map((one) => [`${one.side}, ${one.variant}`, one]))].flatMap(([name, one]) =>
      loading(name, one),
    ),
  ],
};

function loading(name: string, one: Measurement): string[] {
  const [load, first] = [reported(one, "load_seconds"), reported(one, "first_seconds")];
  if (load === undefined || first === undefined) return [];
  return [`${name}: ready after ${showSeconds(load)}; the first image took ${showSeconds(first)}.`];
}
