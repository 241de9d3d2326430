#!lua flags=allow-oom
-- vouch.lua: let the server that has taken over a slot answer for it: all of it came along (rule 6; in a cluster).
-- KEYS[1] ctl
-- ARGV[1] server   ARGV[2] digest   ARGV[3] incarnation, hex, and ARGV[4] generation that were handed over
-- Returns 1 if it does; 0 if it was not waited for, or this is not what was handed over.
local c = parse(redis.call('GET', KEYS[1]))
if not c or not expects(c, ARGV[1], ARGV[2]) or c.inc ~= ARGV[3] or c.gen ~= ARGV[4] then return 0 end
accept_only(c, ARGV[1])
return 1
