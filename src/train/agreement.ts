/** What all ranks of a run must have in common before it begins, and how a mistake that several make is told once. */
import type { Cluster } from "../cluster/cluster.js";
import type { Settings } from "../config/settings.js";
import { InputError } from "../errors/index.js";
import { packageVersion } from "../io/package.js";
import { isRecord } from "../io/record.js";
import type { Precision } from "../pipeline/precision.js";

/**
 * Does on every rank what may find bad input. Where any does, all throw: an error of rank 0 or of all as it is, another with
 * the names of the rank and its host.
 */
export async function together<T>(cluster: Cluster, work: () => Promise<T>): Promise<T> {
  if (cluster.size === 1) return await work();
  let done: { readonly result: T } | undefined;
  let failure: InputError | undefined;
  try {
    done = { result: await work() };
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    failure = error;
  }
  const failures = await cluster.allGather(failure?.message, { patient: true });
  if (done && failures.every((message) => message === undefined)) return done.result;
  const rank = failures.findIndex((message) => message !== undefined);
  const message = failures[rank] as string;
  const shared = rank === 0 || failures.every((other) => other === message);
  throw new InputError("not-finite", shared ? message : `${named(cluster, rank)}: ${message}`);
}

/** On each host one rank begins, so that what has to be downloaded is downloaded once; then the others. */
export async function firstOnEachHost<T>(cluster: Cluster, work: () => Promise<T>): Promise<T> {
  const first = cluster.localRank === 0;
  const early = await together(cluster, async () => (first ? { result: await work() } : undefined));
  return (await together(cluster, async () => early ?? { result: await work() })).result;
}

export interface Facts {
  readonly settings: Settings;
  readonly precision: Precision;
  /** Fingerprints of weights. */
  readonly model: string;
  readonly reward: string;
  /** Steps done before. */
  readonly step: number;
  /** Of what learns, and of what the optimizer remembers. */
  readonly state: number;
}

/** Settings that may be each rank's own. */
const LOCAL: readonly (keyof Settings)[] = ["name", "threads", "memory", "device", "out", "model"];

/** Refuses ranks that would not train the same thing. */
export async function requireAgreement(cluster: Cluster, { settings, ...facts }: Facts): Promise<void> {
  if (cluster.size === 1) return;
  const shared = Object.entries(settings).filter(([key]) => !LOCAL.includes(key as keyof Settings));
  const own = {
    "the version of alignprop": packageVersion(),
    ...flattened(Object.fromEntries(shared), ""),
    precision: facts.precision,
    "the fingerprint of the model's weights": facts.model,
    "the fingerprint of the reward's weights": facts.reward,
    "the step that the run goes on from": String(facts.step),
    "the fingerprint of the state": String(facts.state),
  };
  const [first, ...others] = (await cluster.allGather<Record<string, string>>(own)) as [
    Record<string, string>,
    ...Record<string, string>[],
  ];
  for (const [i, other] of others.entries()) {
    const key = Object.keys({ ...first, ...other }).find((each) => first[each] !== other[each]);
    if (key === undefined) continue;
    const [here, there] = [first[key], other[key]].map((value) => short(value ?? "not set"));
    throw new InputError(
      "not-finite",
      `${key} is ${there} on ${named(cluster, i + 1)}, but ${here} on ${named(cluster, 0)}; all ranks must train the same`,
    );
  }
}

/** `lora.rank` → "4", for every setting. */
function flattened(value: unknown, path: string): Record<string, string> {
  if (!isRecord(value)) return { [path]: JSON.stringify(value) ?? "not set" };
  return Object.assign(
    {},
    ...Object.entries(value).map(([key, inner]) => flattened(inner, path === "" ? key : `${path}.${key}`)),
  );
}

const named = ({ hosts }: Cluster, rank: number) => `rank ${rank} (${hosts[rank]})`;

const short = (text: string) => (text.length > 60 ? `${text.slice(0, 57)}…` : text);
