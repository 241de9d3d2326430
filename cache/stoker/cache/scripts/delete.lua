#!lua flags=allow-oom
-- delete.lua: unlink an entry and its lease, so that a load under way cannot bring it back (rule 11).
-- KEYS[1] ctl   KEYS[2] entry   KEYS[3] lease
-- ARGV[1] server   ARGV[2] digest
-- Returns {1, entries unlinked}, or {0, control record} if the record belongs to another map.
local raw = redis.call('GET', KEYS[1])
local c = parse(raw)
if c and c.digest ~= ARGV[2] then return {0, raw} end
redis.call('UNLINK', KEYS[3])
return {1, redis.call('UNLINK', KEYS[2])}
