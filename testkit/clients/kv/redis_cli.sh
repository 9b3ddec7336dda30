# redis-cli: one command, a pipe of many, the mass insertion mode, scanning, big keys, latency.
set -eu
checks=0
cli() { redis-cli -h "$HOST" -p "$PORT" "$@"; }
same() {
  if [ "$1" != "$2" ]; then echo "expected '$2', got '$1'"; exit 1; fi
  checks=$((checks + 1))
}
same "$(cli SET greeting 안녕)" OK
same "$(cli --raw GET greeting)" 안녕
same "$(cli -3 HGETALL nothing)" ""
same "$(printf 'SET a 1\nINCR a\nLPUSH l x y\n' | cli | tr '\n' ' ')" "OK 2 2 "
for number in $(seq 1 2000); do printf '*3\r\n$3\r\nSET\r\n$%d\r\nmass:%s\r\n$1\r\n1\r\n' $((5 + ${#number})) "$number"; done > "${TMPDIR:-/tmp}/mass.$$"
same "$(cli --pipe < "${TMPDIR:-/tmp}/mass.$$" | tail -1)" "errors: 0, replies: 2000"
rm "${TMPDIR:-/tmp}/mass.$$"
same "$(cli --scan --pattern 'mass:*' | sort -u | wc -l)" 2000
same "$(cli -x SET from-stdin < /dev/null)" OK
same "$(cli -n 3 SET only-here 1)" OK
same "$(cli EXISTS only-here)" 0
same "$(cli -r 3 INCR thrice | tail -1)" 3
same "$(cli MULTI)" OK
echo "ok $checks checks"
