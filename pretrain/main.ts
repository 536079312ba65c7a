import { parseArgs } from "node:util";
import path from "node:path";
import { Runtime } from "../src/runtime/runtime.js";
import { loadIcons } from "./data/icons.js";
import { trainVae } from "./vae.js";

/** `npm run pretrain`: makes the embedded model and the embedded rewards, stage by stage; a killed run goes on. */
const { values } = parseArgs({ options: { state: { type: "string", default: ".pretrain" } } });
const folder = (stage: string) => path.join(values.state, stage);
const runtime = await Runtime.start();
const icons = await loadIcons();
await trainVae(runtime, icons, folder("vae"), 800, 1);
await runtime.close();
