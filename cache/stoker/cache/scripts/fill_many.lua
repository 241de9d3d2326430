#!lua
-- fill_many.lua: fill.lua for many keys whose leases were taken together: one token, one stamp (rule 2).
-- KEYS[1] ctl   KEYS[2..n+1] leases
-- ARGV[1] server   ARGV[2] digest   ARGV[3] lease token   ARGV[4] incarnation of the stamp, hex   ARGV[5] seq of the stamp
-- ARGV[6] '1' if the server may know MSETEX   ARGV[7] groups of one TTL each   and then for each of them: how many
-- arguments follow; those of MSETEX: how many entries; their keys and values by turns; 'PX' and the TTL in ms, if any
-- The entries' keys have the hash tag of the others; they stand where MSETEX wants them, for Lua is slow to move them.
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

local together = ARGV[6] == '1'
local at = 8
for _ = 1, tonumber(ARGV[7]) do
  local first, last = at + 1, at + tonumber(ARGV[at])
  if together then
    local done = redis.pcall('MSETEX', unpack(ARGV, first, last))
    together = type(done) ~= 'table' or not done.err
  end
  if not together then
    local pairs_end = first + 2 * tonumber(ARGV[first])
    for i = first + 1, pairs_end, 2 do
      redis.call('SET', ARGV[i], ARGV[i + 1], unpack(ARGV, pairs_end + 1, last))
    end
  end
  at = last + 1
end
return raw
