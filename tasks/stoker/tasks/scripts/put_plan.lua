-- put_plan.lua: write what is known of a warm plan, unless somebody else wrote meanwhile.
-- KEYS[1] plans: name -> record, and ":life" -> the life of this store
-- ARGV[1] name                   ARGV[2] the record as it was read; empty: there was none
-- ARGV[3] the new record; empty: remove it                               ARGV[4] ms the store is kept
-- ARGV[5] random: the life of a store that has just begun
-- Returns 1 if it was written.
local held = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if held ~= ARGV[2] then
  return 0
end
redis.call('HSETNX', KEYS[1], ':life', ARGV[5])
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
