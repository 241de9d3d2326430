-- finish.lua: give a job its final state and wake those who wait for it.
-- KEYS[1] job hash               KEYS[2] lock
-- KEYS[3] ids of unfinished jobs -> when the reaper looks at them, ms
-- KEYS[4] stream that says the job is over
-- KEYS[5] ids of dead jobs -> when they died, ms
-- KEYS[6..8] what a warm shares among its workers, see work_begin.lua
-- KEYS[9] how many jobs ended, by kind and state
-- KEYS[10] id of the target's unfinished job; absent for a job without a target
-- ARGV[1] id                     ARGV[2] final state                     ARGV[3] ms a finished job is kept
-- ARGV[4] the coordinator's token; "any": whoever holds the lock; "none": only if nobody does, else ask it to stop
-- ARGV[5] "1": it is dead, that is, given up, and is listed as such
-- ARGV[6] ms the counts are kept
-- ARGV[7..] fields and values
-- Returns the final state it now has; or "asked": its run ends it, or its next one if it has begun what goes on
-- "unattended"; or "taken", "lost", or "again" (a pass was asked for meanwhile: the job is unfinished and without a lock).
local state = redis.call('HGET', KEYS[1], 'state')
if not state then
  return 'lost'
end
if state == 'succeeded' or state == 'failed' or state == 'aborted' then
  return state
end
local holder = redis.call('GET', KEYS[2])
local outsider = ARGV[4] == 'none' or ARGV[4] == 'any'
if not outsider and holder ~= ARGV[4] then
  return 'taken'
end
local unattended = ARGV[2] == 'aborted' and redis.call('HEXISTS', KEYS[1], 'unattended') == 1
if ARGV[4] == 'none' and holder or outsider and unattended then
  redis.call('HSET', KEYS[1], 'abort', '1')
  if not holder then
    redis.call('ZADD', KEYS[3], 'XX', 0, ARGV[1]) -- the reaper sends it at its next look
  end
  return 'asked'
end
redis.call('DEL', KEYS[2])
if ARGV[2] == 'succeeded' and redis.call('HDEL', KEYS[1], 'again') == 1 then
  redis.call('HDEL', KEYS[1], 'eta', 'starts', 'tries')  -- the cursor stays: its report counts all passes
  return 'again'
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'state', ARGV[2], 'finished_at', now, 'updated_at', now, unpack(ARGV, 7))
redis.call('HDEL', KEYS[1], 'cursor', 'args', 'abort', 'eta', 'starts', 'tries', 'unattended')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('XADD', KEYS[4], '*', 'state', ARGV[2])
redis.call('PEXPIRE', KEYS[4], ARGV[3])
if ARGV[5] == '1' then
  redis.call('ZADD', KEYS[5], now, ARGV[1])
  redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now - ARGV[3])
  redis.call('PEXPIRE', KEYS[5], ARGV[3])
end
redis.call('UNLINK', KEYS[6], KEYS[7], KEYS[8])
redis.call('HINCRBY', KEYS[9], tostring(redis.call('HGET', KEYS[1], 'kind')) .. '|' .. ARGV[2], 1)
redis.call('PEXPIRE', KEYS[9], ARGV[6])
if KEYS[10] and redis.call('GET', KEYS[10]) == ARGV[1] then
  redis.call('DEL', KEYS[10])
end
return ARGV[2]
