-- work_close.lua: no more will be dealt.
-- KEYS[1..3] as of work_begin.lua
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'closed', 1) end
return 1
