#!lua flags=allow-oom
-- open.lua: write the namespace's map unless there is another one, and end what was stored under an earlier one.
-- KEYS[1] map   KEYS[2...] what is to end: ctl of every shard that any map may have, or all its control state
-- ARGV[1] server   ARGV[2] digest   ARGV[3] the caller's map   ARGV[4] the map to be replaced, '' for none
-- Returns the map that rules. Under the map before, a key may have lived in another shard: a record that outlived that
-- map would bring back what was invalidated since, should that map return.
local map = redis.call('GET', KEYS[1])
if map and map ~= ARGV[4] then return map end
for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end
redis.call('SET', KEYS[1], ARGV[3])
return ARGV[3]
