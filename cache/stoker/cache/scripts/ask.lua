#!lua flags=allow-oom
-- ask.lua: note that a key's refresh was asked for, unless it was within the life of a lease.
-- KEYS[1] note of it   ARGV[1] server   ARGV[2] digest   ARGV[3] ms of a lease
-- Returns 0: it was; 1: it is now; 2: it is now, and what was asked for before is lost.
local now, lease = now_ms(), tonumber(ARGV[3])
local asked = tonumber(redis.call('GET', KEYS[1]) or '')
if asked and asked <= now and now - asked < lease then return 0 end
redis.call('SET', KEYS[1], string.format('%.0f', now), 'PX', 10 * lease)
return asked and 2 or 1
