-- work_deal.lua: add the next keys of the stream.
-- KEYS[1..3] as of work_begin.lua
-- ARGV[1] keys dealt before, as the caller believes   ARGV[2] id of the unit   ARGV[3] the unit, as JSON
-- ARGV[4] keys in it   ARGV[5] keys that have no usable name   ARGV[6] most units   ARGV[7] ms as of work_begin.lua
-- ARGV[8] the coordinator's token   ARGV[9..] (key, message) of the unusable ones, as JSON
-- Returns 'dealt', also to a call that comes once more because its answer was lost; 'full', 'closed', 'other' (another
-- coordinator deals) or 'lost'.
local dealt, closed, dealer = unpack(redis.call('HMGET', KEYS[1], 'dealt', 'closed', 'dealer'))
if not dealt then return 'lost' end
if closed then return 'closed' end
if dealer ~= ARGV[8] then return 'other' end
if dealt ~= ARGV[1] then return 'dealt' end
if redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[6]) then return 'full' end
if ARGV[4] ~= '0' then
  redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
  redis.call('ZADD', KEYS[3], ARGV[1], ARGV[2])  -- due at once, and in this order: the most wanted come first
end
redis.call('HINCRBY', KEYS[1], 'dealt', ARGV[4] + ARGV[5])
redis.call('HINCRBY', KEYS[1], 'left', ARGV[4])
redis.call('HINCRBY', KEYS[1], 'failed', ARGV[5])
for i = 9, #ARGV do
  local n = redis.call('HINCRBY', KEYS[1], 'errors', 1)
  if n <= 10 then redis.call('HSET', KEYS[1], 'error:' .. n, ARGV[i]) end
end
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[7]) end
return 'dealt'
