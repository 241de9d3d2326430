#!lua
-- fill_many.lua: fill.lua for many keys whose leases were taken together: one token, one stamp (rule 2).
-- KEYS[1] ctl   KEYS[2..n+1] leases
-- ARGV[1] server   ARGV[2] digest   ARGV[3] lease token   ARGV[4] incarnation of the stamp, hex   ARGV[5] seq of the stamp
-- ARGV[6..] the entries, see store_groups
-- Returns the control record if all were stored, 0 if none was; their leases are gone then. Or 1: nothing was done, as
-- somebody has taken one of the leases; try them one by one.
local holders = redis.call('MGET', unpack(KEYS, 2))
for i = 1, #KEYS - 1 do
  if holders[i] ~= ARGV[3] then return 1 end
end
redis.call('DEL', unpack(KEYS, 2))
local raw = redis.call('GET', KEYS[1])
local c = parse(raw)
if not c or not accepts(c, ARGV[1], ARGV[2]) then return 0 end
if c.inc ~= ARGV[4] or tonumber(ARGV[5]) < c.closing then return 0 end
store_groups(6)
return raw
