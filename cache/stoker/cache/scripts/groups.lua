-- groups.lua: for scripts that store many entries; put in by the loader.
--
-- Stores groups of entries of one TTL each, by MSETEX where the server knows it. From ARGV[at] on: how many groups;
-- then for each how many arguments follow, and those of MSETEX: how many entries, their keys and values by turns, and
-- 'PX' and the TTL in ms, if any. The keys stand where MSETEX wants them, for Lua is slow to move them; they have the
-- hash tag of the script's others. Leaves out the entries that are named in `but`, and returns their places.
local function store_groups(at, but)
  local together, left_out, place = not but, {}, 0
  local groups = tonumber(ARGV[at])
  at = at + 1
  for _ = 1, groups do
    local first, last = at + 1, at + tonumber(ARGV[at])
    local size = tonumber(ARGV[first])
    if together then
      local done = redis.pcall('MSETEX', unpack(ARGV, first, last))
      together = type(done) ~= 'table' or not done.err
    end
    if not together then
      local pairs_end = first + 2 * size
      for i = first + 1, pairs_end, 2 do
        if but and but[ARGV[i]] then table.insert(left_out, place + (i - first + 1) / 2)
        else redis.call('SET', ARGV[i], ARGV[i + 1], unpack(ARGV, pairs_end + 1, last)) end
      end
    end
    place = place + size
    at = last + 1
  end
  return left_out
end
