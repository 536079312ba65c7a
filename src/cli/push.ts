import type { Command } from "commander";
import { showBytes } from "../io/bytes.js";
import { filesToPush, push, requireRepoId, requireToken } from "../runs/publish/index.js";
import { hubOf } from "../weights/hub/id.js";
import { interruptible } from "./interrupt.js";
import { type CommonOptions, commonOptions } from "./options.js";
import type { Terminal } from "./terminal.js";

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
      "Send an adapter in both formats, its model card and sample pictures to a repository on the Hugging Face hub, " +
        "which is made where it is not there. The token comes from HF_TOKEN; HF_ENDPOINT names another hub.",
    )
    .argument("<adapter>", "a run, which stands for its best checkpoint, or a checkpoint")
    .argument("<repo>", "owner/name")
    .option("--private", "make the repository private, if it has to be made")
    .option("--revision <branch>", "the branch, which is made where it is not there", "main")
    .option("--dry-run", "list what would be sent, and send nothing");
  commonOptions(command)
    .addHelpText(
      "after",
      `
Examples:
  alignprop push runs/default-1 me/vivid-animals --dry-run
  alignprop push runs/default-1/checkpoints/step-000012 me/vivid-animals --private`,
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
  if (!dryRun) for (const { path, bytes } of listed) terminal.say(`sending ${path} (${showBytes(bytes)})`);
  const pushed = dryRun
    ? undefined
    : await interruptible(terminal, "Stopping the upload", (signal) =>
        push(files, { repo, revision, private: isPrivate, hubUrl, token, signal }),
      );
  if (json) terminal.print(JSON.stringify({ repo, revision, files: listed, url: null, commit: null, ...pushed }));
  else if (pushed !== undefined) terminal.print(`pushed ${files.length} files to ${pushed.url}`);
  else {
    for (const { path, bytes } of listed) terminal.print(`${path}  ${showBytes(bytes)}`);
    terminal.print(`${files.length} files would go to ${hubUrl}/${repo}, branch ${revision}; nothing was sent`);
  }
}
