export {
  type Cluster,
  ClusterFailure,
  CollectiveError,
  orEnd,
  rankName,
  StopRequest,
  singleProcess,
  type WaitOptions,
} from "./cluster.js";
export { firstOnEachHost, together } from "./collective.js";
export { connect } from "./connect.js";
export { type Environment, launcherOf, libraryNames } from "./launcher.js";
export { gpuOf, threadShare } from "./placement.js";
export { shareOf } from "./share.js";
