// An HTTP/1.1 server with Node's own idle limit: node_server.mjs ADDRESS PORT KEEP_ALIVE_MS
import http from "node:http";

const [address, port, keepAlive] = process.argv.slice(2);
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const server = http.createServer((_, answer) => answer.end("ok"));
server.keepAliveTimeout = Number(keepAlive);
server.listen(Number(port), address, () => say({ event: "ready", pid: process.pid }));
process.stdin.on("end", () => process.exit(0)).resume();
