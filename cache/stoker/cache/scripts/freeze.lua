#!lua flags=allow-oom
-- freeze.lua: let nobody answer for the record while its slot is moved without its entries (rule 6; in a cluster).
-- KEYS[1] ctl
-- ARGV[1] server   ARGV[2] digest   ARGV[3] the server to be expected
-- Returns 1 if nobody does from now on, 0 if there is no good record.
local c = parse(redis.call('GET', KEYS[1]))
if not c or not accepts(c, ARGV[1], ARGV[2]) then return 0 end
accept_only(c, expected(ARGV[3]))
return 1
