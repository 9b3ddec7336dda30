-- The world of scripts: what they may name, and nothing that lasts from one to the next.
-- `modules` are functions of the server.
local modules = ...

local error, type, tostring, pairs, rawget, rawset, select, setmetatable, getmetatable =
    error, type, tostring, pairs, rawget, rawset, select, setmetatable, getmetatable
local loadstring, setfenv, pcall, xpcall, concat, sub, byte =
    loadstring, setfenv, pcall, xpcall, table.concat, string.sub, string.byte
local resume, unpack, seen = coroutine.resume, unpack, modules.seen

local READONLY = 'Attempt to modify a readonly table'
local protected = setmetatable({}, { __mode = 'k' })

local function refuse()
    error(READONLY, 2)
end

-- A view of a table that cannot be changed.
local function readonly(inner)
    local view = setmetatable({}, { __index = inner, __newindex = refuse, __metatable = false })
    protected[view] = inner
    return view
end

-- What is seen as the metatable of a view.
local sealed = readonly({})

local redis = {
    call = modules.call,
    pcall = modules.pcall,
    acl_check_cmd = modules.may,
    setresp = modules.setresp,
    sha1hex = modules.sha1hex,
    log = modules.log,
}

-- `CODE text` of what an error is made from: `-CODE text`, `-text` or `text`.
local function error_text(text)
    if sub(text, 1, 1) == '-' then
        text = sub(text, 2)
        if not text:find(' ', 1, true) then
            return 'ERR ' .. text
        end
        return text
    end
    return 'ERR ' .. text
end

function redis.error_reply(...)
    local text = ...
    if select('#', ...) ~= 1 or type(text) ~= 'string' then
        return { err = 'ERR wrong number or type of arguments' }
    end
    if sub(text, 1, 1) ~= '-' then
        text = '-' .. text
    end
    return { err = error_text(text) }
end

function redis.status_reply(...)
    local text = ...
    if select('#', ...) ~= 1 or type(text) ~= 'string' then
        return { err = 'ERR wrong number or type of arguments' }
    end
    return { ok = text }
end

local function raise(text)
    error({ err = 'ERR ' .. text }, 0)
end

function redis.set_repl(...)
    local what = ...
    if select('#', ...) ~= 1 then
        raise('redis.set_repl() requires one argument.')
    elseif type(what) ~= 'number' or what < 0 or what > 3 then
        raise('Invalid replication flags. Please use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.')
    elseif what ~= 3 then
        -- Whatever changes is in the log: the choice is not there.
        raise('redis.set_repl() can only be redis.REPL_ALL here.')
    end
end

function redis.replicate_commands()
    return true
end

function redis.breakpoint()
    return false
end

function redis.debug() end

redis.LOG_DEBUG, redis.LOG_VERBOSE, redis.LOG_NOTICE, redis.LOG_WARNING = 0, 1, 2, 3
redis.REPL_NONE, redis.REPL_SLAVE, redis.REPL_REPLICA, redis.REPL_AOF, redis.REPL_ALL = 0, 2, 2, 1, 3
redis.REDIS_VERSION, redis.REDIS_VERSION_NUM = modules.version, 0x0007000f

-- What was caught; what ends the script goes on.
local function caught(is_done, ...)
    if is_done then
        return true, ...
    end
    local reason, is_end = seen((...))
    if is_end then
        error(reason, 0)
    end
    return false, reason
end

local function as_text(is_done, ...)
    if is_done then
        return true, ...
    end
    local reason = ...
    local text = type(reason) == 'table' and rawget(reason, 'err')
    if type(text) == 'string' then
        return false, text
    end
    return false, reason
end

local coroutine_copy = {}
for name, value in pairs(coroutine) do
    coroutine_copy[name] = value
end
function coroutine_copy.resume(...)
    return caught(resume(...))
end

local math_copy = {}
for name, value in pairs(math) do
    math_copy[name] = value
end
math_copy.randomseed = modules.seed
local chance, floor = modules.chance, math.floor
function math_copy.random(...)
    local count, low, high = select('#', ...), ...
    if count == 0 then
        return chance()
    elseif count == 1 then
        low, high = 1, low
    elseif count > 2 then
        error('wrong number of arguments', 2)
    end
    low, high = floor(low), floor(high)
    if low > high then
        error("bad argument #" .. count .. " to 'random' (interval is empty)", 2)
    end
    return low + floor(chance() * (high - low + 1))
end

local string_copy = {}
for name, value in pairs(string) do
    string_copy[name] = value
end

-- Patterns are matched by the server, with a look at the clock.
local next_match = modules.patterns.next
string_copy.find, string_copy.match = modules.patterns.find, modules.patterns.match
string_copy.gsub = modules.patterns.gsub

local function as_pattern(value, at, name)
    if type(value) == 'number' then
        return tostring(value)
    elseif type(value) ~= 'string' then
        local found = value == nil and 'no value' or type(value)
        error('bad argument #' .. at .. " to '" .. name .. "' (string expected, got " .. found .. ')', 3)
    end
    return value
end

function string_copy.gmatch(text, pattern)
    text, pattern = as_pattern(text, 1, 'gmatch'), as_pattern(pattern, 2, 'gmatch')
    local from = 1
    local function captures(first, last, ...)
        if first then
            from = last >= first and last + 1 or first + 1
            return ...
        end
    end
    return function()
        return captures(next_match(text, pattern, from))
    end
end
string_copy.gfind = string_copy.gmatch

getmetatable('').__index = string_copy
getmetatable('').__metatable = false

local names = {
    _VERSION = _VERSION,
    assert = assert,
    bit = readonly(modules.bit),
    cjson = readonly(modules.cjson),
    cmsgpack = readonly(modules.cmsgpack),
    coroutine = readonly(coroutine_copy),
    error = error,
    gcinfo = gcinfo,
    ipairs = ipairs,
    math = readonly(math_copy),
    next = next,
    os = readonly({ clock = os.clock }),
    rawequal = rawequal,
    select = select,
    string = readonly(string_copy),
    struct = readonly(modules.struct),
    table = readonly(table),
    tonumber = tonumber,
    tostring = tostring,
    type = type,
}

-- Views are looked through where a script can ask for the whole of a table.
function names.pairs(object)
    return pairs(protected[object] or object)
end

function names.rawget(object, key)
    return rawget(protected[object] or object, key)
end

function names.rawset(object, key, value)
    if protected[object] then
        error(READONLY, 2)
    end
    return rawset(object, key, value)
end

function names.pcall(...)
    return as_text(caught(pcall(...)))
end

function names.xpcall(body, handle)
    return caught(xpcall(body, function(reason)
        local reason, is_end = seen(reason)
        if is_end then
            return reason
        end
        return handle(reason)
    end))
end

-- The server has room for so many values of Lua at once; numbers take none.
local VALUES_MAX = 7500

function names.unpack(list, from, to, ...)
    local first, last = from or 1, to or #list
    if last - first >= VALUES_MAX then
        local count = 0
        for at = first, last do
            if type(list[at]) ~= 'number' then
                count = count + 1
            end
            if count > VALUES_MAX then
                error('too many results to unpack', 2)
            end
        end
    end
    return unpack(list, first, last)
end

-- What would last beyond the script is not done.
function names.collectgarbage(what, ...)
    if what == nil or what == 'collect' or what == 'count' or what == 'step' then
        return collectgarbage(what, ...)
    end
    return 0
end

function names.getmetatable(object)
    if type(object) == 'string' then
        return nil
    elseif protected[object] then
        return sealed
    end
    return getmetatable(object)
end

function names.setmetatable(object, meta)
    if protected[object] then
        error(READONLY, 2)
    end
    return setmetatable(object, meta)
end

local function nothing(name)
    error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 3)
end

-- What scripts see as their globals: `globals` gives the table of the moment.
local function world(globals)
    local view = setmetatable({}, {
        __index = function(_, name)
            local value = rawget(globals(), name)
            if value == nil then
                nothing(name)
            end
            return value
        end,
        __newindex = refuse,
        __metatable = false,
    })
    local function load_text(text, name)
        if byte(text, 1) == 27 then
            return nil, 'attempt to load chunk with wrong mode'
        end
        local chunk, reason = loadstring(text, name)
        if chunk then
            setfenv(chunk, view)
        end
        return chunk, reason
    end
    return view, load_text
end

-- All globals beside the view that scripts have of them.
local function filled(extra)
    local all = {}
    for name, value in pairs(names) do
        all[name] = value
    end
    local view, load_text = world(function()
        return all
    end)
    protected[view] = all
    all._G = view
    all.redis = extra
    all.loadstring = function(text, name)
        return load_text(tostring(text), name or tostring(text))
    end
    all.load = function(reader, name)
        local parts = {}
        for part in reader do
            if part == '' then
                break
            end
            parts[#parts + 1] = part
        end
        return load_text(concat(parts), name or '=(load)')
    end
    return all, load_text
end

local script_redis = readonly(redis)
local script_globals, compile = filled(script_redis)
local function_globals = filled(script_redis)

-- What an error is for the client: a table with its text and where it came from.
local function explain(reason)
    local reason, is_end = seen(reason)
    if is_end then
        return reason
    end
    if type(reason) ~= 'table' then
        reason = { err = 'ERR ' .. tostring(reason) }
    end
    local source, line = modules.where()
    rawset(reason, 'source', source)
    rawset(reason, 'line', line)
    return reason
end

local function run(body, keys, args)
    script_globals.KEYS, script_globals.ARGV = keys, args
    local is_done, result = xpcall(body, explain)
    script_globals.KEYS, script_globals.ARGV = nil, nil
    return is_done, result
end

local function run_function(body, keys, args)
    return xpcall(function()
        return body(keys, args)
    end, explain)
end

-- What the code of a library sees while it says which functions it has.
local loading = {
    register_function = modules.register,
    log = redis.log,
    REDIS_VERSION = redis.REDIS_VERSION,
    REDIS_VERSION_NUM = redis.REDIS_VERSION_NUM,
}
for _, name in pairs({ 'LOG_DEBUG', 'LOG_VERBOSE', 'LOG_NOTICE', 'LOG_WARNING' }) do
    loading[name] = redis[name]
end
local loading_globals = {
    redis = setmetatable({}, {
        __index = function(_, name)
            local value = loading[name]
            if value == nil then
                nothing(name)
            end
            return value
        end,
        __newindex = refuse,
        __metatable = false,
    }),
}
protected[loading_globals.redis] = loading

-- Runs the code of a library.
local function load_library(code)
    local now = loading_globals
    local _, compile_library = world(function()
        return now
    end)
    local chunk, reason = compile_library(code, '@user_function')
    if not chunk then
        return false, { err = 'ERR Error compiling function: ' .. tostring(reason) }
    end
    local is_done, result = pcall(chunk)
    now = function_globals
    if is_done then
        return true
    end
    local reason, is_end = seen(result)
    return false, is_end and result or reason
end

return {
    compile = function(code)
        return compile(code, '@user_script')
    end,
    run = run,
    run_function = run_function,
    load_library = load_library,
}
