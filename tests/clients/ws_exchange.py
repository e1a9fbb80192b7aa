"""What paho does over WebSocket, in both versions."""

import os
import queue

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

PATIENCE = 30


def without_origin(headers):
    return {name: value for name, value in headers.items() if name != "Origin"}


# As it comes paho says an Origin of its own, which the broker takes for a web page's.
client = mqtt.Client(CallbackAPIVersion.VERSION2, transport="websockets")
client.ws_set_options(path="/mqtt")
if "MQTT_CA" in os.environ:
    client.tls_set(os.environ["MQTT_CA"])
try:
    client.connect("127.0.0.1", int(os.environ["MQTT_PORT"]))
    raise AssertionError("an Origin that is not listed is let in")
except mqtt.WebsocketConnectionError as error:
    assert "not upgraded" in str(error), error

for version in (mqtt.MQTTv311, mqtt.MQTTv5):
    connects, subacks, messages = queue.Queue(), queue.Queue(), queue.Queue()
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        client_id=f"paho-ws-{version}",
        protocol=version,
        transport="websockets",
        reconnect_on_failure=False,
    )
    client.ws_set_options(path="/mqtt", headers=without_origin)
    if "MQTT_CA" in os.environ:
        client.tls_set(os.environ["MQTT_CA"])
    client.username_pw_set(os.environ["MQTT_USER"], os.environ["MQTT_PASSWORD"])
    client.on_connect = lambda _c, _u, _f, code, _p: connects.put(code)
    client.on_subscribe = lambda _c, _u, _m, codes, _p: subacks.put(codes)
    client.on_message = lambda _c, _u, message: messages.put(message)
    client.connect("127.0.0.1", int(os.environ["MQTT_PORT"]))
    client.loop_start()
    assert not connects.get(timeout=PATIENCE).is_failure
    client.subscribe("lab/paho", 2)
    assert not subacks.get(timeout=PATIENCE)[0].is_failure
    for qos in (0, 1, 2):
        client.publish("lab/paho", b"x" * 70_000, qos)
        message = messages.get(timeout=PATIENCE)
        assert len(message.payload) == 70_000 and message.qos == qos
    client.disconnect()
    client.loop_stop()
print("ok")
