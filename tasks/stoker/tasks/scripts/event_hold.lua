-- event_hold.lua: renew the claim of a run.
-- KEYS[1] record of the pair     KEYS[2] pairs that are not done -> when the reaper looks at them, ms
-- ARGV[1] the pair               ARGV[2] token of the run                ARGV[3] ms the claim holds from now
-- Returns 1 if the claim still is this run's.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[2] then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'held', now + ARGV[3])
redis.call('ZADD', KEYS[2], 'XX', now + ARGV[3], ARGV[1])
return 1
