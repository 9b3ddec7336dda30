-- Keeps an answer within an organisation's limits. An answer's size stands in `sizes`, and when it ends in `ends`; what
-- ends first goes when there is no room.
local key, ends, sizes = KEYS[1], KEYS[2], KEYS[3]
local name, value = ARGV[1], ARGV[2]
local now, lasts, until_time = tonumber(ARGV[3]), ARGV[4], ARGV[5]
local entries_max, bytes_max, index_lasts = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local AT_ONCE = 64
local place = string.sub(key, 1, -1 - #name)

-- One of the two may have been evicted: then the other says nothing that is true.
if redis.call('EXISTS', ends, sizes) == 1 then
    redis.call('DEL', ends, sizes)
end

local function drop(one)
    local size = redis.call('HGET', sizes, one)
    if size then
        redis.call('HDEL', sizes, one)
        redis.call('HINCRBY', sizes, 'total', -size)
    end
    redis.call('ZREM', ends, one)
    redis.call('DEL', place .. one)
end

drop(name)
for _, one in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, AT_ONCE)) do
    drop(one)
end
local size = #value + #name
local function has_room()
    local total = tonumber(redis.call('HGET', sizes, 'total') or 0)
    return redis.call('ZCARD', ends) < entries_max and total + size <= bytes_max
end
for _ = 1, AT_ONCE do
    if has_room() then
        break
    end
    local first = redis.call('ZRANGE', ends, 0, 0)[1]
    if not first then
        break
    end
    drop(first)
end
if not has_room() then
    return 0
end
redis.call('SET', key, value, 'PX', lasts)
redis.call('ZADD', ends, until_time, name)
redis.call('HSET', sizes, name, size)
redis.call('HINCRBY', sizes, 'total', size)
redis.call('PEXPIRE', ends, index_lasts)
redis.call('PEXPIRE', sizes, index_lasts)
return 1
