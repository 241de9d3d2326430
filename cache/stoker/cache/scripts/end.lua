#!lua flags=allow-oom
-- end.lua: delete a control record, unless it is of the map that is about to begin (in a cluster).
-- KEYS[1] ctl   KEYS[2] bans   KEYS[3] marks
-- ARGV[1] server   ARGV[2] digest
-- Returns how many were deleted. One of that map says that it has begun meanwhile: whoever comes late ends nothing.
local c = parse(redis.call('GET', KEYS[1]))
if c and c.digest == ARGV[2] then return 0 end
redis.call('DEL', KEYS[2], KEYS[3])
return redis.call('DEL', KEYS[1])
