#!lua flags=allow-oom
-- charter.lua: put a map in the place of another, unless that has changed (in a cluster).
-- KEYS[1] map
-- ARGV[1] server   ARGV[2] digest   ARGV[3] the map to be replaced, '' for none   ARGV[4] the map to be written
-- ARGV[5] the server that this one names
-- Returns 1 if it was written.
if ARGV[1] ~= ARGV[5] or (redis.call('GET', KEYS[1]) or '') ~= ARGV[3] then return 0 end
redis.call('SET', KEYS[1], ARGV[4])
return 1
