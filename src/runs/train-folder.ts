/** Trains in a run folder: writes it, sends the metrics to the run's trackers, and ends both when training fails. */
import { singleProcess } from "../cluster/index.js";
import { observers, type TrainObserver, type TrainOptions, type TrainResult, train } from "../train/index.js";
import { writeReport } from "./report/index.js";
import type { RunFolder } from "./run-folder.js";
import { Trackers } from "./trackers/index.js";

export interface TrainFolderOptions extends Omit<TrainOptions, "resume"> {
  /** Called with each event after the folder and the trackers have it. */
  readonly observer?: TrainObserver;
  /** Called with each warning of a tracker. */
  readonly warn?: (message: string) => void;
  /** Called with each message, such as the address of a tracker's page. */
  readonly tell?: (message: string) => void;
}

export interface FolderResult {
  readonly result: TrainResult;
  /** The pages or folders of the trackers, by the tracker's name. */
  readonly trackers: Trackers["places"];
}

/** Trains until the run ends. With several ranks, only rank 0 writes the folder and calls the callbacks. */
export async function trainInFolder(
  run: RunFolder,
  { observer = () => {}, warn = () => {}, tell = () => {}, onFetch, ...options }: TrainFolderOptions = {},
): Promise<FolderResult> {
  const { settings, resumeFrom: resume } = run;
  const { cluster = singleProcess() } = options;
  if (cluster.rank > 0) return { result: await train(settings, () => {}, { ...options, resume }), trackers: {} };
  const trackers = await Trackers.open(run, { warn, tell });
  try {
    const all = observers(run.observe, trackers.observe, observer);
    const result = await train(settings, all, { ...options, resume, onFetch });
    return { result, trackers: trackers.places };
  } catch (error) {
    if (run.started) await reportSoFar(run, tell);
    await trackers.end("failed");
    throw error;
  }
}

async function reportSoFar(run: RunFolder, tell: (message: string) => void): Promise<void> {
  try {
    await writeReport(run.path);
    tell(`report so far: ${run.report}`);
  } catch {
    // The error that ended the run matters more.
  }
}
