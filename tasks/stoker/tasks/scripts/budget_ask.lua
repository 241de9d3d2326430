-- May a batch of a loader's keys begin? A token bucket, and the batches under way, for all processes.
-- KEYS[1] hash: tokens, at (µs), factor, mean (µs a key)   KEYS[2] sorted set: batch -> when it counts as over (ms)
-- ARGV[1] keys/s, 0: any   ARGV[2] most tokens   ARGV[3] batches at once, 0: any   ARGV[4] keys   ARGV[5] batch
-- ARGV[6] ms after which the batch counts as over
-- A batch that is under way already may ask again: its answer was lost.
-- Returns 0: it may; else ms to wait before asking again.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local rate, most, slots, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local found = redis.call('HMGET', KEYS[1], 'tokens', 'at', 'factor')
local factor = tonumber(found[3] or 1)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now / 1000)
if redis.call('ZSCORE', KEYS[2], ARGV[5]) then return 0 end
if slots > 0 and redis.call('ZCARD', KEYS[2]) >= math.max(1, math.floor(slots * factor)) then return 50 end
if rate > 0 then
  local passed = math.max(0, now - tonumber(found[2] or 0))
  local tokens = math.min(most, tonumber(found[1] or most) + passed / 1000000 * rate * factor)
  local enough = tokens >= wanted
  if enough then tokens = tokens - wanted end
  redis.call('HSET', KEYS[1], 'tokens', string.format('%.6f', tokens), 'at', string.format('%.0f', now))
  redis.call('PEXPIRE', KEYS[1], 3600000)
  if not enough then return math.max(1, math.ceil((wanted - tokens) / (rate * factor) * 1000)) end
end
redis.call('ZADD', KEYS[2], now / 1000 + tonumber(ARGV[6]), ARGV[5])
redis.call('PEXPIRE', KEYS[2], 3600000)
return 0
