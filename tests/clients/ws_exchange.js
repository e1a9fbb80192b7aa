// What mqtt.js does over WebSocket: every QoS in both versions, a large message, a bearer token.
//
// WS_URL names the broker; MQTT_USER and MQTT_PASSWORD, or MQTT_TOKEN for `Authorization: Bearer`.
"use strict";

const assert = require("node:assert");
const fs = require("node:fs");
const mqtt = require("mqtt");

const { WS_URL, MQTT_CA, MQTT_USER, MQTT_PASSWORD, MQTT_TOKEN } = process.env;

async function connect(protocolVersion, clientId) {
  const options = {
    protocolVersion,
    clientId,
    reconnectPeriod: 0,
    ...(MQTT_USER && { username: MQTT_USER, password: MQTT_PASSWORD }),
    wsOptions: {
      ...(MQTT_CA && { ca: fs.readFileSync(MQTT_CA) }),
      ...(MQTT_TOKEN && { headers: { Authorization: `Bearer ${MQTT_TOKEN}` } }),
    },
  };
  return mqtt.connectAsync(WS_URL, options);
}

async function exchange(version) {
  const client = await connect(version, `js-${version}`);
  const waiting = [];
  const arrived = [];
  client.on("message", (topic, payload, packet) => {
    const message = { topic, payload, qos: packet.qos };
    const next = waiting.shift();
    if (next) next(message);
    else arrived.push(message);
  });
  const message = () =>
    arrived.length > 0 ? arrived.shift() : new Promise((resolve) => waiting.push(resolve));

  const topic = `lab/js/${version}`;
  const granted = await client.subscribeAsync(topic, { qos: 2 });
  assert.strictEqual(granted[0].qos, 2);
  for (const qos of [0, 1, 2]) {
    await client.publishAsync(topic, `hello ${qos}`, { qos });
    const { topic: to, payload, qos: as } = await message();
    assert.deepStrictEqual([to, payload.toString(), as], [topic, `hello ${qos}`, qos]);
  }
  // Larger than one frame of the broker's.
  const large = Buffer.alloc(200_000, "x");
  await client.publishAsync(topic, large, { qos: 1 });
  assert.ok((await message()).payload.equals(large));
  await client.endAsync();
}

async function main() {
  for (const version of [4, 5]) await exchange(version);
  console.log("ok");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
