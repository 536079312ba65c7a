/** All cases, in the order in which they are measured and shown. */
import type { Case } from "./case.js";
import { generateCase } from "./generate.js";
import { growthCase } from "./growth.js";
import { startupCases } from "./startup.js";
import { towerCases } from "./towers.js";
import { trainingCases } from "./training.js";
import { unetCases } from "./unet.js";

export const CASES: readonly Case[] = [
  ...trainingCases,
  growthCase,
  ...unetCases,
  ...towerCases,
  generateCase,
  ...startupCases,
];
