#!lua flags=allow-oom
-- give.lua: forget what is left of a slot that another node has taken, and know that it is there (in a cluster).
-- KEYS[1] ctl of a shard in it
-- ARGV[1] server   ARGV[2] digest   ARGV[3] slot   ARGV[4] the other node's name in the cluster
-- ARGV[5] the record as it was frozen: with any other, the slot has come back meanwhile, and would be nobody's
-- ARGV[6...] what the names of all keys begin with that may be forgotten
-- Returns OK; an error if the slot has come back or has keys of others: the node hears of it over the bus instead.
if redis.call('GET', KEYS[1]) ~= ARGV[5] then return redis.error_reply('it is not frozen any more') end
local count = redis.call('CLUSTER', 'COUNTKEYSINSLOT', ARGV[3])
for _, name in ipairs(redis.call('CLUSTER', 'GETKEYSINSLOT', ARGV[3], count)) do
  for i = 6, #ARGV do
    if string.sub(name, 1, #ARGV[i]) == ARGV[i] then redis.call('UNLINK', name) end
  end
end
return redis.call('CLUSTER', 'SETSLOT', ARGV[3], 'NODE', ARGV[4])
