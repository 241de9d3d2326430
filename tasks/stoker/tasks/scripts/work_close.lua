-- work_close.lua: no more will be dealt.
-- KEYS[1] hash: how it stands
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'closed', 1) end
return 1
