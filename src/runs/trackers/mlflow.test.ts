/** Tracking in the small MLflow server of the tests. parity/trackers.ts does the same with the real server. */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import { evaluationOf, metricsOf, PROMPTS, resumeRun, startRun } from "../../../test/made-up-run.js";
import { type MlflowServer, startMlflow } from "../../../test/mlflow-server.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-mlflow-"));
afterAll(() => rm(scratch, { recursive: true }));

let server: MlflowServer;
beforeEach(async () => {
  server = await startMlflow();
});
afterEach(() => server.close());

const timing = { first: 5, longest: 20, patience: 200 };
const mlflow = (uri = server.address) => [{ name: "mlflow" as const, uri }];
const only = () => {
  const [run] = [...server.runs.values()];
  if (run === undefined) throw new Error("no run was created");
  return run;
};

/** The steps of a metric on the server. */
const stepsOf = (key: string) => only().metrics.flatMap((metric) => (metric.key === key ? [metric.step] : []));

describe("a run in MLflow", () => {
  test("has every number at its step, the settings as parameters, and status FINISHED", async () => {
    const run = await startRun(join(scratch, "whole"), mlflow(), { timing });
    await run.stepsTo(4);
    const { name, status, metrics, params, tags } = only();
    expect([name, status, run.warnings]).toEqual(["whole", "FINISHED", []]);
    expect([...server.experiments.keys()]).toEqual(["alignprop"]);
    const { step: _, rewards = {}, eval_rewards = {}, ...row } = metricsOf(4);
    const found = Object.fromEntries(metrics.filter(({ step }) => step === 4).map(({ key, value }) => [key, value]));
    expect(found).toEqual({
      ...row,
      "rewards/clip": rewards.clip,
      "rewards/my reward_ _": rewards["my reward: é"],
      "eval_rewards/clip": eval_rewards.clip,
      "eval_rewards/my reward_ _": eval_rewards["my reward: é"],
    });
    expect(metrics.filter(({ step, key }) => step === 0 && key === "eval_reward_mean").map((m) => m.value)).toEqual([
      0.25,
    ]);
    // A skipped optimizer update has no gradient norm.
    expect(stepsOf("grad_norm")).toEqual([1, 2, 4]);
    expect(params.get("lora.rank")).toBe("4");
    expect(params.get("reward.name")).toBe("aesthetic");
    expect(tags.get("mlflow.loggedImages")).toBe("True");
    expect(run.messages).toEqual([`mlflow: ${server.address}/#/experiments/1/runs/run1`]);
    expect(run.trackers.places).toEqual({ mlflow: `${server.address}/#/experiments/1/runs/run1` });
  });

  test("has the images under the names that its pages show by step, their captions, the report and the adapter", async () => {
    const run = await startRun(join(scratch, "artifacts"), mlflow(), { timing });
    await run.stepsTo(4);
    const { artifacts } = only();
    const names = [...artifacts.keys()].sort();
    const shown = /^images\/(.+?)\+step\+(\d+)\+timestamp\+\d+\+[0-9a-f-]{36}(\+compressed\.webp|\.png)$/;
    const images = names.flatMap((name) => shown.exec(name) ?? []);
    expect(images.length).toBe(4 * 2 * PROMPTS.length * 3);
    for (const name of names.filter((one) => one.endsWith(".png") && one.startsWith("images/"))) {
      const [, key, step] = shown.exec(name) ?? [];
      const i = key?.startsWith("000") ? 0 : 1;
      const pixels = await sharp(artifacts.get(name)).raw().toBuffer();
      expect([...pixels]).toEqual([...(evaluationOf(Number(step)).images[i]?.pixels ?? [])]);
    }
    expect(JSON.parse(String(artifacts.get("samples/step-000002/index.json")))[1]).toEqual({
      prompt: PROMPTS[1],
      seed: 8,
      reward: 2.75,
      caption: `${PROMPTS[1]}, reward 2.75, seed 8`,
    });
    expect(artifacts.get("adapter/pytorch_lora_weights.safetensors")).toEqual(Buffer.from([1, 2, 3]));
    expect(artifacts.get("report.html")).toEqual(await readFile(run.folder.report));
  });

  test("resumes in the same run, without a second row for repeated steps", async () => {
    const killed = await startRun(join(scratch, "resumed"), mlflow(), { timing });
    await killed.stepsTo(3);
    await killed.trackers.end("failed");
    expect(only().status).toBe("FAILED");
    const again = await resumeRun(killed.folder.path, { timing });
    await again.stepsTo(4);
    expect(server.runs.size).toBe(1);
    expect(stepsOf("loss")).toEqual([1, 2, 3, 4]);
    expect(only().status).toBe("FINISHED");
  });

  test("is asked for its last step if a kill came before that was saved", async () => {
    const killed = await startRun(join(scratch, "unsaved"), mlflow(), { timing });
    await killed.stepsTo(3);
    await killed.trackers.end("failed");
    const file = join(killed.folder.path, "trackers.json");
    const states = JSON.parse(await readFile(file, "utf8"));
    await writeFile(file, JSON.stringify({ mlflow: { ...states.mlflow, step: 1 } }));
    const artifacts = only().artifacts.size;
    const again = await resumeRun(killed.folder.path, { timing });
    await again.trackers.end("stopped");
    expect(stepsOf("loss")).toEqual([1, 2, 3]);
    expect(only().artifacts.size).toBe(artifacts);
  });

  test("has status KILLED after an interrupt, and can be resumed", async () => {
    const run = await startRun(join(scratch, "interrupted"), mlflow(), { timing });
    await run.stepsTo(2);
    await run.tell({ kind: "finished", result: { step: 2, steps: 4, interrupted: true, seconds: 1 } });
    expect(only().status).toBe("KILLED");
  });

  test("warns once that the server cannot be reached, and sends the missing data later", async () => {
    const run = await startRun(join(scratch, "away"), mlflow(), { timing: { ...timing, patience: 5000 } });
    await run.stepsTo(1);
    server.faults.away = true;
    await run.stepsTo(3);
    await new Promise((resolve) => setTimeout(resolve, 60));
    server.faults.away = false;
    await run.stepsTo(4);
    expect(stepsOf("loss")).toEqual([1, 2, 3, 4]);
    expect(run.warnings).toHaveLength(1);
    expect(run.warnings[0]).toMatch(
      /^mlflow: http\S+ cannot be reached \(.+\)\. Training goes on, and the missing data/,
    );
  });

  test("ends without the server, and sends the missing data when it is resumed", async () => {
    const run = await startRun(join(scratch, "lost"), mlflow(), { timing });
    await run.stepsTo(1);
    await expect.poll(() => stepsOf("loss")).toEqual([1]);
    server.faults.away = true;
    await run.stepsTo(3);
    await run.trackers.end("failed");
    expect(run.warnings).toHaveLength(2);
    expect(run.warnings[1]).toMatch(/could not be reached before the run ended\. .* --resume sends it/);
    server.faults.away = false;
    const again = await resumeRun(run.folder.path, { timing });
    await again.stepsTo(4);
    expect(server.runs.size).toBe(1);
    expect(stepsOf("loss")).toEqual([1, 2, 3, 4]);
    // The images of step 2 were missing as well.
    expect([...only().artifacts.keys()].filter((name) => name.includes("+step+2+"))).toHaveLength(4);
  });

  test("is abandoned with a warning if the token is refused during training", async () => {
    const run = await startRun(join(scratch, "refused"), mlflow(), { timing });
    await expect.poll(() => stepsOf("eval_reward_mean")).toEqual([0]);
    server.faults.status = 401;
    await run.stepsTo(4);
    expect(run.warnings).toEqual([
      expect.stringMatching(/^mlflow: http\S+ answered 401: simulated fault\. Training goes on without mlflow\.$/),
    ]);
    expect(run.folder.metrics).toHaveLength(4);
  });

  test("keeps images only in the run's folder if the server accepts no artifacts, and warns once", async () => {
    server.artifactRoot = "s3://bucket";
    const run = await startRun(join(scratch, "elsewhere"), mlflow(), { timing });
    await run.stepsTo(4);
    expect(run.warnings).toEqual([expect.stringMatching(/stores artifacts at s3: and does not accept them over HTTP/)]);
    expect(only().status).toBe("FINISHED");
  });
});

describe("the address and credentials of the MLflow server", () => {
  test.each([
    [{ MLFLOW_TRACKING_TOKEN: "a-token" }, "Bearer a-token"],
    [
      { MLFLOW_TRACKING_USERNAME: "me", MLFLOW_TRACKING_PASSWORD: "söcret" },
      `Basic ${Buffer.from("me:söcret").toString("base64")}`,
    ],
    [{ MLFLOW_TRACKING_USERNAME: "me" }, undefined],
  ])("come from the environment: %j", async (env, sent) => {
    const uri = server.address;
    const run = await startRun(await mkdtemp(join(scratch, "env-")), ["mlflow"], {
      timing,
      env: { MLFLOW_TRACKING_URI: `${uri}/`, MLFLOW_EXPERIMENT_NAME: "foxes", ...env },
    });
    await run.stepsTo(4);
    expect([...server.authorizations]).toEqual([sent]);
    expect([...server.experiments.keys()]).toEqual(["foxes"]);
  });

  test("are never written to the run's folder", async () => {
    const { host } = new URL(server.address);
    const run = await startRun(join(scratch, "secrets"), ["mlflow"], {
      timing,
      env: { MLFLOW_TRACKING_URI: `http://me:sesame@${host}` },
    });
    await run.stepsTo(4);
    expect([...server.authorizations]).toEqual([`Basic ${Buffer.from("me:sesame").toString("base64")}`]);
    for (const file of ["config.yaml", "metrics.jsonl", "trackers.json", "report.html"]) {
      expect(await readFile(join(run.folder.path, file), "utf8")).not.toContain("sesame");
    }
    expect(JSON.stringify([...only().params, run.messages, run.warnings])).not.toContain("sesame");
  });

  test.each<[string, NodeJS.ProcessEnv, Error]>([
    ["none", {}, inputError("setting-invalid", { variable: "MLFLOW_TRACKING_URI", found: null })],
    [
      "a folder",
      { MLFLOW_TRACKING_URI: "file:///tmp/mlruns" },
      inputError("setting-invalid", { variable: "MLFLOW_TRACKING_URI", expected: "http or https address" }),
    ],
    [
      "no server there",
      { MLFLOW_TRACKING_URI: "http://127.0.0.1:9" },
      inputError("server-failed", {
        server: "http://127.0.0.1:9/api/2.0/mlflow/experiments/get-by-name",
        status: undefined,
      }),
    ],
    [
      "a token with a space",
      { MLFLOW_TRACKING_URI: "http://127.0.0.1:9", MLFLOW_TRACKING_TOKEN: "a token" },
      inputError("setting-invalid", { variable: "MLFLOW_TRACKING_TOKEN" }),
    ],
  ])("are checked before training: %s", async (_, env, error) => {
    await expect(startRun(join(scratch, "bad"), ["mlflow"], { env })).rejects.toThrow(error);
  });

  test("are checked before training: a uri with a password, which the error does not repeat", async () => {
    const uri = "http://me:sesame@localhost";
    const error = await startRun(join(scratch, "bad"), [{ name: "mlflow", uri }]).catch((error) => error);
    expect(error).toEqual(
      inputError("setting-invalid", {
        setting: "trackers",
        suggestion: ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"],
      }),
    );
    expect(error.message + JSON.stringify(error.facts)).not.toContain("sesame");
  });

  test.each([
    [401, { suggestion: ["MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"] }],
    [404, {}],
    [503, {}],
  ])("are checked before training: an answer of %i", async (status, facts) => {
    server.faults.status = status;
    const error = await startRun(join(scratch, "bad"), mlflow()).catch((error) => error);
    const address = `${server.address}/api/2.0/mlflow/experiments/get-by-name`;
    expect(error).toEqual(inputError("server-failed", { server: address, status, ...facts }));
    expect(error.message).toContain(`answered ${status}: simulated fault`);
  });

  test("are checked before training: a deleted experiment", async () => {
    server.deleted.add("alignprop");
    await expect(startRun(join(scratch, "bad"), mlflow())).rejects.toThrow(
      inputError("server-failed", { server: server.address, experiment: "alignprop" }),
    );
  });
});
