#!lua flags=allow-oom
-- expect.lua: name the server that is to take over the slot, before it is moved there (rule 6; in a cluster).
-- KEYS[1] ctl
-- ARGV[1] server   ARGV[2] digest   ARGV[3] the server to be expected
-- Returns the record that stands from now on, or 0 if there is no good one.
local c = parse(redis.call('GET', KEYS[1]))
if not c or not accepts(c, ARGV[1], ARGV[2]) then return 0 end
c.boots = '' -- in a new generation each time: for a target that comes late with what was handed over before, nobody vouches
accept_only(c, ARGV[1] .. ',' .. expected(ARGV[3]))
return render(c)
