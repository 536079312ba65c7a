/**
 * An MLflow tracking server: its address and credentials, requests to its REST API 2.0, and the check before training.
 */
import { z } from "zod";
import type { SettingsOf } from "../../config/index.js";
import { InputError } from "../../errors/index.js";
import { atPath, Refused, sendJson, shownAddress, Unreachable } from "./request.js";

/** The server's ids become parts of paths. */
export const idSchema = z.string().regex(/^[A-Za-z0-9][\w-]{0,255}$/);

const foundExperiment = z.object({
  experiment: z.object({ experiment_id: idSchema, lifecycle_stage: z.string().optional() }),
});

export interface Server {
  /** Address without user and password. */
  readonly uri: URL;
  readonly headers: Record<string, string>;
}

/**
 * The server of the settings or of MLFLOW_TRACKING_URI, with credentials from the environment.
 *
 * @throws InputError `setting-invalid`
 */
export function serverOf({ uri }: SettingsOf<"mlflow">, env: NodeJS.ProcessEnv): Server {
  const given = uri ?? (env.MLFLOW_TRACKING_URI?.trim() || undefined);
  const facts = { tracker: "mlflow", setting: "trackers", variable: "MLFLOW_TRACKING_URI" };
  if (given === undefined) {
    throw new InputError(
      "setting-invalid",
      "mlflow: no tracking server is given. Set MLFLOW_TRACKING_URI, or " +
        "trackers: [{ name: mlflow, uri: http://localhost:5000 }].",
      { ...facts, found: null },
    );
  }
  const source = uri === null ? "MLFLOW_TRACKING_URI" : "its uri";
  // The address may hold a password, so messages and facts do not repeat it.
  if (!URL.canParse(given) || !/^https?:$/.test(new URL(given).protocol)) {
    throw new InputError(
      "setting-invalid",
      `mlflow: ${source} must be the address of a tracking server, such as http://localhost:5000. To use a folder ` +
        "or a database, start a server on it (mlflow server).",
      { ...facts, expected: "http or https address" },
    );
  }
  const parsed = new URL(given);
  let [user, password] = [env.MLFLOW_TRACKING_USERNAME, env.MLFLOW_TRACKING_PASSWORD];
  if (parsed.username !== "" || parsed.password !== "") {
    // Settings are written to the run's folder, into checkpoints and to the tracker.
    if (uri !== null) {
      const suggestion = ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"];
      throw new InputError(
        "setting-invalid",
        "mlflow: its uri contains a user or password, which would be written to the run's folder. Remove it, and set " +
          `${suggestion.join(" and ")} instead.`,
        { tracker: facts.tracker, setting: facts.setting, suggestion },
      );
    }
    [user, password] = [decodeURIComponent(parsed.username), decodeURIComponent(parsed.password)];
    parsed.username = "";
    parsed.password = "";
  }
  parsed.search = "";
  parsed.hash = "";
  const token = env.MLFLOW_TRACKING_TOKEN?.trim();
  const headers: Record<string, string> = {};
  // As in the Python client, a user and password take precedence over a token.
  if (user && password) headers.Authorization = `Basic ${Buffer.from(`${user}:${password}`).toString("base64")}`;
  else if (token) {
    if (!/^[\x21-\x7e]+$/.test(token)) {
      throw new InputError(
        "setting-invalid",
        "MLFLOW_TRACKING_TOKEN: contains characters that a token cannot have. Copy the token again.",
        { variable: "MLFLOW_TRACKING_TOKEN" },
      );
    }
    headers.Authorization = `Bearer ${token}`;
  }
  return { uri: parsed, headers };
}

/**
 * Checks before training that the server can be reached, accepts the credentials, and can add a run to the experiment.
 *
 * @throws InputError `server-failed`
 */
export async function requireServer(server: Server, experiment: string): Promise<void> {
  try {
    await experimentId(server, experiment);
  } catch (error) {
    if (!(error instanceof Refused || error instanceof Unreachable)) throw error;
    const { message, address, status } = error;
    const facts = { server: address, status };
    if (error instanceof Unreachable) {
      throw new InputError(
        "server-failed",
        `${message}. Check that the server is running and its address is right.`,
        facts,
      );
    }
    if ([401, 403].includes(error.status)) {
      const suggestion = ["MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"];
      const [token, user, password] = suggestion;
      throw new InputError("server-failed", `${message}. Set ${token}, or ${user} and ${password}.`, {
        ...facts,
        suggestion,
      });
    }
    throw new InputError(
      "server-failed",
      `${message}. Check that this is the address of an MLflow tracking server.`,
      facts,
    );
  }
}

/**
 * Undefined if the experiment does not exist.
 *
 * @throws InputError `server-failed` if the experiment is deleted
 */
export async function experimentId(server: Server, name: string): Promise<string | undefined> {
  const url = endpoint(server, "experiments", "get-by-name");
  url.searchParams.set("experiment_name", name);
  try {
    const { experiment } = checked(foundExperiment, await sendJson("mlflow", url, { headers: server.headers }), url);
    if (experiment.lifecycle_stage === "deleted") {
      throw new InputError(
        "server-failed",
        `mlflow: the experiment ${JSON.stringify(name)} is deleted. Restore it, or give another name.`,
        { server: shownAddress(server.uri), experiment: name },
      );
    }
    return experiment.experiment_id;
  } catch (error) {
    if (error instanceof Refused && error.status === 404 && error.body.includes("RESOURCE_DOES_NOT_EXIST"))
      return undefined;
    throw error;
  }
}

export function endpoint({ uri }: Server, ...path: readonly string[]): URL {
  return atPath(uri, "api", "2.0", "mlflow", ...path);
}

/** @throws Refused if the answer does not match the schema */
export function checked<S extends z.ZodType>(schema: S, answer: unknown, url: URL): z.output<S> {
  const { data } = schema.safeParse(answer);
  if (data === undefined) throw Refused.unexpected("mlflow", url);
  return data;
}
