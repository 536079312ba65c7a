/** Opens the online or offline Weights & Biases tracker, from the settings and the environment. */

import type { SettingsOf } from "../../config/index.js";
import { InputError } from "../../errors/index.js";
import type { OutboxOptions } from "./outbox.js";
import type { Tracker, TrackerOptions } from "./tracker.js";
import { WandbOffline } from "./wandb-offline.js";
import { type Account, openOnline } from "./wandb-online.js";
import { NAME, stateSchema, type WandbTarget } from "./wandb-run.js";

const DEFAULT_PROJECT = "alignprop";

/** @throws InputError `setting-invalid` or `server-failed` */
export async function openWandb(
  settings: SettingsOf<"wandb">,
  options: TrackerOptions,
  timing: Partial<OutboxOptions> = {},
): Promise<Tracker | undefined> {
  const { env } = options;
  const mode = settings.mode ?? modeOf(env.WANDB_MODE);
  if (mode === "disabled") return undefined;
  const target: WandbTarget = {
    entity: checkedName("entity", settings.entity ?? (env.WANDB_ENTITY?.trim() || ""), "WANDB_ENTITY"),
    project: checkedName(
      "project",
      settings.project ?? (env.WANDB_PROJECT?.trim() || DEFAULT_PROJECT),
      "WANDB_PROJECT",
    ),
  };
  const saved = stateSchema.safeParse(options.saved).data;
  const state = saved?.mode === mode && saved.project === target.project ? saved : undefined;
  if (mode === "offline") return new WandbOffline(target, state, options);
  return openOnline(accountOf(env), target, state, { ...options, timing });
}

function modeOf(value: string | undefined): "online" | "offline" | "disabled" {
  switch (value?.trim()) {
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
  throw new InputError(
    "setting-invalid",
    `WANDB_MODE: is ${JSON.stringify(value)}, but must be online, offline or disabled. Correct it, or remove it.`,
    { variable: "WANDB_MODE", found: value, expected: ["online", "offline", "disabled"] },
  );
}

function checkedName(key: "entity" | "project", name: string, variable: string): string {
  if (name === "" || NAME.test(name)) return name;
  throw new InputError(
    "setting-invalid",
    `wandb: the ${key} ${JSON.stringify(name)} may contain only letters, digits, dashes, underscores and dots. Change the ${key} ` +
      `in trackers, or ${variable}.`,
    { tracker: "wandb", setting: "trackers", key, variable, found: name },
  );
}

function accountOf(env: NodeJS.ProcessEnv): Account {
  const server = (env.WANDB_BASE_URL?.trim() || "https://api.wandb.ai").replace(/\/+$/, "");
  if (!URL.canParse(server) || !/^https?:$/.test(new URL(server).protocol) || new URL(server).username !== "") {
    // The address may hold a password, so the message does not repeat it.
    throw new InputError(
      "setting-invalid",
      "WANDB_BASE_URL: is not the address of a W&B server, such as https://api.wandb.ai. Give an http or https address " +
        "without a user.",
      { variable: "WANDB_BASE_URL", expected: "http or https address" },
    );
  }
  const key = env.WANDB_API_KEY?.trim();
  const authorize = `${appOf(new URL(server))}/authorize`;
  const remedy = `Copy your key from ${authorize}, or track with mode: offline (WANDB_MODE=offline) and upload later.`;
  const facts = { variable: "WANDB_API_KEY", suggestion: authorize };
  if (!key) throw new InputError("setting-invalid", `wandb: WANDB_API_KEY is not set. ${remedy}`, facts);
  if (!/^[\x21-\x7e]{40,}$/.test(key)) {
    throw new InputError(
      "setting-invalid",
      `wandb: WANDB_API_KEY is not an API key, because a key has 40 or more characters without spaces. ${remedy}`,
      { ...facts, found: key.length, expected: 40 },
    );
  }
  return { server: new URL(server), app: appOf(new URL(server)), key };
}

/** Address of the web pages: https://api.wandb.ai → https://wandb.ai. A self-hosted server has one address for both. */
function appOf(server: URL): string {
  return server.href.replace("//api.", "//").replace(/\/$/, "");
}
