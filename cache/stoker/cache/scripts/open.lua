#!lua flags=allow-oom
-- open.lua: write the namespace's map unless there is one.
-- KEYS[1] map   ARGV[1] server   ARGV[2] digest   ARGV[3] the caller's map
-- Returns the map that rules.
redis.call('SET', KEYS[1], ARGV[3], 'NX')
return redis.call('GET', KEYS[1])
