-- event_open.lua: write down an event that is about to be published.
-- KEYS[1] record of the event    KEYS[2] what is not done -> when the reaper looks at it, ms
-- ARGV[1] the event's pair       ARGV[2] the event, as JSON              ARGV[3] ms an unfinished record is kept
-- ARGV[4] ms until the reaper looks
-- Returns "seen to" if the event is known and its rules are: it need not be published. Else "known" or "new".
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'done' or state == 'dead' then
  return 'seen to'
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'state', 'open', 'event', ARGV[2], 'rule', '')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[2], now + ARGV[4], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return state and 'known' or 'new'
