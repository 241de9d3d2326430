#!lua flags=allow-oom
-- fence.lua: begin a new incarnation of the ban log, unless a good one stands (rules 5 and 6).
-- KEYS[1] ctl   KEYS[2] bans   KEYS[3] marks   KEYS[4] map, where it is on the same server
-- ARGV[1] server   ARGV[2] digest
-- ARGV[3] control record the caller cannot use, or ''   ARGV[4] incarnation that went backwards, hex, or ''
-- ARGV[5] random, 24 hex digits: the last 8 become the nonce   ARGV[6] the map that the caller knows, where it is here
-- Returns {control record that rules now, 1 if it was begun here}, or {nothing, 0} if that map rules no more: the
-- caller reads the map again. The incarnation is made here and from the time, so that running the same call twice is
-- one more flush and never the same incarnation again.
-- In a cluster the map is elsewhere. Then the record is a draft, which no server is named for, until admit.lua; one that
-- stands already, whoever began it, will do. Returns {record, 1 if it is a draft}. And one that expects this server, or
-- accepts none, is left for whoever is handing it over, unless ARGV[6] is '1': he has been waited for. Returns
-- {record, 2} then.
local drafts = #KEYS == 3
if not drafts and redis.call('GET', KEYS[4]) ~= ARGV[6] then return {false, 0} end
local raw = redis.call('GET', KEYS[1])
local c = parse(raw)
if drafts and c and c.digest == ARGV[2] and c.boots == draft_of(ARGV[1])
  and redis.call('ZSCORE', KEYS[2], sentinel_of(c)) then return {raw, 1} end
if drafts and c and ARGV[6] ~= '1' and string.sub(c.boots, 1, 1) == '>' then return {raw, 2} end -- of whatever map
if drafts and c and ARGV[6] ~= '1' and expects(c, ARGV[1], ARGV[2]) then
  c.boots = expected(ARGV[1])  -- who had it before is not to be believed either, should it be moved back
  raw = render(c)
  redis.call('SET', KEYS[1], raw)
  return {raw, 2}
end
if c and raw ~= ARGV[3] and c.inc ~= ARGV[4] and c.head < 9007199254740991 and accepts(c, ARGV[1], ARGV[2])
  and redis.call('ZSCORE', KEYS[2], sentinel_of(c)) then return {raw, 0} end
local time = redis.call('TIME')
local inc = string.sub(redis.sha1hex(ARGV[5] .. time[1] .. '.' .. time[2]), 1, 16)
c = {inc = inc, head = 1, nonce = string.sub(ARGV[5], -8), closing = 0, floor = 0, gen = '1',
     digest = ARGV[2], boots = drafts and draft_of(ARGV[1]) or ARGV[1]}
redis.call('DEL', KEYS[2], KEYS[3])
redis.call('ZADD', KEYS[2], 'inf', sentinel_of(c))
redis.call('ZADD', KEYS[3], now_ms(), 1)
raw = render(c)
redis.call('SET', KEYS[1], raw)
return {raw, 1}
