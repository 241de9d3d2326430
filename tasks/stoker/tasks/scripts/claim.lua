-- claim.lua: a coordinator asks for the job's lock.
-- KEYS[1] job hash               KEYS[2] lock
-- KEYS[3] ids of unfinished jobs -> when the reaper looks at them, ms
-- ARGV[1] id                     ARGV[2] random                          ARGV[3] ms the lock lives
-- Returns {"claimed", token, starts without progress} or {"busy", ms the lock still lives} or {the final state} or {"lost"}
-- or {"damaged", field}: what it holds says neither whether to run the job nor when to give it up.
local state = redis.call('HGET', KEYS[1], 'state')
if not state then
  return {'lost'}
end
if state == 'succeeded' or state == 'failed' or state == 'aborted' then
  return {state}
end
if state ~= 'queued' and state ~= 'running' then
  return {'damaged', 'state'}
end
local wait = redis.call('PTTL', KEYS[2])
if wait >= 0 then -- a lock that never ends (-1) is none of ours
  return {'busy', wait}
end
local starts = redis.pcall('HINCRBY', KEYS[1], 'starts', 1)
if type(starts) == 'table' then
  return {'damaged', 'starts'}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- The clock orders coordinators even after a flush, which a counter would not; the rest makes them differ.
local token = string.format('%d%06d', time[1], time[2]) .. '-' .. ARGV[2]
redis.call('SET', KEYS[2], token, 'PX', ARGV[3])
redis.call('HSET', KEYS[1], 'state', 'running', 'fence', token, 'updated_at', now)
redis.call('HSETNX', KEYS[1], 'started_at', now)
redis.call('ZADD', KEYS[3], now + ARGV[3], ARGV[1])
return {'claimed', token, starts}
