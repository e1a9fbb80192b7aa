"""A paho client in the shape that the scripts here need: blocking calls with a time limit."""

import os
import queue
import ssl

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PATIENCE = 30
V5 = os.environ["MQTT_VERSION"] == "5.0"
PORT = int(os.environ["MQTT_PORT"])
PKI = os.environ["MQTT_PKI"]
TOKEN = os.environ["MQTT_TOKEN"]
EXPIRED_TOKEN = os.environ["MQTT_EXPIRED_TOKEN"]


class Client:
    """One connection; whatever comes from the broker goes to a queue of its kind."""

    def __init__(self, name, certificate=None, password=None, persistent=False, will=None):
        self.connects, self.messages, self.acks = queue.Queue(), queue.Queue(), queue.Queue()
        self.subacks, self.ends = queue.Queue(), queue.Queue()
        self.persistent = persistent
        options = {} if V5 else {"clean_session": not persistent}
        self.mqtt = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=mqtt.MQTTv5 if V5 else mqtt.MQTTv311,
            reconnect_on_failure=False,
            **options,
        )
        files = [f"{PKI}/{certificate}.{end}" for end in ("pem", "key")] if certificate else []
        context = ssl.create_default_context(cafile=f"{PKI}/ca.pem")
        if files:
            context.load_cert_chain(*files)
        self.mqtt.tls_set_context(context)
        if password is not None:
            self.mqtt.username_pw_set(name, password)
        if will is not None:
            self.mqtt.will_set(*will)
        self.mqtt.on_connect = lambda _c, _u, flags, code, _p: self.connects.put((flags, code))
        self.mqtt.on_message = lambda _c, _u, message: self.messages.put(message)
        self.mqtt.on_publish = lambda _c, _u, mid, code, _p: self.acks.put((mid, code))
        self.mqtt.on_subscribe = lambda _c, _u, _m, codes, _p: self.subacks.put(codes)
        self.mqtt.on_disconnect = lambda _c, _u, _f, code, _p: self.ends.put(code)

    def dial(self):
        """The CONNACK: flags and reason code."""
        options = {}
        if V5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 3600 if self.persistent else 0
            options = {"clean_start": not self.persistent, "properties": properties}
        self.mqtt.connect("127.0.0.1", PORT, keepalive=60, **options)
        self.mqtt.loop_start()
        return self.connects.get(timeout=PATIENCE)

    def connect(self):
        flags, code = self.dial()
        assert not code.is_failure, code
        self.session_present = flags.session_present
        return self

    def subscribe(self, *filters):
        """The codes of the SUBACK."""
        self.mqtt.subscribe(list(filters))
        return [code.value for code in self.subacks.get(timeout=PATIENCE)]

    def publish(self, topic, payload, qos, retain=False):
        """The reason code of the acknowledgement; of QoS 0 there is none."""
        sent = self.mqtt.publish(topic, payload, qos, retain)
        while True:
            mid, code = self.acks.get(timeout=PATIENCE)
            if mid == sent.mid:
                return code.value if qos else 0

    def message(self):
        return self.messages.get(timeout=PATIENCE)

    def disconnect(self):
        self.mqtt.disconnect()
        self.ends.get(timeout=PATIENCE)
        self.mqtt.loop_stop()

    def lose(self):
        """Closes the network connection without DISCONNECT."""
        self.mqtt.loop_stop()
        self.mqtt.socket().close()
