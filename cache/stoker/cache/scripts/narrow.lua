#!lua flags=allow-oom
-- narrow.lua: accept none but the server that has the record (rule 6; in a cluster).
-- KEYS[1] ctl
-- ARGV[1] server   ARGV[2] digest   ARGV[3] generation that the caller has seen
-- Returns 1 if no other is named from now on; 0 if the record is another: whoever meets it next sees to it.
local c = parse(redis.call('GET', KEYS[1]))
if not c or not accepts(c, ARGV[1], ARGV[2]) or c.gen ~= ARGV[3] then return 0 end
accept_only(c, ARGV[1])
return 1
