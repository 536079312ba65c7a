/** A local HTTP server for tests. It reads requests with their whole body and answers in JSON. */
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { gunzipSync } from "node:zlib";

export interface SmallRequest {
  readonly method: string;
  readonly url: URL;
  readonly headers: IncomingMessage["headers"];
  readonly body: Buffer;
}

export interface SmallAnswer {
  readonly status?: number;
  readonly json?: unknown;
}

export interface SmallServer {
  readonly address: string;
  /**
   * Simulated faults: `status` is the answer to every request; with `away`, connections are closed without an answer.
   */
  faults: { status?: number; away?: boolean };
  close(): Promise<void>;
}

export async function startServer(answer: (request: SmallRequest) => SmallAnswer): Promise<SmallServer> {
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    if (small.faults.away) return void response.destroy();
    const raw = Buffer.concat(chunks);
    const body = request.headers["content-encoding"] === "gzip" ? gunzipSync(raw) : raw;
    const url = new URL(request.url ?? "/", small.address);
    const { status: fault } = small.faults;
    const { status = 200, json = {} } =
      fault === undefined
        ? answer({ method: request.method ?? "GET", url, headers: request.headers, body })
        : { status: fault, json: { message: "simulated fault" } };
    response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(json));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const small: SmallServer = {
    address: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    faults: {},
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return small;
}
