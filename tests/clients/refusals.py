"""What a paho client is told when the answer is no, in the version that MQTT_VERSION names."""

from common import EXPIRED_TOKEN, V5, Client

# paho translates the codes of 3.1.1 to those of 5.0.
BAD_CREDENTIALS = 0x86
DENIED = 0x87 if V5 else 0x80

for password in (None, "wrong", EXPIRED_TOKEN):
    _, code = Client("anna", password=password).dial()
    assert code.value == BAD_CREDENTIALS, code

# Somebody else's will is forbidden.
will = ("devices/device-2/telemetry", b"", 0, False)
_, code = Client("device-1", certificate="device-1", will=will).dial()
assert code.value == 0x87, code

device = Client("device-1", certificate="device-1").connect()
filters = [("lab/a", 1), ("devices/#", 1), ("#", 0), ("devices/device-1/commands", 2)]
assert device.subscribe(*filters) == [1, DENIED, DENIED, 2]
for qos in (1, 2):
    code = device.publish("devices/device-2/telemetry", b"", qos)
    # In 5.0 paho goes on after a PUBREC that ends the flow: what it hears of QoS 2 is that there
    # is none to release (0x92).
    assert code == (0x00 if not V5 else 0x87 if qos == 1 else 0x92), code
# The connection is still good for what is allowed.
assert device.publish("lab/a", b"hello", 1) == 0
assert device.message().payload == b"hello"
device.disconnect()
print("ok")
