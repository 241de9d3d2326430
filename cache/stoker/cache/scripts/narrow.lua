#!lua flags=allow-oom
-- narrow.lua: accept none but the server that has the record (rule 6; in a cluster).
-- KEYS[1] ctl
-- ARGV[1] server   ARGV[2] digest
-- Returns 1 if no other is named from now on; 0 if the record is not good: whoever meets it next replaces it.
local c = parse(redis.call('GET', KEYS[1]))
if not c or not accepts(c, ARGV[1], ARGV[2]) then return 0 end
accept_only(c, ARGV[1])
return 1
