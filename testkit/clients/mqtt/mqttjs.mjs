// MQTT.js: QoS 2, retained, will, resume, over MQTT 3.1.1 and 5.
import assert from "node:assert/strict";
import mqtt from "mqtt";

let checks = 0;
const same = (found, expected) => {
  assert.deepEqual(found, expected);
  checks += 1;
};
const { HOST: host, PORT: port, MQTT_USER: username, MQTT_PASSWORD: password } = process.env;

const connect = async (clientId, more = {}) => {
  const client = await mqtt.connectAsync({ host, port: Number(port), username, password, clientId, reconnectPeriod: 0, ...more });
  client.heard = [];
  client.waiting = [];
  return client;
};
const listen = (client) =>
  client.on("message", (_topic, payload, packet) => {
    const one = [payload.toString(), packet.retain];
    const wanted = client.waiting.shift();
    if (wanted) wanted(one);
    else client.heard.push(one);
  });
const hear = (client) =>
  new Promise((resolve, reject) => {
    if (client.heard.length > 0) return resolve(client.heard.shift());
    client.waiting.push(resolve);
    setTimeout(() => reject(new Error("heard nothing")), 10_000).unref();
  });

for (const protocolVersion of [4, 5]) {
  const topic = `clients/js-${protocolVersion}`;
  const first = await connect(`js-${protocolVersion}-first`, { protocolVersion });
  const second = await connect(`js-${protocolVersion}-second`, { protocolVersion });
  listen(second);
  await first.publishAsync(`${topic}/kept`, "kept", { qos: 2, retain: true });
  await second.subscribeAsync(`${topic}/kept`, { qos: 2 });
  same(await hear(second), ["kept", true]);
  await second.subscribeAsync(`${topic}/line`, { qos: 1 });
  await Promise.all(Array.from({ length: 50 }, (_, number) => first.publishAsync(`${topic}/line`, String(number), { qos: 2 })));
  const heard = [];
  for (let number = 0; number < 50; number += 1) heard.push(Number((await hear(second))[0]));
  same(heard, Array.from({ length: 50 }, (_, number) => number));
  const kept = { protocolVersion, clean: false, properties: protocolVersion === 5 ? { sessionExpiryInterval: 3600 } : undefined };
  const late = await connect(`js-${protocolVersion}-late`, kept);
  await late.subscribeAsync(`${topic}/late`, { qos: 1 });
  await late.endAsync();
  for (const text of ["a", "b", "c"]) await first.publishAsync(`${topic}/late`, text, { qos: 1 });
  const again = mqtt.connect({ host, port: Number(port), username, password, clientId: `js-${protocolVersion}-late`, reconnectPeriod: 0, ...kept });
  Object.assign(again, { heard: [], waiting: [] });
  listen(again);
  const present = await new Promise((resolve) => again.on("connect", (packet) => resolve(packet.sessionPresent)));
  same(present, true);
  same([(await hear(again))[0], (await hear(again))[0], (await hear(again))[0]], ["a", "b", "c"]);
  await second.subscribeAsync(`${topic}/will`, { qos: 1 });
  const mortal = await connect(`js-${protocolVersion}-mortal`, { protocolVersion, will: { topic: `${topic}/will`, payload: "gone", qos: 1, retain: false } });
  mortal.stream.destroy();
  same(await hear(second), ["gone", false]);
  for (const client of [first, second, again]) await client.endAsync();
}
console.log(`ok ${checks} checks`);
