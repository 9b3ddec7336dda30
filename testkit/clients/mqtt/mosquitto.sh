#!/usr/bin/env bash
# mosquitto_pub and mosquitto_sub: QoS 0, 1 and 2, retained, will, resume, MQTT 3.1.1 and 5.
set -euo pipefail
checks=0
ok() { checks=$((checks + 1)); }
same() { [ "$1" = "$2" ] || { echo "expected '$2', found '$1': $3"; exit 1; }; ok; }
at=(-h "$HOST" -p "$PORT" -u "$MQTT_USER" -P "$MQTT_PASSWORD")
for version in mqttv311 mqttv5; do
  as=("${at[@]}" -V "$version")
  topic="clients/$version"
  # Retained, at every QoS; the last one stays.
  for qos in 0 1 2; do mosquitto_pub "${as[@]}" -q "$qos" -r -t "$topic/kept" -m "kept $qos"; done
  same "$(mosquitto_sub "${as[@]}" -q 1 -t "$topic/kept" -C 1 -W 10)" "kept 2" "retained"
  mosquitto_pub "${as[@]}" -r -n -t "$topic/kept"
  same "$(mosquitto_sub "${as[@]}" -t "$topic/kept" -C 1 -W 1 || true)" "" "a retained message is cleared"
  # A session that is kept gets what came meanwhile, in order.
  keep=(-i "resume-$version" -q 1 -t "$topic/line")
  if [ "$version" = mqttv5 ]; then keep+=(-c -x 3600); else keep+=(-c); fi
  mosquitto_sub "${as[@]}" "${keep[@]}" -E
  for number in 1 2 3; do mosquitto_pub "${as[@]}" -q 2 -t "$topic/line" -m "line $number"; done
  same "$(mosquitto_sub "${as[@]}" "${keep[@]}" -C 3 -W 10 | tr '\n' ' ')" "line 1 line 2 line 3 " "resume"
  # A will is sent when its client is killed.
  mosquitto_sub "${as[@]}" -i "mourner-$version" -t "$topic/will" -q 1 -C 1 -W 60 > "$FOLDER/will-$version" &
  mourner=$!
  # It has its will in the server once it hears what is kept; the will is kept too, whenever the mourner comes.
  mosquitto_pub "${as[@]}" -r -t "$topic/life" -m alive
  mosquitto_sub "${as[@]}" -i "mortal-$version" -k 5 -t "$topic/life" --will-topic "$topic/will" --will-payload gone --will-qos 1 --will-retain > "$FOLDER/life-$version" &
  mortal=$!
  until [ -s "$FOLDER/life-$version" ]; do sleep 0.1; kill -0 "$mortal"; done
  kill -9 "$mortal"
  wait "$mourner"
  same "$(cat "$FOLDER/will-$version")" "gone" "will"
done
# A wrong secret is refused.
if mosquitto_pub -h "$HOST" -p "$PORT" -u "$MQTT_USER" -P wrong -t clients/x -m x 2> "$FOLDER/refused"; then exit 1; fi
ok
echo "ok $checks checks"
