-- A batch is over: give back the tokens it did not need, and go faster or slower by how its loader did.
-- KEYS[1], KEYS[2] as of budget_ask.lua
-- ARGV[1] batch   ARGV[2] keys not asked for   ARGV[3] keys asked for   ARGV[4] of them failed   ARGV[5] µs a key
-- Returns the share of its full speed at which the loader may go on, 0.1 to 1.
local tokens_back = redis.call('ZREM', KEYS[2], ARGV[1]) == 1 and ARGV[2] or 0
local found = redis.call('HMGET', KEYS[1], 'tokens', 'factor', 'mean')
local factor, mean = tonumber(found[2] or 1), tonumber(found[3] or 0)
local called, failed, took = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
if called > 0 then
  -- Its usual time follows a faster loader soon, a slower one late: a slow-down is noticed, a lasting one accepted.
  local slow = mean > 0 and took > 2 * mean + 1000
  if mean == 0 then mean = took elseif took < mean then mean = mean * 0.7 + took * 0.3 else mean = mean * 0.98 + took * 0.02 end
  if slow or failed > 0.1 * called then factor = math.max(0.1, factor * 0.7) else factor = math.min(1, factor + 0.1) end
  redis.call('HSET', KEYS[1], 'factor', string.format('%.4f', factor), 'mean', string.format('%.1f', mean))
end
if found[1] then
  redis.call('HSET', KEYS[1], 'tokens', string.format('%.6f', tonumber(found[1]) + tonumber(tokens_back)))
end
redis.call('PEXPIRE', KEYS[1], 3600000)
return string.format('%.4f', factor)
