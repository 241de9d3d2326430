-- postpone.lua: the reaper shall leave an unfinished job alone for a while.
-- KEYS[1] job hash               KEYS[2] ids of unfinished jobs -> when the reaper looks at them, ms
-- ARGV[1] id                     ARGV[2] ms
-- ARGV[3] how often the time may double, once for each look since the last sign of life; 0: never
-- ARGV[4] what went wrong, in a run that lived to tell; empty: nothing
-- Returns the job's kind, or false if the server does not know it: nothing stands there, or no record of a job.
local kind = redis.pcall('HGET', KEYS[1], 'kind')
if not kind or type(kind) == 'table' then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return false
end
local wait = ARGV[2]
if tonumber(ARGV[3]) > 0 then
  local looks = redis.pcall('HINCRBY', KEYS[1], 'looks', 1)
  if type(looks) == 'table' or looks < 1 then -- it held no count
    looks = 1
    redis.call('HSET', KEYS[1], 'looks', looks)
  end
  wait = wait * 2 ^ math.min(looks - 1, ARGV[3])
end
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[1], 'error', ARGV[4], 'starts', 0)
end
local time = redis.call('TIME')
redis.call('ZADD', KEYS[2], 'XX', time[1] * 1000 + math.floor(time[2] / 1000) + wait, ARGV[1])
return kind
