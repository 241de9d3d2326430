-- event_rules.lua: write down the rules of a worker, and drop those that none has told of for too long.
-- KEYS[1] rule -> its patterns, "|", when they were told, ms
-- ARGV[1] ms a rule is kept      ARGV[2..] rule and patterns, of each
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 2, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], string.format('%s|%d', ARGV[i + 1], now))
end
local found = redis.call('HGETALL', KEYS[1])
for i = 1, #found, 2 do
  local told = tonumber(string.match(found[i + 1], '|(%d+)$') or 0)
  if told < now - ARGV[1] then
    redis.call('HDEL', KEYS[1], found[i])
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
