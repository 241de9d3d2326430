#!lua flags=allow-oom
-- admit.lua: let the draft of a control record rule, after the map was read once more (in a cluster; rule 5).
-- KEYS[1] ctl
-- ARGV[1] server   ARGV[2] digest   ARGV[3] the draft
-- Returns 1 if it rules from now on, 0 if it is gone, or has come here from another server.
local raw = redis.call('GET', KEYS[1])
local c = parse(raw)
if not c or raw ~= ARGV[3] or c.digest ~= ARGV[2] or c.boots ~= draft_of(ARGV[1]) then return 0 end
c.boots = ARGV[1]
redis.call('SET', KEYS[1], render(c))
return 1
