-- event_claim.lua: begin to run one rule for one event.
-- KEYS[1] record of the pair     KEYS[2] pairs that are not done -> when the reaper looks at them, ms
-- ARGV[1] the pair               ARGV[2] token of this run               ARGV[3] ms the claim holds unless renewed
-- ARGV[4] ms an unfinished record is kept                                ARGV[5] the event, as JSON
-- ARGV[6] the rule
-- Returns {"claimed", runs that were begun, how often it was put off}, {"busy", ms until the claim of another run
-- ends}, or {"done"} or {"dead"}.
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'done' or state == 'dead' then
  return {state}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = tonumber(redis.call('HGET', KEYS[1], 'held') or 0) or 0
if held > now then
  return {'busy', held - now}
end
redis.call('HSET', KEYS[1], 'state', 'open', 'token', ARGV[2], 'held', now + ARGV[3], 'event', ARGV[5], 'rule', ARGV[6])
redis.call('HSETNX', KEYS[1], 'began_at', now)
local runs = (tonumber(redis.call('HGET', KEYS[1], 'runs') or 0) or 0) + 1
redis.call('HSET', KEYS[1], 'runs', runs)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return {'claimed', runs, tonumber(redis.call('HGET', KEYS[1], 'waits') or 0) or 0}
