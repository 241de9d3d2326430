#!lua flags=allow-oom
-- prune.lua: remove rules that a ban of their whole tenant, in the same log and no older, makes needless (rule 10).
-- KEYS[1] bans
-- ARGV[1] server   ARGV[2] digest   ARGV[3] first and ARGV[4] last rank to look at
-- Returns how many were removed. No control record is asked for: whatever becomes of the log, what goes here kills
-- nothing that what stays does not. Only rules of kinds that are known to end at their tenant go.
local tenants = {}
local function banned_at(tenant)
  if tenants[tenant] == nil then
    tenants[tenant] = tonumber(redis.call('ZSCORE', KEYS[1], 'n|' .. tenant .. '|') or 0)
  end
  return tenants[tenant]
end
local needless = {}
local page = redis.call('ZRANGE', KEYS[1], ARGV[3], ARGV[4], 'WITHSCORES')
for i = 1, #page, 2 do
  local tenant = string.match(page[i], '^[xpt]|([^|]*)|')
  if tenant and tonumber(page[i + 1]) <= banned_at(tenant) then needless[#needless + 1] = page[i] end
end
if #needless == 0 then return 0 end
return redis.call('ZREM', KEYS[1], unpack(needless))
