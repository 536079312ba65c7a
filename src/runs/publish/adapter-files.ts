import { existsSync } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { InputError } from "../../errors/index.js";
import { KOHYA_ENDING, UNET_FILES } from "../../pipeline/index.js";
import { PEFT_FILE } from "../../weights/lora-files.js";
import { adapterPath, cardFiles, isRun, runFiles } from "../record/index.js";
import { writeModelCard } from "./model-card.js";

export interface PushedFile {
  /** Path in the repository, with slashes. */
  readonly path: string;
  /** Path on this machine. */
  readonly file: string;
  readonly bytes: number;
}

/**
 * The files to publish of a run (its best checkpoint) or of a folder with an adapter: the weights, the model card and
 * its images, but not the training state. Writes the model card first if the folder is a checkpoint of a run and has
 * none.
 *
 * @throws InputError `file-not-found` or `file-unreadable` if `path` is not such a folder
 */
export async function filesToPush(path: string): Promise<PushedFile[]> {
  const folder = await adapterFolder(path);
  const names = await readdir(folder);
  const unet = Object.values(UNET_FILES).filter((inside) => existsSync(join(folder, inside)));
  if (!names.includes(PEFT_FILE) && unet.length === 0) {
    throw new InputError("file-not-found", `${path}: has no ${PEFT_FILE}. ${REMEDY}`, { path, expected: PEFT_FILE });
  }
  const own = names.filter((name) => [PEFT_FILE, cardFiles.card].includes(name) || name.endsWith(KOHYA_ENDING));
  const images = names.includes(cardFiles.images) ? await readdir(join(folder, cardFiles.images)) : [];
  const paths = [
    ...own.sort(),
    ...unet,
    ...images
      .filter((name) => name.endsWith(".png"))
      .sort()
      .map((name) => `${cardFiles.images}/${name}`),
  ];
  return Promise.all(
    paths.map(async (inside) => {
      const file = join(folder, inside);
      return { path: inside, file, bytes: (await stat(file)).size };
    }),
  );
}

const REMEDY = "Give a run's folder, or one of its checkpoints.";

async function adapterFolder(path: string): Promise<string> {
  const info = await stat(path).catch(() => undefined);
  if (info === undefined) {
    throw new InputError("file-not-found", `${path}: there is no such folder. ${REMEDY}`, { path });
  }
  if (!info.isDirectory()) {
    throw new InputError("file-unreadable", `${path}: is not a folder. ${REMEDY}`, { path, found: "file" });
  }
  const folder = resolve(await adapterPath(path));
  const run = dirname(dirname(folder));
  const step = /^step-(\d{6,})$/.exec(basename(folder))?.[1];
  const isCheckpoint = basename(dirname(folder)) === runFiles.checkpoints && (await isRun(run));
  if (step !== undefined && isCheckpoint && !(await readdir(folder)).includes(cardFiles.card)) {
    await writeModelCard(run, Number(step));
  }
  return folder;
}
