/** Work that all ranks do at the same time, so that an error on one rank ends it on all of them. */
import { type ErrorCode, type ErrorFacts, InputError } from "../errors/index.js";
import { type Cluster, CollectiveError, rankName } from "./cluster.js";

/** An `InputError` as it travels between ranks. */
interface Failure {
  readonly code: ErrorCode;
  readonly message: string;
  readonly facts: ErrorFacts;
}

/**
 * Runs `work` on every rank. If it throws an `InputError` on any rank, every rank throws the error of the lowest such
 * rank, with the same code, message and facts. If other ranks do not have that error, the message starts with the name
 * of the rank, and the facts include `rank` and `host`.
 *
 * @throws CollectiveError as above. Other errors are thrown on their own rank only, and the caller has to end the run with
 *   `Cluster.fail`.
 */
export async function together<T>(cluster: Cluster, work: () => Promise<T>): Promise<T> {
  if (cluster.size === 1) return await work();
  let done: { readonly result: T } | undefined;
  let failure: Failure | undefined;
  try {
    done = { result: await work() };
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    failure = { code: error.code, message: error.message, facts: error.facts };
  }
  const failures = await cluster.allGather(failure, { patient: true });
  const rank = failures.findIndex((each) => each !== undefined);
  const first = failures[rank];
  if (first === undefined) return (done as { readonly result: T }).result;
  const shared = rank === 0 || failures.every((other) => other?.message === first.message);
  if (shared) throw new CollectiveError(first.code, first.message, first.facts);
  const facts = { ...first.facts, rank, host: cluster.hosts[rank] };
  throw new CollectiveError(first.code, `${rankName(cluster, rank)}: ${first.message}`, facts);
}

/** Runs `work` on one rank of each host and then on the others, so that the ranks of a host share one download. */
export async function firstOnEachHost<T>(cluster: Cluster, work: () => Promise<T>): Promise<T> {
  const first = cluster.localRank === 0;
  const early = await together(cluster, async () => (first ? { result: await work() } : undefined));
  return (await together(cluster, async () => early ?? { result: await work() })).result;
}
