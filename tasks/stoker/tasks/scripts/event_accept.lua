-- event_accept.lua: from now on not the event is seen to, but each rule that it matches.
-- KEYS[1] record of the event    KEYS[2] what is not done -> when the reaper looks at it, ms
-- KEYS[3..] record of each rule's pair
-- ARGV[1] the event's pair       ARGV[2] the event, as JSON              ARGV[3] ms an unfinished record is kept
-- ARGV[4] ms until the reaper looks                                      ARGV[5] ms a finished record is kept
-- ARGV[6..] pair and rule for each of KEYS[3..]
-- Returns 0 if that was done before.
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'done' or state == 'dead' then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 3, #KEYS do
  local pair, rule = ARGV[2 * i], ARGV[2 * i + 1]
  if redis.call('HSETNX', KEYS[i], 'state', 'open') == 1 then
    redis.call('HSET', KEYS[i], 'event', ARGV[2], 'rule', rule)
    redis.call('PEXPIRE', KEYS[i], ARGV[3])
    redis.call('ZADD', KEYS[2], now + ARGV[4], pair)
  end
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'state', 'done')
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1
