-- event_end.lua: write down how a run of one rule for one event ended.
-- KEYS[1] record of the pair     KEYS[2] pairs that are not done -> when the reaper looks at them, ms
-- KEYS[3] pairs that were given up -> when, ms
-- KEYS[4] counts                 KEYS[5] stream of the latest outcomes
-- ARGV[1] the pair               ARGV[2] token of the run; empty: whoever holds it
-- ARGV[3] "done"; "failed": it runs again; "later": likewise, and this run does not count; "dead": given up
-- ARGV[4] ms the record is kept  ARGV[5] ms until it runs again, at the latest
-- ARGV[6] the error              ARGV[7] ms counts and outcomes are kept ARGV[8] what to count
-- ARGV[9] most pairs given up    ARGV[10] prefix of the records' names   ARGV[11] most outcomes
-- ARGV[12..] fields and values of the outcome
-- Returns 1, or 0 if the claim is another's: then nothing is written.
if ARGV[2] ~= '' and redis.call('HGET', KEYS[1], 'token') ~= ARGV[2] then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HDEL', KEYS[1], 'token', 'held')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if ARGV[3] == 'failed' or ARGV[3] == 'later' then
  redis.call('HSET', KEYS[1], 'error', ARGV[6])
  if ARGV[3] == 'later' then
    redis.call('HSET', KEYS[1], 'runs', (tonumber(redis.call('HGET', KEYS[1], 'runs') or 1) or 1) - 1)
    redis.call('HSET', KEYS[1], 'waits', (tonumber(redis.call('HGET', KEYS[1], 'waits') or 0) or 0) + 1)
  end
  redis.call('ZADD', KEYS[2], now + ARGV[5], ARGV[1])
else
  redis.call('ZREM', KEYS[2], ARGV[1])
end
if ARGV[3] == 'done' then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'state', 'done')
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  redis.call('ZREM', KEYS[3], ARGV[1])
elseif ARGV[3] == 'dead' then
  redis.call('HSET', KEYS[1], 'state', 'dead', 'error', ARGV[6], 'died_at', now)
  redis.call('ZADD', KEYS[3], now, ARGV[1])
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - ARGV[4])
  redis.call('PEXPIRE', KEYS[3], ARGV[4])
  local over = redis.call('ZCARD', KEYS[3]) - ARGV[9]
  if over > 0 then
    for _, pair in ipairs(redis.call('ZRANGE', KEYS[3], 0, over - 1)) do
      redis.call('DEL', ARGV[10] .. pair)
      redis.call('ZREM', KEYS[3], pair)
      redis.call('HINCRBY', KEYS[4], 'dropped', 1)
    end
  end
end
if ARGV[3] ~= 'later' then
  redis.call('HINCRBY', KEYS[4], ARGV[8], 1)
  redis.call('PEXPIRE', KEYS[4], ARGV[7])
  redis.call('XADD', KEYS[5], 'MAXLEN', ARGV[11], '*', 'outcome', ARGV[3], 'error', ARGV[6], unpack(ARGV, 12))
  redis.call('PEXPIRE', KEYS[5], ARGV[7])
end
return 1
