import { existsSync } from "node:fs";
import type { Command } from "commander";
import { InputError } from "../errors/index.js";
import { showBytes } from "../io/bytes.js";
import { locate } from "../io/package.js";
import { openOnnx, showInputShape } from "../onnx/import/file.js";
import type { Look } from "../weights/look/kinds.js";
import { look } from "../weights/look/look.js";
import { type CommonOptions, commonOptions } from "./options.js";
import { shellCommand } from "./shell.js";
import { snakeCase } from "./snake-case.js";
import type { Terminal } from "./terminal.js";

export function inspectCommand(root: Command, terminal: Terminal): void {
  const command = root
    .command("inspect")
    .summary("say what a file or folder is, and what can be done with it")
    .description(
      "Say from its content what a file or folder is: a model and its family, an adapter and its rank, a part of a model, an " +
        "ONNX file, a run, a recipe. Nothing is run or written.",
    )
    .argument("<path...>", "files or folders");
  commonOptions(command)
    .addHelpText(
      "after",
      `
Examples:
  npx alignprop inspect style.safetensors
  npx alignprop inspect runs/default-1 reward.onnx --json`,
    )
    .action(async (paths: string[], { json }: CommonOptions) => {
      const looks: Look[] = [];
      for (const path of paths) looks.push(await inspected(path));
      if (json) terminal.print(JSON.stringify({ files: looks.map(asJson) }));
      else terminal.print(looks.flatMap(linesOf).join("\n"));
    });
}

/** @throws InputError `file-not-found` */
async function inspected(path: string): Promise<Look> {
  const found = await look(existsSync(path) ? path : locate(path));
  if (found.kind === "missing") {
    throw new InputError("file-not-found", `${path}: there is no such file or folder. Check the path.`, { path });
  }
  // Messages and commands have the path as it was written.
  const command = found.command?.map((part) => (part === found.path ? path : part));
  const named = { ...found, path, ...(command && { command }) };
  return found.kind === "onnx" ? { ...named, ...(await onnxDetails(found.path)) } : named;
}

/** The inputs and outputs of an ONNX file; what is wrong with it if it cannot be read. */
async function onnxDetails(path: string): Promise<Partial<Look>> {
  try {
    const { producer, opset, inputs, outputs, parameters } = await openOnnx(path);
    const shown = inputs.map(({ name, dtype, shape }) => `${name} ${dtype}${showInputShape(shape)}`);
    return { details: { producer, opset, inputs: shown, outputs, parameters } };
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    const kind = error.code === "onnx-unsupported" ? "onnx" : "damaged";
    return { kind, what: "an ONNX model that cannot be read", details: {}, advice: error.message, supported: false };
  }
}

function linesOf({ path, what, details, advice, command, supported }: Look): string[] {
  const width = Math.max(0, ...Object.keys(details).map((name) => name.length)) + 2;
  const shown = Object.entries(details).map(([name, value]) => {
    const text =
      name === "bytes" ? showBytes(value as number) : Array.isArray(value) ? value.join(", ") : String(value);
    return `  ${name.replaceAll("_", " ").padEnd(width)}${text}`;
  });
  const use = command && supported ? [`  ${shellCommand(...command)}`] : [];
  return [`${path}: ${what}`, ...shown, `  ${advice}`, ...use];
}

function asJson({ path, kind, what, details, advice, command, supported }: Look) {
  return snakeCase({
    path,
    kind,
    what,
    supported,
    details,
    advice,
    ...(command && { command: shellCommand(...command) }),
  });
}
