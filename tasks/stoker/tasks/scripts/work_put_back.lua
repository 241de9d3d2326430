-- work_put_back.lua: a taker gives a unit back in good order, so that it does not count as taken.
-- KEYS[1..3] as of work_begin.lua   ARGV[1] id
if redis.call('ZSCORE', KEYS[3], ARGV[1]) then
  redis.call('ZADD', KEYS[3], 0, ARGV[1])
  redis.call('HINCRBY', KEYS[1], 'taken:' .. ARGV[1], -1)
end
return 1
