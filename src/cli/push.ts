import type { Command } from "commander";
import { showBytes } from "../io/bytes.js";
import { filesToPush, push, requireRepoId, requireToken } from "../runs/publish/index.js";
import { hubOf } from "../weights/hub/id.js";
import { interruptible } from "./interrupt.js";
import { type CommonOptions, commonOptions } from "./options.js";
import type { Terminal } from "./terminal.js";
import { count } from "./text.js";

interface PushCommandOptions extends CommonOptions {
  private?: boolean;
  revision: string;
  dryRun?: boolean;
}

export function pushCommand(root: Command, terminal: Terminal): void {
  const command = root
    .command("push")
    .summary("publish an adapter on the Hugging Face hub")
    .description(
      "Upload an adapter in both formats, its model card and sample images to a repository on the Hugging Face hub. " +
        "The repository is created if it does not exist. HF_TOKEN holds the access token; HF_ENDPOINT may name another hub.",
    )
    .argument("<adapter>", "a run (its best checkpoint), or one of its checkpoints")
    .argument("<repo>", "repository, as owner/name")
    .option("--private", "make the repository private if it is created")
    .option("--revision <branch>", "branch; created if it does not exist", "main")
    .option("--dry-run", "list the files, and upload nothing");
  commonOptions(command)
    .addHelpText(
      "after",
      `
Examples:
  npx alignprop push runs/default-1 me/vivid-animals --dry-run
  npx alignprop push runs/default-1/checkpoints/step-000012 me/vivid-animals --private`,
    )
    .action((adapter: string, repo: string, options: PushCommandOptions) => pushInto(adapter, repo, options, terminal));
}

async function pushInto(adapter: string, repo: string, options: PushCommandOptions, terminal: Terminal): Promise<void> {
  const { revision, private: isPrivate = false, dryRun = false, json } = options;
  requireRepoId(repo);
  const hub = hubOf(process.env);
  const hubUrl = hub.endpoint;
  const token = dryRun ? "" : requireToken(hub);
  const files = await filesToPush(adapter);
  const listed = files.map(({ path, bytes }) => ({ path, bytes }));
  if (!dryRun) for (const { path, bytes } of listed) terminal.say(`uploading ${path} (${showBytes(bytes)})`);
  const pushed = dryRun
    ? undefined
    : await interruptible(terminal, "Stopping the upload", (signal) =>
        push(files, { repo, revision, private: isPrivate, hubUrl, token, signal }),
      );
  if (json) terminal.print(JSON.stringify({ repo, revision, files: listed, url: null, commit: null, ...pushed }));
  else if (pushed !== undefined) terminal.print(`pushed ${count(files.length, "file")} to ${pushed.url}`);
  else {
    for (const { path, bytes } of listed) terminal.print(`${path}  ${showBytes(bytes)}`);
    terminal.print(
      `dry run: ${count(files.length, "file")} for ${hubUrl}/${repo}, branch ${revision}; nothing was uploaded`,
    );
  }
}
