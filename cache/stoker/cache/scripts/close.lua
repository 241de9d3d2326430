#!lua flags=allow-oom
-- close.lua: before a sweep: choose the mark whose bans may retire, and refuse fills from before it (rule 10).
-- KEYS[1] ctl   KEYS[2] marks
-- ARGV[1] server   ARGV[2] digest   ARGV[3] least age of the mark in ms
-- Returns {mark, control record}; the mark is 0 while none is old enough. 0 if there is no good control record.
local c = parse(redis.call('GET', KEYS[1]))
if not c or not accepts(c, ARGV[1], ARGV[2]) then return 0 end
local now = now_ms()
local head = string.format('%.0f', c.head)
if not redis.call('ZSCORE', KEYS[2], head) then redis.call('ZADD', KEYS[2], now, head) end
local old = redis.call('ZRANGE', KEYS[2], now - tonumber(ARGV[3]), '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, 1)
local mark = math.min(tonumber(string.match(old[1] or '', '^%d+$') or 0), c.head)
if mark > c.closing then
  c.closing = mark
  redis.call('SET', KEYS[1], render(c))
end
return {string.format('%.0f', math.max(mark, c.floor)), render(c)}
