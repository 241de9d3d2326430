-- work_begin.lua: a coordinator begins its warm, or goes on with it if the keys are still the same ones.
-- KEYS[1] hash: how it stands   KEYS[2] hash: id of a unit -> it   KEYS[3] sorted set: id -> when it may be taken, ms
-- ARGV[1] version of the keys   ARGV[2] limits, as JSON   ARGV[3] ms that all of it is kept after the last sign
-- ARGV[4] the coordinator's token: from now on only it may deal
-- Returns the token of the coordinator that began it, and how many keys were dealt.
if redis.call('HGET', KEYS[1], 'version') ~= ARGV[1] then
  redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
  redis.call('HSET', KEYS[1], 'version', ARGV[1], 'life', ARGV[4], 'dealt', 0, 'left', 0, 'failing', 0)
end
redis.call('HSET', KEYS[1], 'limits', ARGV[2], 'dealer', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return redis.call('HMGET', KEYS[1], 'life', 'dealt')
