"""What a well-behaved paho client does, in the version that MQTT_VERSION names."""

from common import TOKEN, V5, Client

NO_SUBSCRIBER = 0x10 if V5 else 0x00

receiver = Client("paho-receiver", certificate="device-1").connect()
assert receiver.subscribe(("lab/p/+", 2), ("lab/end", 1)) == [2, 1]
sender = Client("paho-sender", password=TOKEN).connect()

for qos in (0, 1, 2):
    payload = f"hello {qos}".encode()
    assert sender.publish("lab/p/x", payload, qos) == 0
    message = receiver.message()
    assert (message.topic, message.payload, message.qos) == ("lab/p/x", payload, qos)
assert sender.publish("lab/nobody", b"", 1) == NO_SUBSCRIBER

# Retained: for who comes later.
assert sender.publish("lab/r", b"kept", 1, retain=True) in (0, 0x10)
late = Client("paho-late", certificate="device-2").connect()
late.subscribe(("lab/r", 1))
message = late.message()
assert message.retain and message.payload == b"kept"
sender.publish("lab/r", b"", 1, retain=True)
assert late.message().payload == b""
late.disconnect()

# A will, when the network is lost.
receiver.subscribe(("lab/will", 1))
doomed = Client("paho-doomed", certificate="device-2", will=("lab/will", b"gone", 1, False))
doomed.connect().lose()
assert receiver.message().payload == b"gone"

# A persistent session keeps what came while its client was away.
keeper = Client("paho-keeper", certificate="device-2", persistent=True).connect()
assert not keeper.session_present
keeper.subscribe(("lab/k", 2))
keeper.disconnect()
for qos in (1, 2):
    assert sender.publish("lab/k", f"kept {qos}".encode(), qos) == 0
keeper = Client("paho-keeper", certificate="device-2", persistent=True).connect()
assert keeper.session_present
assert [keeper.message().payload for _ in range(2)] == [b"kept 1", b"kept 2"]
keeper.disconnect()
Client("paho-keeper", certificate="device-2").connect().disconnect()

sender.disconnect()
receiver.disconnect()
print("ok")
