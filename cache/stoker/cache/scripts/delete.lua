#!lua flags=allow-oom
-- delete.lua: unlink an entry and its lease, so that no load under way can bring it back (rule 11).
-- KEYS[1] ctl   KEYS[2] entry   KEYS[3] lease   KEYS[4] writes
-- ARGV[1] server   ARGV[2] digest
-- Returns {1, entries unlinked}, or {0, control record or nothing} if there is no good one: perhaps the map has changed
-- and the key lives elsewhere. The caller catches up and repeats.
local raw = redis.call('GET', KEYS[1])
local c = parse(raw)
if not c or not accepts(c, ARGV[1], ARGV[2]) then return {0, raw} end
redis.call('UNLINK', KEYS[3])
note_write(KEYS[4], KEYS[2])
return {1, redis.call('UNLINK', KEYS[2])}
