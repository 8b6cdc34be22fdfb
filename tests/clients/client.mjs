// An HTTP client with a connection pool that obeys lines on stdin, as agt-workload does: `N get URL` through
// http.Agent, `N fetch URL` through undici's own pool.
//
// keepAliveMsecs is 60 s, as SDKs set it: Node's own default of 1 s would keep a forgetful NAT awake by itself.
import http from "node:http";
import https from "node:https";
import readline from "node:readline";

const options = { keepAlive: true, keepAliveMsecs: 60_000, maxSockets: 1, rejectUnauthorized: false };
const agents = { "http:": new http.Agent(options), "https:": new https.Agent(options) };
const say = (fields) => process.stdout.write(JSON.stringify(fields) + "\n");

function get(op, url) {
  const { protocol } = new URL(url);
  const failed = (e) => say({ op, ok: false, errno: e.code ?? "other", error: String(e) });
  const request = (protocol === "https:" ? https : http).get(url, { agent: agents[protocol] }, (response) => {
    response.on("error", failed);
    response.on("end", () => say({ op, ok: true, status: response.statusCode, reused: request.reusedSocket }));
    response.resume();
  });
  request.on("error", failed);
}

async function viaFetch(op, url) {
  try {
    const response = await fetch(url);
    await response.text();
    say({ op, ok: true, status: response.status });
  } catch (e) {
    say({ op, ok: false, errno: e.cause?.code ?? e.code ?? "other", error: String(e.cause ?? e) });
  }
}

say({ event: "ready", pid: process.pid });
readline
  .createInterface({ input: process.stdin })
  .on("line", (line) => {
    const [op, verb, url] = line.split(" ");
    if (verb === "fetch") viaFetch(op, url);
    else get(op, url);
  })
  .on("close", () => process.exit(0));
