// OSCQuery clients not written here, for tests/test_osc_query.py: `oscquery` finds the server by zeroconf and reads its tree,
// `osc` (osc.js) listens and sets over the WebSocket. Prints one line of JSON for each thing that happened.
//     npm install oscquery osc;  NODE_PATH=node_modules node oscquery_client.js HTTP_PORT ADDRESS VALUE
const { OSCQueryDiscovery } = require("oscquery");
const osc = require("osc");

const [port, address, value] = [Number(process.argv[2]), process.argv[3], Number(process.argv[4])];
const tell = (what) => console.log(JSON.stringify(what));
const discovery = new OSCQueryDiscovery();

discovery.on("up", (service) => {
  if (service.port !== port) return;
  const node = service.resolvePath(address);
  tell({ found: service.hostInfo, methods: service.flat().length, range: node.serialize().RANGE[0], value: node.getValue(0) });
  const socket = new osc.WebSocketPort({ url: `ws://${service.hostInfo.wsIp}:${service.hostInfo.wsPort}/`, metadata: true });
  socket.on("ready", () => {
    socket.socket.send(JSON.stringify({ COMMAND: "LISTEN", DATA: address }));
    socket.send({ address, args: [{ type: "f", value }] });
  });
  socket.on("message", (message) => tell(message));
  socket.open();
});
discovery.on("error", (error) => tell({ error: String(error) }));
process.on("uncaughtException", (error) => { tell({ error: String(error) }); process.exit(1); });
setTimeout(() => process.exit(1), 30000);
discovery.start();
