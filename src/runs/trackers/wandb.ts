/** Weights & Biases: from settings and environment to one of its two forms, online and offline. */

import type { SettingsOf } from "../../config/index.js";
import { InputError } from "../../errors/index.js";
import type { OutboxOptions } from "./outbox.js";
import type { Tracker, TrackerOptions } from "./tracker.js";
import { WandbOffline } from "./wandb-offline.js";
import { type Account, openOnline } from "./wandb-online.js";
import { keptSchema, NAME, type WandbTarget } from "./wandb-run.js";

const DEFAULT_PROJECT = "alignprop";

export async function openWandb(
  settings: SettingsOf<"wandb">,
  options: TrackerOptions,
  timing: Partial<OutboxOptions> = {},
): Promise<Tracker | undefined> {
  const { env } = options;
  const mode = settings.mode ?? modeOf(env.WANDB_MODE);
  if (mode === "disabled") return undefined;
  const target: WandbTarget = {
    entity: named("entity", settings.entity ?? (env.WANDB_ENTITY?.trim() || ""), "WANDB_ENTITY"),
    project: named("project", settings.project ?? (env.WANDB_PROJECT?.trim() || DEFAULT_PROJECT), "WANDB_PROJECT"),
  };
  const kept = keptSchema.safeParse(options.kept).data;
  const same = kept?.mode === mode && kept.project === target.project ? kept : undefined;
  if (mode === "offline") return new WandbOffline(target, same, options);
  return openOnline(accountOf(env), target, same, options, timing);
}

function modeOf(written: string | undefined): "online" | "offline" | "disabled" {
  switch (written?.trim()) {
    case undefined:
    case "":
    case "online":
    case "run":
    case "shared":
      return "online";
    case "offline":
    case "dryrun":
      return "offline";
    case "disabled":
      return "disabled";
  }
  throw new InputError("server-failed", `WANDB_MODE ${JSON.stringify(written)}: must be online, offline or disabled`);
}

function named(what: string, name: string, variable: string): string {
  if (name === "" || NAME.test(name)) return name;
  throw new InputError(
    "server-failed",
    `wandb: ${what} ${JSON.stringify(name)} (or ${variable}) may hold letters, digits, dashes, underscores and dots only`,
  );
}

function accountOf(env: NodeJS.ProcessEnv): Account {
  const server = (env.WANDB_BASE_URL?.trim() || "https://api.wandb.ai").replace(/\/+$/, "");
  if (!URL.canParse(server) || !/^https?:$/.test(new URL(server).protocol) || new URL(server).username !== "") {
    throw new InputError(
      "server-failed",
      "WANDB_BASE_URL: is not the address of a W&B server, such as https://api.wandb.ai",
    );
  }
  const key = env.WANDB_API_KEY?.trim();
  const remedy = `${appOf(new URL(server))}/authorize shows yours; or leave it for later with mode: offline (WANDB_MODE=offline)`;
  if (!key) throw new InputError("server-failed", `wandb: WANDB_API_KEY is not set: ${remedy}`);
  if (!/^[\x21-\x7e]{40,}$/.test(key)) {
    throw new InputError("server-failed", `wandb: WANDB_API_KEY is no key, which has 40 characters or more: ${remedy}`);
  }
  return { server: new URL(server), app: appOf(new URL(server)), key };
}

/** Where people look: https://api.wandb.ai → https://wandb.ai; a server of one's own has one address. */
function appOf(server: URL): string {
  return server.href.replace("//api.", "//").replace(/\/$/, "");
}
