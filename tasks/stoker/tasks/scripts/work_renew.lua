-- work_renew.lua: those who have taken units are alive.
-- KEYS[1] sorted set: id of a unit -> when it may be taken, ms   ARGV[1] ms for which they stay theirs   ARGV[2..] ids
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', now + ARGV[1], ARGV[i]) end
return 1
