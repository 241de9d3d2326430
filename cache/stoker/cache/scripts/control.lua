-- control.lua: the control record, for every other script; put before their bodies by the loader.
--
-- A record reads 1:<incarnation>:<head>:<nonce>:<closing>:<floor>:<generation>:<digest>:<boot>[,<boot>...]
-- Every script gets ARGV[1] = id of the server process the caller is connected to, ARGV[2] = digest of the
-- caller's map, and answers with the control record where it refuses, so that the caller can catch up.
local function parse(raw)
  if not raw then return nil end
  local inc, head, nonce, closing, floor, gen, digest, boots =
    string.match(raw, '^1:(%x+):(%d+):(%x+):(%d+):(%d+):(%d+):(%x+):(.+)$')
  if not inc or #inc ~= 16 or #nonce ~= 8 then return nil end
  local c = {inc = inc, head = tonumber(head), nonce = nonce, closing = tonumber(closing),
             floor = tonumber(floor), gen = gen, digest = digest, boots = boots}
  if c.head < 1 or c.head > 9007199254740991 or c.closing > c.head or c.floor > c.head then return nil end
  return c
end

local function render(c)
  return string.format('1:%s:%.0f:%s:%.0f:%.0f:%s:%s:%s',
    c.inc, c.head, c.nonce, c.closing, c.floor, c.gen, c.digest, c.boots)
end

local function accepts(c, boot, digest)
  return c.digest == digest and string.find(',' .. c.boots .. ',', ',' .. boot .. ',', 1, true) ~= nil
end

-- In a hand-over the record names the server that is expected to take it over. That one is not accepted until vouch.lua.
local function expected(boot) return '>' .. boot end

local function expects(c, boot, digest) return accepts(c, expected(boot), digest) end

local function draft_of(boot) return '?' .. boot end

-- Sweeps that began before the servers changed must not retire anything: they compare the generation.
local function accept_only(c, boots)
  if c.boots == boots then return end
  c.boots, c.gen = boots, string.format('%.0f', tonumber(c.gen) + 1)
  redis.call('SET', KEYS[1], render(c))
end

local function sentinel_of(c) return 'i|' .. c.inc end

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- Entries that were deleted or set while batches are under way are noted in the list that those share, if there is one
-- (see begin.lua). One that has grown long is given up: what is under way then is not stored.
local MOST_WRITES = 10000
local function note_write(writes, entry)
  local n = redis.pcall('RPUSHX', writes, entry)
  if type(n) == 'table' or n > MOST_WRITES then redis.call('UNLINK', writes) end
end

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
