#!lua flags=allow-oom
-- renew.lua: prolong the leases that are still the caller's.
-- KEYS leases   ARGV[1] server   ARGV[2] digest   ARGV[3] ms   ARGV[4...] one token a lease
-- Returns how many were prolonged.
local n = 0
for i = 1, #KEYS do
  if redis.call('GET', KEYS[i]) == ARGV[i + 3] then n = n + redis.call('PEXPIRE', KEYS[i], ARGV[3]) end
end
return n
