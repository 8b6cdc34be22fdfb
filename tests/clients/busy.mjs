// A busy HTTP server or its client, obeying lines on stdin as agt-workload does: `N serve PORT`, and
// `N load PORT CONNECTIONS`, which keeps that many connections open and asks on all of them again and again until
// `N stop`. The server keeps libuv's worker threads busy beside its event loop.
import { readFile } from "node:fs";
import http from "node:http";
import readline from "node:readline";
import { deflate } from "node:zlib";

const say = (fields) => process.stdout.write(JSON.stringify(fields) + "\n");

function serve(op, port) {
  const block = Buffer.alloc(100_000, "x");
  setInterval(() => deflate(block, () => {}), 5);
  const server = http.createServer((_, response) => {
    readFile("/proc/self/comm", (e, text) => (e ? response.destroy(e) : response.end(text)));
  });
  server.keepAliveTimeout = 600_000;
  server.listen(port, "127.0.0.1", () => say({ op, ok: true, port: server.address().port }));
}

let stopped = false;

async function load(op, port, connections) {
  let [requests, errors, slowest] = [0, 0, 0];
  const ask = (agent) =>
    new Promise((done) => {
      const begun = performance.now();
      const end = (failed) => {
        requests += 1;
        errors += failed ? 1 : 0;
        slowest = Math.max(slowest, performance.now() - begun);
        done();
      };
      http
        .get({ port, host: "127.0.0.1", agent }, (response) => {
          response.on("end", () => end(response.statusCode !== 200)).resume();
        })
        .on("error", () => end(true));
    });
  const agents = Array.from({ length: connections }, () => new http.Agent({ keepAlive: true, maxSockets: 1 }));
  await Promise.all(agents.map(ask));
  say({ event: "loading" });
  while (!stopped) {
    await Promise.all(agents.map(ask));
  }
  agents.forEach((agent) => agent.destroy());
  say({ op, ok: true, requests, errors, slowest_ms: slowest });
}

say({ event: "ready", pid: process.pid });
readline
  .createInterface({ input: process.stdin })
  .on("line", (line) => {
    const [op, what, ...numbers] = line.split(" ");
    const stop = () => {
      stopped = true;
      say({ op, ok: true });
    };
    ({ serve, load, stop })[what](op, ...numbers.map(Number));
  })
  .on("close", () => process.exit(0));
