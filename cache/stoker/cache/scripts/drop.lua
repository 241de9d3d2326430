#!lua flags=allow-oom
-- drop.lua: unlink entries that still are what the caller judged; a newer fill stays.
-- KEYS entries   ARGV[1] server   ARGV[2] digest   ARGV[3...] stamp (incarnation, seq, uid: bytes 8 to 31) of each
-- Returns how many were unlinked.
local n = 0
for i = 1, #KEYS do
  if redis.call('GETRANGE', KEYS[i], 8, 31) == ARGV[i + 2] then n = n + redis.call('UNLINK', KEYS[i]) end
end
return n
