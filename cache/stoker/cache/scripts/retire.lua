#!lua flags=allow-oom
-- retire.lua: after a complete sweep: drop the bans up to the mark it closed (rule 10).
-- KEYS[1] ctl   KEYS[2] bans   KEYS[3] marks
-- ARGV[1] server   ARGV[2] digest   ARGV[3] incarnation, hex   ARGV[4] generation of boots   ARGV[5] mark
-- Returns how many bans were dropped, or -1 if the sweep was not of this ban log: it starts again.
local c = parse(redis.call('GET', KEYS[1]))
if not c or not accepts(c, ARGV[1], ARGV[2]) then return -1 end
local mark = tonumber(ARGV[5])
if c.inc ~= ARGV[3] or c.gen ~= ARGV[4] or c.closing < mark then return -1 end
if c.floor >= mark then return 0 end
c.floor = mark
redis.call('SET', KEYS[1], render(c))
local marked_at = redis.call('ZSCORE', KEYS[3], ARGV[5])
if marked_at then redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', marked_at) end
return redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[5])
