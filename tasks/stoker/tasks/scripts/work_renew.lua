-- work_renew.lua: those who have taken units are alive.
-- KEYS[1..3] as of work_begin.lua
-- ARGV[1] ms for which they stay theirs   ARGV[2] ms as of work_begin.lua   ARGV[3..] ids
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 3, #ARGV do redis.call('ZADD', KEYS[3], 'XX', now + ARGV[1], ARGV[i]) end
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
return 1
