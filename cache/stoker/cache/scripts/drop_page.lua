#!lua flags=allow-oom
-- drop_page.lua: a page of a sweep where all bans are prefixes: unlink what is older than a ban that names it (rule 10).
-- KEYS[1] ctl; the entries are on the same server
-- ARGV[1] server   ARGV[2] digest   ARGV[3] cursor   ARGV[4] pattern of names   ARGV[5] names in a page, about
-- ARGV[6] incarnation of the bans, 8 bytes   and then for each ban: what the names begin with; its seq
-- Returns {next cursor, names seen, entries unlinked, bytes of their names, headers and payloads, names of those that
-- are not of this version and incarnation, for the caller to judge}. What goes is dead for good, whatever has become
-- of the ban log since: no control record is asked for.
local sub, read, pcall = string.sub, struct.unpack, redis.pcall
local bans, lengths = {}, {}
for i = 7, #ARGV, 2 do
  if not bans[ARGV[i]] then bans[ARGV[i]], lengths[#lengths + 1] = tonumber(ARGV[i + 1]), #ARGV[i] end
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
    local begin, tags, incarnation, seq, size = read('<c3xxxI2c8I8xxxxxxxxxxxxxxxxxxxxxxxxxxxxI4', head)
    if begin ~= 'Sk\1' or incarnation ~= ARGV[6] or seq > 9007199254740991 then others[#others + 1] = name
    elseif seq < newest then
      dead[#dead + 1] = name
      bytes = bytes + #name + 56 + tags + size
    end
  elseif head.err then
    if not string.find(head.err, 'WRONGTYPE', 1, true) then return head end
  elseif head ~= '' then others[#others + 1] = name end
end
local gone = 0
for first = 1, #dead, 1000 do  -- Lua passes on but some thousand at a time
  gone = gone + redis.call('UNLINK', unpack(dead, first, math.min(first + 999, #dead)))
end
return {page[1], #names, gone, bytes, others}
