-- event_forget.lua: take a pair off the list of those given up, unless it was given up again since the list was read.
-- KEYS[1] pairs that were given up -> when, ms
-- ARGV[1] the pair               ARGV[2] when, as it was read
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or -1) == tonumber(ARGV[2]) then
  return redis.call('ZREM', KEYS[1], ARGV[1])
end
return 0
