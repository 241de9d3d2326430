#!lua flags=allow-oom
-- drop_page.lua: a page of a sweep where all bans are prefixes: unlink what is older than a ban that names it (rule 10).
-- KEYS[1] ctl; the entries are on the same server
-- ARGV[1] server   ARGV[2] digest   ARGV[3] cursor   ARGV[4] pattern of names   ARGV[5] names in a page, about
-- ARGV[6] incarnation of the bans, 8 bytes   and then for each ban: what the names begin with; its seq
-- Returns {next cursor, names seen, entries unlinked, bytes of their names, headers and payloads, names of those that
-- are not of this version and incarnation, for the caller to judge, and the µs it took}. What goes is dead for good,
-- whatever has become of the ban log since: no control record is asked for.
local os = rawget(_G, 'os') -- Redis 7.0 has none
local function clock_us()
  if os then return os.clock() * 1e6 end
  local now = redis.call('TIME')
  return now[1] * 1e6 + now[2]
end
local began = clock_us()
local sub, read, pcall = string.sub, struct.unpack, redis.pcall
local bans, lengths = {}, {}
for i = 7, #ARGV, 2 do
  if not bans[ARGV[i]] then bans[ARGV[i]], lengths[#lengths + 1] = tonumber(ARGV[i + 1]), #ARGV[i] end
end
-- What entries of one stamp and kind begin with: their seq, and how long header and tags are; false: not for here.
local known = {}
local function look(begin)
  local magic, tags, incarnation, seq = read('<c3xxxI2c8I8', begin)
  local mine = magic == 'Sk\1' and incarnation == ARGV[6] and seq <= 9007199254740991
  known[begin] = mine and {seq, 56 + tags}
  return known[begin]
end
local page = redis.call('SCAN', ARGV[3], 'MATCH', ARGV[4], 'COUNT', ARGV[5])
local names, dead, bytes, others = page[2], {}, 0, {}
for i = 1, #names do
  local name, newest = names[i], 0
  for n = 1, #lengths do
    local seq = bans[sub(name, 1, lengths[n])]
    if seq and seq > newest then newest = seq end
  end
  local head = newest > 0 and pcall('GETRANGE', name, '0', '55') or ''
  if #head == 56 then
    local begin = sub(head, 1, 24)
    local kind = known[begin]
    if kind == nil then kind = look(begin) end
    if not kind then others[#others + 1] = name
    elseif kind[1] < newest then
      dead[#dead + 1] = name
      bytes = bytes + #name + kind[2] + read('<I4', head, 53)
    end
  elseif head.err then
    if not string.find(head.err, 'WRONGTYPE', 1, true) then return head end
  elseif head ~= '' then others[#others + 1] = name end
end
local gone = 0
for first = 1, #dead, 1000 do  -- Lua passes on but some thousand at a time
  gone = gone + redis.call('UNLINK', unpack(dead, first, math.min(first + 999, #dead)))
end
return {page[1], #names, gone, bytes, others, math.floor(clock_us() - began)}
