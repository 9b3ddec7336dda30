"""redis-py: both protocols, pipelines, transactions, locks without scripts, publish and subscribe, blocking, scanning."""

import threading

import redis
from redis.exceptions import ResponseError, WatchError

from checks import HOST, PORT, end, same

for protocol in (2, 3):
    r = redis.Redis(HOST, PORT, protocol=protocol, decode_responses=True)
    r.flushall()
    same(r.ping(), True)
    same(r.set("k", "v", ex=100, nx=True), True)
    same(r.set("k", "w", nx=True), None)
    same(r.get("k"), "v")
    same(0 < r.ttl("k") <= 100, True)
    same(r.incrby("n", 5), 5)
    same(r.mset({"a": 1, "b": 2}), True)
    same(r.mget(["a", "b", "none"]), ["1", "2", None])
    same(r.hset("h", mapping={"x": 1, "y": 2}), 2)
    same(r.hgetall("h"), {"x": "1", "y": "2"})
    same(r.rpush("l", "a", "b", "c"), 3)
    same(r.lrange("l", 0, -1), ["a", "b", "c"])
    same(r.lpos("l", "b"), 1)
    same(r.sadd("s", "a", "b"), 2)
    same(set(r.smembers("s")), {"a", "b"})
    same(r.zadd("z", {"a": 1.5, "b": 2}), 2)
    same([tuple(pair) for pair in r.zrange("z", 0, -1, withscores=True)], [("a", 1.5), ("b", 2.0)])
    same(r.zscore("z", "a"), 1.5)
    same(r.setbit("bits", 7, 1), 0)
    same(r.bitcount("bits"), 1)
    same(r.type("z"), "zset")
    same(sorted(r.scan_iter(count=2)), sorted(["k", "n", "a", "b", "h", "l", "s", "z", "bits"]))
    same(r.object("encoding", "n"), "int")
    try:
        r.incr("h")
        raise AssertionError("a hash was counted")
    except ResponseError as error:
        same(str(error).startswith("WRONGTYPE") or "wrong kind" in str(error), True)
    with r.pipeline() as pipe:
        pipe.set("p", 1).incr("p").get("p")
        same(pipe.execute(), [True, 2, "2"])
    with r.pipeline() as pipe:
        pipe.watch("p")
        r.set("p", 9)
        pipe.multi()
        pipe.set("p", 10)
        try:
            pipe.execute()
            raise AssertionError("a watched key was changed unseen")
        except WatchError:
            same(r.get("p"), "9")
    listener = r.pubsub(ignore_subscribe_messages=True)
    listener.subscribe("news")
    listener.psubscribe("ne*")
    while listener.get_message(timeout=5) is None and len(r.pubsub_numsub("news")) == 0:
        pass
    same(r.publish("news", "hello"), 2)
    found = []
    while len(found) < 2:
        message = listener.get_message(timeout=5)
        if message:
            found.append((message["type"], message["data"]))
    same(sorted(found), [("message", "hello"), ("pmessage", "hello")])
    listener.close()
    threading.Thread(target=lambda: redis.Redis(HOST, PORT).rpush("queue", "job")).start()
    same(r.blpop(["queue"], timeout=10), ("queue", "job") if protocol == 2 else ["queue", "job"])
    same(r.blpop(["queue"], timeout=0.05), None)
    same(r.client_setname("me"), True)
    same(r.client_getname(), "me")
    same(any(client["name"] == "me" for client in r.client_list()), True)
    same(r.config_get("appendfsync")["appendfsync"] in ("always", "everysec", "no"), True)
    same(r.info("server")["redis_mode"], "standalone")
    same(r.command_count() > 150, True)
    same(r.dbsize() > 5, True)
    large = "x" * 5_000_000
    same(r.set("large", large), True)
    same(r.get("large") == large, True)
    same(r.copy("k", "k2"), True)
    same(r.getex("k2", persist=True), "v")
    same(r.expiretime("k2"), -1)
    r.close()
end()
