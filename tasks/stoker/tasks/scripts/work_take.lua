-- work_take.lua: take a unit that is nobody's, or whose taker has given no sign for too long.
-- KEYS[1..3] as of work_begin.lua
-- ARGV[1] ms for which it is the taker's
-- Returns {id, unit, times it was taken}; or {ms after which to look again}; or {} if there never will be one.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
while true do
  local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
  if #first == 0 then
    if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('HEXISTS', KEYS[1], 'closed') == 1 then return {} end
    return {50}
  end
  local id, due = first[1], tonumber(first[2])
  if due > now then return {math.max(1, math.min(50, math.ceil(due - now)))} end  -- it may be done any time
  local unit = redis.call('HGET', KEYS[2], id)
  if unit then
    redis.call('ZADD', KEYS[3], now + ARGV[1], id)
    return {id, unit, redis.call('HINCRBY', KEYS[1], 'taken:' .. id, 1)}
  end
  redis.call('ZREM', KEYS[3], id)
end
