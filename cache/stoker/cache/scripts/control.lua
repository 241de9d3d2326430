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
