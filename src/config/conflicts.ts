/** Settings that are valid by themselves but do not fit each other. */
import { estimatorProblems } from "../estimators/index.js";
import { defaultLoss, rewardTitle } from "../rewards/index.js";
import { batchProblems } from "./batch.js";
import type { Problem } from "./problems.js";
import type { ParsedSettings } from "./settings.js";

export function conflicts(settings: ParsedSettings, devices: number): Problem[] {
  const { batch, estimator, sampling, loss, reward, train } = settings;
  const code = "settings-conflict";
  const problems: Problem[] = [];
  if (train.steps !== null && train.epochs !== null) {
    problems.push({
      code,
      path: ["train"],
      message: "train.steps and train.epochs are both given; keep one",
      facts: { setting: "train.steps", with: "train.epochs" },
    });
  }
  problems.push(...monitorConflicts(settings));
  if (loss.form === "target" && loss.target === null && defaultLoss(reward).form !== "target") {
    const title = rewardTitle(reward);
    problems.push({
      code,
      path: ["loss", "form"],
      message: `loss.form is target, but there is no loss.target, and the ${title} reward has no default; set loss.target`,
      facts: { setting: "loss.target", with: "loss.form", reward: title },
    });
  }
  // A batch that does not divide may be due to any of its settings.
  for (const { message, facts } of batchProblems(batch, devices)) {
    problems.push({ code, path: ["batch"], message, facts });
  }
  for (const { path, message, facts } of estimatorProblems(estimator, { sampling, batch })) {
    const full = ["estimator", ...path];
    problems.push({ code, path: full, message: path.length === 0 ? message : `${full.join(".")} ${message}`, facts });
  }
  return problems;
}

/** Early stopping needs the measures that it compares, and diversity needs several images of a prompt. */
function monitorConflicts({ evaluation, early_stop: rule }: ParsedSettings): Problem[] {
  const { held_out, diversity, seeds_per_prompt } = evaluation;
  const problems: Problem[] = [];
  const add = (setting: string, other: string, message: string, facts = {}) =>
    problems.push({
      code: "settings-conflict",
      path: setting.split("."),
      message: `${setting} ${message}`,
      facts: { with: other, ...facts },
    });
  if (diversity !== null && seeds_per_prompt < 2) {
    add(
      "evaluation.diversity",
      "evaluation.seeds_per_prompt",
      `compares images of the same prompt, but evaluation.seeds_per_prompt is ${seeds_per_prompt}; give at least 2`,
      { found: seeds_per_prompt, expected: 2 },
    );
  }
  if (rule?.monitor === "held-out" && held_out === null) {
    add(
      "early_stop.monitor",
      "evaluation.held_out",
      "is held-out, but there is no evaluation.held_out; name a reward there, or set early_stop.monitor: reward",
      { found: "held-out" },
    );
  }
  if (typeof rule?.min_diversity === "number" && diversity === null) {
    add(
      "early_stop.min_diversity",
      "evaluation.diversity",
      "needs evaluation.diversity; name a CLIP model there, such as models/rewards/clip",
      { found: rule.min_diversity },
    );
  }
  return problems;
}
