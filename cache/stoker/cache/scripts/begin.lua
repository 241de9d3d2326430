#!lua
-- begin.lua: a batch of keys is about to be loaded; what is deleted or set from now on is noted after it (rule 2).
-- KEYS[1] ctl   KEYS[2] writes
-- ARGV[1] server   ARGV[2] digest   ARGV[3] the batch's secret   ARGV[4] ms for which it may load
-- Returns {the batch's place, control record or nothing}.
local place = redis.call('RPUSHX', KEYS[2], ARGV[3])
if place == 0 or place > MOST_WRITES then
  redis.call('UNLINK', KEYS[2])
  place = redis.call('RPUSH', KEYS[2], ARGV[3])
end
redis.call('LRANGE', KEYS[2], -1, -1) -- who may not do what is done at the end shall know now
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[2], ARGV[4]) end
return {place, redis.call('GET', KEYS[1])}
