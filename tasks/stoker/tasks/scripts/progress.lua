-- progress.lua: the coordinator shows a sign of life, keeps its lock and writes down how far it is.
-- KEYS[1] job hash               KEYS[2] lock
-- KEYS[3] ids of unfinished jobs -> when the reaper looks at them, ms
-- ARGV[1] id                     ARGV[2] token                           ARGV[3] ms the lock lives
-- ARGV[4] ms an unfinished job is kept
-- ARGV[5..] fields and values
-- Returns "on", "abort" (stop, it was asked for), "taken" (another holds the lock), "expired" (nobody does),
-- "lost" (the hash is gone) or the final state. Nothing is written unless the answer is "on" or "abort".
local state = redis.call('HGET', KEYS[1], 'state')
if not state then
  return 'lost'
end
if state ~= 'running' then
  return state
end
local holder = redis.call('GET', KEYS[2])
if holder ~= ARGV[2] then
  return holder and 'taken' or 'expired'
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'updated_at', now, 'looks', 0, unpack(ARGV, 5))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('ZADD', KEYS[3], now + ARGV[3], ARGV[1])
redis.call('PEXPIRE', KEYS[3], ARGV[4])
return redis.call('HEXISTS', KEYS[1], 'abort') == 1 and 'abort' or 'on'
