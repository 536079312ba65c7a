/** The table of parity/onnx_nodes.md. */

export type Outcome =
  | { readonly kind: "right" }
  | { readonly kind: "restricted"; readonly reason: string }
  | { readonly kind: "refused"; readonly reason: string }
  | { readonly kind: "wrong"; readonly reason: string };

/** Lines of Markdown: totals, then each operator's counts and the reasons of what is not right. */
export function table(
  rows: readonly { readonly test: string; readonly outcome: Outcome }[],
  version: string,
): string[] {
  const count = (kind: Outcome["kind"]) => rows.filter(({ outcome }) => outcome.kind === kind).length;
  const list = (kind: Exclude<Outcome["kind"], "right">) => {
    const reasons = new Map<string, string[]>();
    for (const { test, outcome } of rows) {
      if (outcome.kind !== kind || !("reason" in outcome)) continue;
      reasons.set(outcome.reason, [...(reasons.get(outcome.reason) ?? []), test.replace(/^test_/, "")]);
    }
    return [...reasons]
      .sort(([, a], [, b]) => b.length - a.length)
      .map(
        ([reason, tests]) =>
          `| ${tests.length} | ${reason.replaceAll("|", "\\|").slice(0, 300)} | ${tests.join(" ")} |`,
      );
  };
  const heading = ["| tests | reason | names |", "| ---: | --- | --- |"];
  return [
    "# The node tests of the ONNX project",
    "",
    `Package onnx ${version}, ${rows.length} tests. Made by \`parity/onnx_nodes.py\` and \`parity/onnx_nodes.ts\`.`,
    "",
    `| right | right with a restriction | refused | wrong |`,
    "| ---: | ---: | ---: | ---: |",
    `| ${count("right")} | ${count("restricted")} | ${count("refused")} | ${count("wrong")} |`,
    ...(["wrong", "restricted", "refused"] as const).flatMap((kind) => [
      "",
      `## ${kind}`,
      "",
      ...heading,
      ...list(kind),
    ]),
  ];
}
