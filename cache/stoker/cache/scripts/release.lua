#!lua flags=allow-oom
-- release.lua: give back leases that are still the caller's.
-- KEYS leases   ARGV[1] server   ARGV[2] digest   ARGV[3...] one token a lease
-- Returns how many were given back.
local n = 0
for i = 1, #KEYS do
  if redis.call('GET', KEYS[i]) == ARGV[i + 2] then n = n + redis.call('DEL', KEYS[i]) end
end
return n
