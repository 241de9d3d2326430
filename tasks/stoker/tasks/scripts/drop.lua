-- drop.lua: delete a key if it holds what the caller put there.
-- KEYS[1] the key                ARGV[1] its value
-- Returns 1 if it was deleted.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
