-- work_stop.lua: the rest is left undone. What was failing has failed, what was not tried was not asked for.
-- KEYS[1..3] as of work_begin.lua
-- ARGV[1] why   ARGV[2] (key, message), as JSON
local dealt, left, failing, closed = unpack(redis.call('HMGET', KEYS[1], 'dealt', 'left', 'failing', 'stopped'))
if not dealt or closed then return 0 end
redis.call('UNLINK', KEYS[2], KEYS[3])
redis.call('HSET', KEYS[1], 'closed', 1, 'stopped', ARGV[1], 'left', 0, 'failing', 0)
redis.call('HINCRBY', KEYS[1], 'dealt', failing - left)
redis.call('HINCRBY', KEYS[1], 'failed', failing)
local n = redis.call('HINCRBY', KEYS[1], 'errors', 1)
if n <= 10 then redis.call('HSET', KEYS[1], 'error:' .. n, ARGV[2]) end
return 1
