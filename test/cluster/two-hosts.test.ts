/**
 * Two hosts on one machine: two network namespaces with their own addresses and host names, connected by a virtual
 * cable that can be cut. This requires root and iproute2.
 */
import { execFileSync } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { endRuns, type Implementation, LIMIT, launch, mpich, openMpi, pidOf, type Run } from "./launch.js";

/** Each host has a namespace, one end of the cable and an address. Device names have at most 15 characters. */
const hosts = ["a", "b"].map((letter, i) => ({
  name: `host-${letter}`,
  namespace: `alignprop-${process.pid}-${letter}`,
  device: `ap${process.pid}${letter}`,
  address: `10.213.77.${i + 1}`,
})) as [Host, Host];

interface Host {
  readonly name: string;
  readonly namespace: string;
  readonly device: string;
  readonly address: string;
}

const ip = (...args: string[]) => execFileSync("ip", args, { stdio: ["ignore", "pipe", "pipe"], encoding: "utf8" });
const within = ({ namespace, name }: Host, command: string) => [
  ...["ip", "netns", "exec", namespace, "unshare", "--uts", "sh", "-c"],
  `hostname ${name}; exec ${command}`,
];

/** Creates both hosts and the cable. Returns the reason if that is not possible here. */
function createHosts(): string | undefined {
  try {
    const [a, b] = hosts;
    for (const { namespace } of hosts) ip("netns", "add", namespace);
    ip("link", "add", a.device, "netns", a.namespace, "type", "veth", "peer", "name", b.device, "netns", b.namespace);
    for (const { namespace, device, address } of hosts) {
      ip("-n", namespace, "addr", "add", `${address}/24`, "dev", device);
      ip("-n", namespace, "link", "set", device, "up");
      ip("-n", namespace, "link", "set", "lo", "up");
      // IPv6 addresses would take seconds to become usable.
      ip("netns", "exec", namespace, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 || true");
    }
    const [program = "", ...args] = within(a, "true");
    execFileSync(program, args, { stdio: "pipe" });
    return undefined;
  } catch (error) {
    return (error as Error).message.split("\n").slice(0, 2).join(" ");
  }
}

function cutCable(): void {
  ip("-n", hosts[1].namespace, "link", "set", hosts[1].device, "down");
}

async function connectCable(): Promise<void> {
  ip("-n", hosts[1].namespace, "link", "set", hosts[1].device, "up");
  const up = ({ namespace, device }: Host) => ip("-n", namespace, "link", "show", device).includes("state UP");
  while (!hosts.every(up)) await new Promise((resolve) => setTimeout(resolve, 50));
}

const missing = createHosts();
if (missing !== undefined) console.warn(`skipped: network namespaces cannot be created here: ${missing}`);
afterAll(async () => {
  await endRuns();
  // A cut may have left processes behind on the other host.
  for (const { namespace } of hosts) {
    try {
      for (const pid of ip("netns", "pids", namespace).split("\n").filter(Boolean))
        process.kill(Number(pid), "SIGKILL");
      ip("netns", "del", namespace);
    } catch {
      // The namespace was not created.
    }
  }
  await rm(folder, { recursive: true });
});

/** The program that launchers call instead of ssh, with the arguments HOST COMMAND… */
const folder = await mkdtemp(join(tmpdir(), "alignprop-hosts-"));
const agent = join(folder, "agent.sh");
const cases = hosts.map(
  (host) => `${host.address}) set -- ${within(host, '"$*"').slice(0, -1).join(" ")} "hostname ${host.name}; $*" ;;`,
);
await writeFile(agent, `#!/bin/sh\nhost=$1\nshift\ncase $host in\n${cases.join("\n")}\nesac\nexec "$@"\n`, {
  mode: 0o755,
});

/** One rank on each host. */
function launchOnBoth(mpi: Implementation, scenario: string, limit = LIMIT): Promise<Run> {
  const addresses = hosts.map(({ address }) => `${address}:1`).join(",");
  const options =
    mpi === openMpi
      ? `--host ${addresses} --mca plm_rsh_agent ${agent} -x ALIGNPROP_MPI_LIMIT ${NOTICE_CUTS}`
      : // Otherwise UCX would notice that the two hosts share their memory.
        `-hosts ${addresses} -n 2 -launcher rsh -launcher-exec ${agent} -genv UCX_TLS tcp,self`;
  const command = within(hosts[0], `${mpi.mpirun} ${options} "$@"`);
  return launch([...command, "sh"], scenario, { ALIGNPROP_MPI_LIMIT: String(limit) });
}

/** Without these settings, Open MPI's mpirun waits for minutes for a lost host (docs/distributed.md). */
const NOTICE_CUTS = "--mca oob_tcp_keepalive_time 4 --mca oob_tcp_keepalive_intvl 1 --mca oob_tcp_keepalive_probes 2";

for (const mpi of [openMpi, mpich]) {
  const { name, mpirun, install } = mpi;
  if (mpirun === undefined)
    console.warn(`skipped: ${name} is not installed (Debian and Ubuntu: apt install ${install})`);

  describe.skipIf(missing !== undefined || mpirun === undefined)(`two hosts under ${name}`, () => {
    test("work together", async () => {
      await connectCable();
      const outcome = await (await launchOnBoth(mpi, "all")).ended;
      expect(outcome.code, outcome.stderr).toBe(0);
      for (const rank of [0, 1]) {
        expect(await outcome.found(rank)).toMatchObject({
          rank,
          hosts: ["host-a", "host-b"],
          localRank: 0,
          localSize: 1,
          sums: [1.5, 1.5 * 2 ** 20, 1.5 * (2 ** 20 + 1), 1.5 * (2 ** 20 + 3)],
        });
      }
    });

    test("end when the network between them is cut, with one message", async () => {
      await connectCable();
      // Open MPI's mpirun should be the first to notice: if a rank ends the run, mpirun waits for the lost host.
      const run = await launchOnBoth(mpi, "sums", mpi === openMpi ? 30 : LIMIT);
      await Promise.all([pidOf(run, 0), pidOf(run, 1)]);
      cutCable();
      const { code, errors, stderr, failure } = await run.ended;
      expect(code).not.toBe(0);
      if (mpi === openMpi) {
        expect(stderr).toMatch(/lost communication with a remote daemon/);
        expect(stderr).toMatch(/^saved$/m);
        expect(errors).toEqual([]);
      } else {
        expect(errors).toEqual([expect.stringContaining("rank 1 (host-b)")]);
        expect(await failure()).toMatchObject({ facts: { ranks: [1], seconds: LIMIT } });
      }
    });
  });
}
