-- work_done.lua: a unit is done; the first who says so counts.
-- KEYS[1..3] as of work_begin.lua
-- ARGV[1] id   ARGV[2] ms as of work_begin.lua   ARGV[3] units left over of it   and for each its id, itself and the
-- ms until it may be taken; then how many counts, and each with its increment; then (key, message), as JSON
-- Returns whether it counted.
if redis.call('HDEL', KEYS[2], ARGV[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('HDEL', KEYS[1], 'taken:' .. ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local at = 4
for _ = 1, tonumber(ARGV[3]) do
  redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
  redis.call('ZADD', KEYS[3], now + ARGV[at + 2], ARGV[at])
  at = at + 3
end
local counts = tonumber(ARGV[at])
for i = at + 1, at + 2 * counts, 2 do redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1]) end
for i = at + 2 * counts + 1, #ARGV do
  local n = redis.call('HINCRBY', KEYS[1], 'errors', 1)
  if n <= 10 then redis.call('HSET', KEYS[1], 'error:' .. n, ARGV[i]) end
end
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
return 1
