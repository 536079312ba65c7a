/** Trains on a reward of your own: `own-reward [recipe] [folder]`. Ctrl+C finishes the step and saves. */
import { checkReward, defineReward, loadSettings, ops, trainRun } from "alignprop";

const [recipe = "default", out] = process.argv.slice(2);

// RGB images [b, 3, h, w] from 0 to 1 → a reward per image: how much more blue than red its pixels are.
const blue = defineReward({
  name: "blue",
  build(images) {
    const channel = (index: number) => ops.slice(images, 1, [index, index + 1]);
    return ops.mean(ops.sub(channel(2), channel(0)), [1, 2, 3]);
  },
});

// Compares the gradient with finite differences.
const { problems } = await checkReward(blue);
if (problems.length > 0) throw new Error(problems.join("\n"));

const interrupt = new AbortController();
process.once("SIGINT", () => interrupt.abort());

const settings = await loadSettings({ recipe });
const run = await trainRun(settings, {
  reward: blue,
  out,
  signal: interrupt.signal,
  onProgress({ step, steps, reward, secondsLeft }) {
    console.log(`step ${step}/${steps}: reward ${reward.toFixed(3)}, ${Math.round(secondsLeft)} s left`);
  },
});

console.log(`reward of the evaluation: ${run.base?.mean} → ${run.evaluation?.mean}`);
console.log(`adapter of ${run.adapter?.size} layers: ${run.best?.folder}`);
console.log(`report: ${run.report}`);
