/** A small MLflow tracking server: the routes that a run needs, with the limits and errors of the real server. */
import { type SmallAnswer, type SmallRequest, type SmallServer, startServer } from "./small-server.js";

export interface MlflowServerRun {
  readonly experiment: string;
  readonly name: string;
  status: string;
  readonly metrics: { key: string; value: number; timestamp: number; step: number }[];
  readonly params: Map<string, string>;
  readonly tags: Map<string, string>;
  readonly artifacts: Map<string, Buffer>;
}

export interface MlflowServer extends SmallServer {
  /** Ids by name. */
  readonly experiments: Map<string, string>;
  /** Names of deleted experiments. */
  readonly deleted: Set<string>;
  readonly runs: Map<string, MlflowServerRun>;
  /** The Authorization headers of all requests. */
  readonly authorizations: Set<string | undefined>;
  /** Address of the artifacts; by default they go through the server. */
  artifactRoot: string;
}

const refusal = (error_code: string, message: string, status = 400): SmallAnswer => ({
  status,
  json: { error_code, message },
});

export async function startMlflow(authorization?: string): Promise<MlflowServer> {
  const experiments = new Map<string, string>();
  const deleted = new Set<string>();
  const runs = new Map<string, MlflowServerRun>();
  const authorizations: MlflowServer["authorizations"] = new Set();
  let created = 0;

  const answer = ({ method, url, headers, body }: SmallRequest): SmallAnswer => {
    authorizations.add(headers.authorization);
    if (authorization !== undefined && headers.authorization !== authorization) {
      return { status: 401, json: { message: "You are not authenticated." } };
    }
    const artifact = /^\/api\/2\.0\/mlflow-artifacts\/artifacts\/\w+\/([\w-]+)\/artifacts\/(.+)$/.exec(url.pathname);
    if (artifact && method === "PUT") {
      runs.get(artifact[1] as string)?.artifacts.set(decodeURIComponent(artifact[2] as string), body);
      return {};
    }
    const json = body.length > 0 ? JSON.parse(body.toString()) : {};
    switch (`${method} ${url.pathname.replace("/api/2.0/mlflow/", "")}`) {
      case "GET experiments/get-by-name": {
        const name = url.searchParams.get("experiment_name") as string;
        const id = deleted.has(name) ? "deleted" : experiments.get(name);
        if (id === undefined) return refusal("RESOURCE_DOES_NOT_EXIST", `no experiment ${name}`, 404);
        const lifecycle_stage = deleted.has(name) ? "deleted" : "active";
        return { json: { experiment: { experiment_id: id, name, lifecycle_stage } } };
      }
      case "POST experiments/create": {
        if (experiments.has(json.name)) return refusal("RESOURCE_ALREADY_EXISTS", "it exists already");
        experiments.set(json.name, String(experiments.size + 1));
        return { json: { experiment_id: experiments.get(json.name) } };
      }
      case "POST runs/create": {
        const id = `run${++created}`;
        const tags = new Map<string, string>(
          json.tags.map(({ key, value }: { key: string; value: string }) => [key, value]),
        );
        const empty = { metrics: [], params: new Map(), artifacts: new Map() };
        runs.set(id, { experiment: json.experiment_id, name: json.run_name, status: "RUNNING", tags, ...empty });
        return { json: { run: { info: { run_id: id, artifact_uri: `${server.artifactRoot}/1/${id}/artifacts` } } } };
      }
      case "GET runs/get": {
        const run = runs.get(url.searchParams.get("run_id") as string);
        if (run === undefined) return refusal("RESOURCE_DOES_NOT_EXIST", "no such run", 404);
        const latest = new Map(run.metrics.map((metric) => [metric.key, metric]));
        return { json: { run: { data: { metrics: [...latest.values()] } } } };
      }
      case "POST runs/update":
      case "POST runs/log-batch": {
        const run = runs.get(json.run_id);
        if (run === undefined) return refusal("RESOURCE_DOES_NOT_EXIST", "no such run", 404);
        if (json.status) run.status = json.status;
        return log(run, json);
      }
      default:
        return { status: 404, json: { message: "no such route" } };
    }
  };

  const server: MlflowServer = Object.assign(await startServer(answer), {
    experiments,
    deleted,
    runs,
    authorizations,
    artifactRoot: "mlflow-artifacts:",
  });
  return server;
}

interface Batch {
  metrics?: MlflowServerRun["metrics"];
  params?: { key: string; value: string }[];
}

function log(run: MlflowServerRun, { metrics = [], params = [] }: Batch): SmallAnswer {
  if (metrics.length > 1000 || params.length > 100) return refusal("INVALID_PARAMETER_VALUE", "too many at once");
  for (const { key, value } of [...metrics, ...params]) {
    if (!/^[\w\-. /:]{1,250}$/.test(key) || String(value).length > 6000)
      return refusal("INVALID_PARAMETER_VALUE", `Invalid value for ${key}`);
  }
  for (const { key, value } of params) {
    if ((run.params.get(key) ?? value) !== value)
      return refusal("INVALID_PARAMETER_VALUE", "Changing param values is not allowed");
    run.params.set(key, value);
  }
  run.metrics.push(...metrics);
  return {};
}
