/** Checks that all ranks of a run agree on everything that affects the training. */
import { type Cluster, CollectiveError, rankName } from "../cluster/index.js";
import type { Settings } from "../config/index.js";
import { packageVersion } from "../io/package.js";
import { isRecord } from "../io/record.js";
import type { Precision } from "../pipeline/index.js";

/** Everything that must be equal on all ranks. */
export interface Facts {
  readonly settings: Settings;
  readonly precision: Precision;
  /** Fingerprint of the model's weights. */
  readonly model: string;
  /** Fingerprint of the reward's weights. */
  readonly reward: string;
  /** Steps done before. */
  readonly step: number;
  /** Checksum of the trainable parameters. */
  readonly state: number;
}

/** Settings that may differ between ranks. */
const LOCAL: readonly (keyof Settings)[] = ["name", "threads", "memory", "device", "out", "model"];

/** @throws CollectiveError `ranks-mismatch` with the first setting or fingerprint that differs from that of rank 0 */
export async function requireAgreement(cluster: Cluster, { settings, ...facts }: Facts): Promise<void> {
  if (cluster.size === 1) return;
  const shared = Object.entries(settings).filter(([key]) => !LOCAL.includes(key as keyof Settings));
  const own = {
    "the version of alignprop": packageVersion(),
    ...flattened(Object.fromEntries(shared), ""),
    precision: facts.precision,
    "the fingerprint of the model's weights": facts.model,
    "the fingerprint of the reward's weights": facts.reward,
    "the step to resume from": String(facts.step),
    "the fingerprint of the state": String(facts.state),
  };
  const [first, ...others] = (await cluster.allGather<Record<string, string>>(own)) as [
    Record<string, string>,
    ...Record<string, string>[],
  ];
  for (const [i, other] of others.entries()) {
    const key = Object.keys({ ...first, ...other }).find((each) => first[each] !== other[each]);
    if (key === undefined) continue;
    const rank = i + 1;
    const [expected, found] = [first[key], other[key]].map((value) => short(value ?? "not set"));
    throw new CollectiveError(
      "ranks-mismatch",
      `${key} is ${found} on ${rankName(cluster, rank)}, but ${expected} on ${rankName(cluster, 0)}. ` +
        "Start all ranks with the same settings, weights and version.",
      { setting: key, found, expected, rank, host: cluster.hosts[rank] },
    );
  }
}

/** All settings as JSON, by their full keys: `lora.rank` → "4". */
function flattened(value: unknown, path: string): Record<string, string> {
  if (!isRecord(value)) return { [path]: JSON.stringify(value) ?? "not set" };
  return Object.assign(
    {},
    ...Object.entries(value).map(([key, inner]) => flattened(inner, path === "" ? key : `${path}.${key}`)),
  );
}

const short = (text: string) => (text.length > 60 ? `${text.slice(0, 57)}…` : text);
