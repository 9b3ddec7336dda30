"""paho-mqtt: QoS 2, retained, will, resume, over MQTT 3.1.1 and 5."""

import os
import queue
import socket

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

checks = 0


def same(found, expected):
    global checks
    assert found == expected, f"expected {expected!r}, found {found!r}"
    checks += 1


class Person:
    def __init__(self, name, version, clean=True, will=None):
        self.heard, self.connected, self.subscribed = queue.Queue(), queue.Queue(), queue.Queue()
        options = {} if version == mqtt.MQTTv5 else {"clean_session": clean}
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, name, protocol=version, **options)
        self.client.username_pw_set(os.environ["MQTT_USER"], os.environ["MQTT_PASSWORD"])
        self.client.on_message = lambda _c, _u, message: self.heard.put((message.payload.decode(), message.retain))
        self.client.on_connect = lambda _c, _u, flags, reason, _p: self.connected.put((flags.session_present, reason.is_failure))
        self.client.on_subscribe = lambda *_: self.subscribed.put(True)
        if will:
            self.client.will_set(*will)
        more = {}
        if version == mqtt.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if clean else 3600
            more = {"clean_start": clean, "properties": properties}
        self.client.connect(os.environ["HOST"], int(os.environ["PORT"]), 30, **more)
        self.client.loop_start()
        self.present, failed = self.connected.get(timeout=10)
        same(failed, False)

    def subscribe(self, topic, qos):
        self.client.subscribe(topic, qos)
        self.subscribed.get(timeout=10)

    def publish(self, topic, text, qos, retain=False):
        self.client.publish(topic, text, qos, retain).wait_for_publish(10)

    def hear(self):
        return self.heard.get(timeout=10)

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()

    def die(self):
        self.client.loop_stop()
        self.client.socket().shutdown(socket.SHUT_RDWR)


for version, name in [(mqtt.MQTTv311, "paho-3"), (mqtt.MQTTv5, "paho-5")]:
    topic = f"clients/{name}"
    first = Person(f"{name}-first", version)
    second = Person(f"{name}-second", version)
    first.publish(f"{topic}/kept", "kept", 2, True)
    second.subscribe(f"{topic}/kept", 2)
    same(second.hear(), ("kept", True))
    second.subscribe(f"{topic}/line/+", 2)
    for number in range(100):
        first.publish(f"{topic}/line/{number % 3}", str(number), number % 3)
    same(sorted(int(second.hear()[0]) for _ in range(100)), list(range(100)))
    late = Person(f"{name}-late", version, clean=False)
    same(late.present, False)
    late.subscribe(f"{topic}/late", 1)
    late.leave()
    for number in range(10):
        first.publish(f"{topic}/late", str(number), 2)
    late = Person(f"{name}-late", version, clean=False)
    same(late.present, True)
    same([late.hear()[0] for _ in range(10)], [str(number) for number in range(10)])
    mortal = Person(f"{name}-mortal", version, will=(f"{topic}/will", "gone", 1, False))
    second.subscribe(f"{topic}/will", 1)
    mortal.die()
    same(second.hear(), ("gone", False))
    for person in (first, second, late):
        person.leave()
print(f"ok {checks} checks")
