# redis-benchmark: every test that it has but the ones for what is not there.
set -eu
checks=0
known=$(redis-cli -h "$HOST" -p "$PORT" COMMAND LIST)
for pipeline in 1 16; do
  said=$(redis-benchmark -h "$HOST" -p "$PORT" -n 2000 -c 20 -P "$pipeline" -r 1000 --csv \
    -t ping,set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd,zpopmin,lrange,mset 2>&1)
  if echo "$said" | grep -qi error; then echo "$said"; exit 1; fi
  lines=$(echo "$said" | grep -c '^"')
  if [ "$lines" -lt 19 ]; then echo "only $lines lines"; echo "$said"; exit 1; fi
  checks=$((checks + lines - 1))
done
redis-benchmark -h "$HOST" -p "$PORT" -n 2000 -c 20 -3 -t set,get -q > /dev/null
echo "ok $checks checks"
